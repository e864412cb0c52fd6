"""What all actions of a host share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

import attrs

from hbtrio.fsm.action import Action, ActionState
from hbtrio.nursery.host.channel import Channel
from hbtrio.nursery.host.domains import Domains
from hbtrio.nursery.host.environment import HostEnvironment
from hbtrio.nursery.host.memory import HostMemory
from hbtrio.nursery.host.sightings import Sightings
from hbtrio.policy.profile import Profile
from hbtrio.policy.time_guard import OnTimeGuard
from hbtrio.store.host_records import ActionRecord
from hbtrio.system.runner import ProcessRunner
from hbtrio.wire.vocabulary import EVENT_TABLE


class ActionDrains(Protocol):
    """The drains that actions may be part of."""

    def action_stepped(self, record: ActionRecord) -> None:
        """Takes the step that an action begins."""

    def planned_at(self, action: ActionRecord) -> int:
        """Returns when a planned action is forced, in seconds since the epoch; 0 for none."""


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
        drains: is told of each step of an action, before the step is stored.
    """

    channel_of: Callable[[str], Channel | None]
    sightings: Sightings
    domain_id: Callable[[str], int]
    processes: ProcessRunner
    timeout_s: float
    guard: OnTimeGuard
    memory: HostMemory
    drains: ActionDrains

    @classmethod
    def of(
        cls,
        channels: Mapping[str, Channel],
        domains: Domains,
        environment: HostEnvironment,
        timeout_s: float,
        guard: OnTimeGuard,
        drains: ActionDrains,
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
            drains=drains,
        )

    def bound_s(self, uuid: str, action: Action, down_s: float) -> float:
        """Returns how long the present step of an action may take, in seconds.

        Args:
            uuid: its instance.
            action: its machine.
            down_s: how long the VM may take to be down.
        """
        channel = self.channel_of(uuid)
        profile = Profile() if channel is None else channel.heartbeat.profile
        match action.state:
            case ActionState.VOTING:
                return profile.vote_s
            case ActionState.PREPARING if action.before is not None:
                return profile.window_s(EVENT_TABLE[action.before].notice)
            case ActionState.PERFORMING:
                return self.timeout_s
            case ActionState.AWAITING:
                return profile.restart_s
            case ActionState.GOING_DOWN:
                return down_s
        return profile.resume_notice_s
