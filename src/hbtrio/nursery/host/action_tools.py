"""What all actions of a host share."""

from __future__ import annotations

from collections.abc import Callable

import attrs

from hbtrio.nursery.host.channel import Channel
from hbtrio.nursery.host.memory import HostMemory
from hbtrio.nursery.host.sightings import Sightings
from hbtrio.policy.time_guard import OnTimeGuard
from hbtrio.system.runner import ProcessRunner


@attrs.frozen
class ActionTools:
    """What all actions of a host share.

    Args:
        channel_of: returns an instance's current channel, or None; an instance that restarts or
            moves may get a new channel.
        sightings: what is seen of the VMs.
        domain_id: returns libvirt's id of an instance's domain; -1 if it is unknown or shut off.
        processes: runs the commands.
        timeout_s: how long a command may take, in seconds.
        guard: the process's on-time guard.
        memory: remembers the step that each action is at.
    """

    channel_of: Callable[[str], Channel | None]
    sightings: Sightings
    domain_id: Callable[[str], int]
    processes: ProcessRunner
    timeout_s: float
    guard: OnTimeGuard
    memory: HostMemory
