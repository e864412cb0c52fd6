"""What a correction works with: settings, commands, libvirt, and what the whole host shares."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Final, Protocol

import attrs
import trio

from hbtrio.config.host import CorrectiveCommands, CorrectiveSettings
from hbtrio.fsm.corrective import Known, Picture
from hbtrio.nursery.host.brake import Brake
from hbtrio.nursery.host.instance_groups import HostGroups
from hbtrio.nursery.host.instance_holds import HostHolds
from hbtrio.nursery.host.instance_policies import InstancePolicies
from hbtrio.nursery.host.libvirt_watch import Look, Source
from hbtrio.nursery.host.memory import HostMemory
from hbtrio.nursery.host.owners import Owners
from hbtrio.policy.mass_failure import MassFailures
from hbtrio.policy.quota import Quota
from hbtrio.policy.time_guard import OnTimeGuard
from hbtrio.system.runner import ProcessRunner
from hbtrio.wire.vocabulary import CorrectiveAction

#: Seconds that libvirt has for its answer before a corrective command.
LOOK_S: Final = 2.0


class Libvirt(Protocol):
    """What corrections ask of libvirt."""

    async def look(self, uuids: Collection[str], within_s: float) -> Mapping[str, Look]:
        """Asks for the present state of some instances; never raises."""

    def restarts(self, uuid: str) -> int | None:
        """How often libvirt reported a reset, reboot or start of an instance; None: no idea."""

    def changed_after(self, uuid: str) -> float | None:
        """When it was not in its present state yet, on trio's clock; None: no idea."""

    async def traffic(self, uuid: str) -> int | None:
        """How many disk requests and sent packets an instance has made; None: no answer."""


class HeartbeatingCount:
    """Counts the heartbeating instances of a host."""

    def __init__(self) -> None:
        self.count = 0

    def change(self, by: int) -> None:
        """Adds ``by``, which may be negative."""
        self.count += by


@attrs.define
class CommandCounts:
    """Commands run, and commands that failed, for status and metrics."""

    ran: int = 0
    failed: int = 0


@attrs.frozen
class CorrectionTools:
    """What all corrections of a host share.

    Args:
        commands: ``[corrective-commands]`` of the configuration.
        settings: ``[corrective]``.
        failure_threshold: how many challenges in a row may be missed without a loss.
        has_agent: whether an agent decides whose losses count.
        processes: runs the commands.
        guard: the process's on-time guard.
        libvirt: knows whether a VM runs.
        owners: who owns each instance.
        brake: keeps commands back after a mass failure.
        mass_failures: recognises mass failures.
        heartbeating: counts the heartbeating instances.
        quota_of: returns the quota of an instance.
        memory: remembers which commands count.
        policies: what the administrator allows for each instance.
        groups: how many instances of a group may be down at once.
        holds: which instances operators have put on hold.
        limit: commands at once.
    """

    commands: CorrectiveCommands
    settings: CorrectiveSettings
    failure_threshold: int
    has_agent: bool
    processes: ProcessRunner
    guard: OnTimeGuard
    libvirt: Libvirt
    owners: Owners
    brake: Brake
    mass_failures: MassFailures
    heartbeating: HeartbeatingCount
    quota_of: Callable[[str], Quota]
    memory: HostMemory
    policies: InstancePolicies
    groups: HostGroups
    holds: HostHolds
    limit: trio.CapacityLimiter
    counts: CommandCounts = attrs.field(factory=CommandCounts)

    def command(self, action: CorrectiveAction, *, starts_gone: bool = False) -> tuple[str, ...]:
        """Returns what is run for an action; empty for nothing."""
        match action:
            case CorrectiveAction.REBOOT:
                return self.commands.reboot_gone if starts_gone else self.commands.reboot
            case CorrectiveAction.STOP:
                return self.commands.stop
            case CorrectiveAction.LOG:
                return self.commands.log
            case _:
                return ()

    def picture(self, uuid: str, action: CorrectiveAction, quota: Quota) -> Picture:
        """Returns what is known of an instance before anything is asked.

        Args:
            uuid: the instance.
            action: what its guest asks for.
            quota: that of the instance.
        """
        policy, now = self.policies.of(uuid), trio.current_time()
        used_up = quota.free_at(now) > now
        return Picture(
            action=action,
            policy=self.policies.corrective(uuid),
            held=self.holds.hindrance(uuid),
            owner=self.owners.words(uuid),
            braked=self.brake.closed,
            limit=f"limit reached: {policy.per_hour} per hour" if used_up else "",
            group=self.groups.hindrance(uuid, action, now, now),
            starts_gone=bool(self.commands.reboot_gone),
            asks_traffic=policy.no_io_for_s > 0,
            asks_confirm=bool(self.settings.confirm),
        )

    async def look(self, uuid: str) -> Known:
        """Asks libvirt about one instance, for ``LOOK_S`` at most."""
        look = (await self.libvirt.look([uuid], LOOK_S))[uuid]
        return Known(look.standing, look.words, silent=look.source is Source.SILENCE)
