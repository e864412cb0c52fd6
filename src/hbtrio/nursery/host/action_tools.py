"""What all actions of a host share."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import attrs

from hbtrio.nursery.host.channel import Channel
from hbtrio.nursery.host.domains import Domains
from hbtrio.nursery.host.environment import HostEnvironment
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

    @classmethod
    def of(
        cls,
        channels: Mapping[str, Channel],
        domains: Domains,
        environment: HostEnvironment,
        timeout_s: float,
        guard: OnTimeGuard,
    ) -> ActionTools:
        """Makes them of the parts of a host."""
        return cls(
            channel_of=channels.get,
            sightings=Sightings(channels.get, domains, guard),
            domain_id=domains.id_of,
            processes=environment.processes,
            timeout_s=timeout_s,
            guard=guard,
            memory=environment.memory,
        )
