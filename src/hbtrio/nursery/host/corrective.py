"""Takes the losses and ill health of a host's instances, and has each corrected.

One correction an instance: a newer failure replaces one whose command does not run. Each is a task,
see :mod:`hbtrio.nursery.host.correction_run`.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Final

import attrs
import trio

from hbtrio.config.host import CorrectiveCommands, CorrectiveSettings
from hbtrio.fsm.corrective import Known, NotNow
from hbtrio.fsm.foresight import Foresight, foresee
from hbtrio.fsm.heartbeat.table import HEARTBEATING, HeartbeatState
from hbtrio.nursery.host.brake import Brake
from hbtrio.nursery.host.channel import Channel
from hbtrio.nursery.host.correction_run import CorrectionRun
from hbtrio.nursery.host.correction_tools import CorrectionTools, HeartbeatingCount, Libvirt
from hbtrio.nursery.host.instance_groups import HostGroups
from hbtrio.nursery.host.instance_holds import HostHolds
from hbtrio.nursery.host.instance_policies import InstancePolicies
from hbtrio.nursery.host.memory import HostMemory
from hbtrio.nursery.host.owners import Owners
from hbtrio.nursery.supervisor import Supervisor
from hbtrio.policy.mass_failure import MassFailures
from hbtrio.policy.quota import Quota
from hbtrio.policy.time_guard import OnTimeGuard
from hbtrio.store.host_records import HoldRecord, Moment, Recollection
from hbtrio.system.runner import ProcessRunner
from hbtrio.wire.vocabulary import CorrectiveAction

_log = logging.getLogger("hbtrio.corrective")

_HOUR_S: Final = 3600.0

#: The most commands in an hour that can be set for an instance.
_PER_HOUR_MAX: Final = 3600

#: Commands at once; hung `virsh` processes must not pile up by the hundred.
_PARALLEL: Final = 16

#: The kind of the holds that remember for whom something is still to be done.
_PENDING: Final = "correction"

#: States of an instance that is not silent: nothing is missed, and nothing is to be done.
_NOT_SILENT: Final = HEARTBEATING | {HeartbeatState.STOPPED, HeartbeatState.ABSENT}

#: Instances whose commands are counted; beyond it the one with the oldest command is forgotten.
_COUNTED: Final = 100_000


class Corrective:
    """Corrects failed instances.

    Args:
        nursery: runs the corrections; its end terminates those in progress.
        commands: ``[corrective-commands]`` of the configuration.
        settings: ``[corrective]``.
        channels: the channels of all instances, by uuid; a live view.
        mass_failures: the mass failure guard.
        processes: runs the commands.
        heartbeating: counts the heartbeating instances.
        guard: the process's on-time guard.
        failure_threshold: how many challenges in a row may be missed without a loss.
        libvirt: knows whether a VM runs.
        owners: who owns each instance.
        memory: remembers which commands count across restarts.
        has_agent: whether an agent decides whose losses count.
        policies: what the administrator allows for each instance.
        groups: how many instances of a group may be down at once.
        holds: which instances operators have put on hold.
        awaits: whether an instance without a channel may still get one after the host's restart.
    """

    def __init__(
        self,
        nursery: trio.Nursery,
        commands: CorrectiveCommands,
        settings: CorrectiveSettings,
        channels: Mapping[str, Channel],
        mass_failures: MassFailures,
        processes: ProcessRunner,
        heartbeating: HeartbeatingCount,
        guard: OnTimeGuard,
        failure_threshold: int,
        libvirt: Libvirt,
        owners: Owners,
        memory: HostMemory,
        supervisor: Supervisor,
        policies: InstancePolicies,
        groups: HostGroups,
        holds: HostHolds,
        awaits: Callable[[str], bool],
        *,
        has_agent: bool,
    ) -> None:
        self._nursery = nursery
        self._channels = channels
        self._supervisor = supervisor
        self._policies = policies
        self._awaits = awaits
        self._quotas: OrderedDict[str, Quota] = OrderedDict()
        self._runs: dict[str, CorrectionRun] = {}
        #: Those that will never do anything, until their instances are back or gone.
        self._given_up: dict[str, CorrectionRun] = {}
        self.brake = Brake(mass_failures, self._is_silent, memory)
        self._tools = CorrectionTools(
            commands=commands,
            settings=settings,
            failure_threshold=failure_threshold,
            has_agent=has_agent,
            processes=processes,
            guard=guard,
            libvirt=libvirt,
            owners=owners,
            brake=self.brake,
            mass_failures=mass_failures,
            heartbeating=heartbeating,
            quota_of=self._quota_of,
            memory=memory,
            policies=policies,
            groups=groups,
            holds=holds,
            limit=trio.CapacityLimiter(_PARALLEL),
        )

    def recall(self, recollection: Recollection, moment: Moment) -> frozenset[str]:
        """Takes what an earlier run of the host has left.

        Returns the lost instances to which nothing was done yet: they fail anew if they stay
        silent.
        """
        now = trio.current_time()
        for run in recollection.corrective_runs:  # the oldest first
            self._quota_of(run.uuid).restore(now - moment.since(run.at))
        pending = {hold.uuid for hold in recollection.holds if hold.kind == _PENDING}
        for uuid in sorted(pending - self._runs.keys()):
            self._tools.memory.release(_PENDING, uuid)
        return self.brake.recall(recollection.holds) | pending

    @property
    def ran(self) -> int:
        """Commands run, for status and metrics."""
        return self._tools.counts.ran

    @property
    def failed(self) -> int:
        """Commands that failed, for status and metrics."""
        return self._tools.counts.failed

    def failure(
        self, uuid: str, action: CorrectiveAction, reason: str, *, seen: bool = True
    ) -> None:
        """Handles a reported loss or ill health; runs the configured command, if any.

        Args:
            uuid: the instance; it must have a channel.
            action: the corrective action that the guest requested.
            reason: the reason of the report.
            seen: whether this daemon saw it happen; it may remember it from before its restart.
        """
        channel, before = self._channels[uuid], self._runs.get(uuid)
        run = CorrectionRun(self._tools, channel, action, reason, seen=seen)
        if before is not None and not before.running:
            if before.is_same_illness(run):
                return  # a guest repeats it every minute
            before.scope.cancel()
        if run.has_command:
            self._runs[uuid] = run
            self._given_up.pop(uuid, None)
            if run.is_of_a_loss:
                memory = self._tools.memory
                memory.hold(HoldRecord(_PENDING, uuid, reason, memory.moment.epoch_s))
            self._nursery.start_soon(self._run, uuid, run)

    @property
    def running(self) -> tuple[str, ...]:
        """The instances for which a command runs, by uuid."""
        return tuple(uuid for uuid, run in self._runs.items() if run.running)

    def why_not(self, uuid: str) -> NotNow | None:
        """Returns why nothing is done about a failed instance at present; None: nothing hinders."""
        run = self._runs.get(uuid) or self._given_up.get(uuid)
        return None if run is None else run.correction.why

    def command(self, action: CorrectiveAction) -> tuple[str, ...]:
        """Returns what is run for an action; empty for nothing."""
        return self._tools.command(action)

    @property
    def is_dry(self) -> bool:
        """Whether commands are only reported, not run."""
        return self._tools.settings.dry_run

    def quota_of(self, uuid: str) -> Quota:
        """Returns the quota of an instance, to be read only."""
        per_hour = self._policies.of(uuid).per_hour
        quota = self._quotas.get(uuid) or Quota(per_hour, _HOUR_S)
        quota.count = per_hour
        return quota

    def foresee(self, uuid: str, action: CorrectiveAction, known: Known | None) -> Foresight:
        """Returns what would follow from a failure of an instance now.

        Args:
            uuid: the instance.
            action: what its guest asks for.
            known: what libvirt's silence means; None if it answers, or is not in use.
        """
        picture = self._tools.picture(uuid, action, self.quota_of(uuid))
        return foresee(attrs.evolve(picture, known=known))

    def changed(self, uuid: str) -> None:
        """Handles a change of an instance: it may be back."""
        if (run := self._runs.get(uuid)) is not None:
            run.changed()
        if (run := self._given_up.get(uuid)) is not None and not run.stands:
            del self._given_up[uuid]
        self.brake.changed(uuid)

    def take_over(self, uuid: str) -> None:
        """Ends the command that runs for an instance, for an operator's action."""
        if (run := self._runs.get(uuid)) is not None and run.running:
            run.take_over()

    async def _run(self, uuid: str, run: CorrectionRun) -> None:
        try:
            await run.run()
            if self._runs.get(uuid) is run:  # the host's end is not its end
                self._tools.memory.release(_PENDING, uuid)
        except Exception:  # noqa: BLE001 - one correction's programming error must not end the host
            self._supervisor.count_crash()
            _log.exception("%s: the corrective action failed", uuid)
        finally:
            if self._runs.get(uuid) is run:
                del self._runs[uuid]
                if run.stands and run.correction.why is not None:
                    self._given_up[uuid] = run

    def _is_silent(self, uuid: str) -> bool:
        channel = self._channels.get(uuid)
        if channel is None:
            return self._awaits(uuid)
        return channel.heartbeat.state not in _NOT_SILENT

    def _quota_of(self, uuid: str) -> Quota:
        per_hour = self._policies.of(uuid).per_hour
        quota = self._quotas.pop(uuid, None) or Quota(per_hour, _HOUR_S, _PER_HOUR_MAX)
        quota.count = per_hour
        self._quotas[uuid] = quota
        if len(self._quotas) > _COUNTED:
            self._quotas.popitem(last=False)
        return quota
