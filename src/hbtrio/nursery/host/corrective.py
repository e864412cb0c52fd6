"""What a host does by itself about a lost or ill instance, where no orchestrator is above it.

Each failure is held back for one interval (the brake: when many fail at once the host is the
problem), then its configured command is run, with a timeout, and at most so often per instance and
hour. Every decision is logged with its reason.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Mapping
from typing import Final

import trio

from hbtrio.config.host import CorrectiveCommands, expand
from hbtrio.fsm.heartbeat.table import HeartbeatState
from hbtrio.nursery.host.channel import Channel
from hbtrio.nursery.time_guard import sleep_until_on_time
from hbtrio.policy.mass_failure import Failure, FailureVerdict, MassFailures
from hbtrio.policy.quota import Quota
from hbtrio.policy.time_guard import CALM_S, OnTimeGuard
from hbtrio.system.runner import ProcessNotStarted, ProcessRunner
from hbtrio.wire.channel_codec import plain_text
from hbtrio.wire.vocabulary import CorrectiveAction

_log = logging.getLogger("hbtrio.corrective")

_HOUR_S: Final = 3600.0

#: Commands side by side; a `virsh` that hangs must not pile up by the hundred.
_PARALLEL: Final = 16

#: Instances whose commands are counted; the one longest without any goes first.
_COUNTED: Final = 100_000

#: A reason comes from a tenant; this much of it is passed on.
_REASON_BYTES: Final = 223


class HeartbeatingCount:
    """How many instances of a host are heartbeating now."""

    def __init__(self) -> None:
        self.count = 0

    def change(self, by: int) -> None:
        """So many more instances are heartbeating, or fewer if it is negative."""
        self.count += by


class Corrective:
    """Runs corrective commands.

    Args:
        nursery: runs them; its end ends those under way.
        commands: ``[corrective-commands]`` of the configuration.
        channels: of all instances, as they are at each moment.
        brake: the mass-failure brake.
        processes: runs the commands.
        heartbeating: how many instances are heartbeating.
        guard: the process's on-time guard.
    """

    def __init__(
        self,
        nursery: trio.Nursery,
        commands: CorrectiveCommands,
        channels: Mapping[str, Channel],
        brake: MassFailures,
        processes: ProcessRunner,
        heartbeating: HeartbeatingCount,
        guard: OnTimeGuard,
    ) -> None:
        self._nursery = nursery
        self._commands = commands
        self._channels = channels
        self._brake = brake
        self._processes = processes
        self._heartbeating = heartbeating
        self._guard = guard
        self._quotas: OrderedDict[str, Quota] = OrderedDict()
        self._limit = trio.CapacityLimiter(_PARALLEL)
        #: Commands run, and commands that failed, for status and metrics.
        self.ran = 0
        self.failed = 0

    def failure(self, uuid: str, action: CorrectiveAction, reason: str) -> None:
        """An instance was reported lost or ill."""
        channel = self._channels[uuid]
        now = trio.current_time()
        interval_s = channel.heartbeat.profile.interval_s
        # Those that were heartbeating before this failure, this instance included.
        total = self._heartbeating.count + (not channel.heartbeating)
        failure = Failure(uuid, now, interval_s, total)
        judge_at = self._brake.note(failure)
        if self._command(action):
            self._nursery.start_soon(self._correct, channel, failure, judge_at, action, reason)

    def _command(self, action: CorrectiveAction) -> tuple[str, ...]:
        match action:
            case CorrectiveAction.REBOOT:
                return self._commands.reboot
            case CorrectiveAction.STOP:
                return self._commands.stop
            case CorrectiveAction.LOG:
                return self._commands.log
            case _:
                return ()

    async def _correct(
        self,
        channel: Channel,
        failure: Failure,
        judge_at: float,
        action: CorrectiveAction,
        reason: str,
    ) -> None:
        uuid = channel.uuid
        lost = channel.heartbeat.state is HeartbeatState.LOST
        # After a freeze of this host, what they said during it is to be read first.
        await sleep_until_on_time(judge_at, self._guard, at_most_s=CALM_S)
        match self._brake.judge(failure):
            case FailureVerdict.HOLD_AND_ALARM:
                _log.critical(
                    "ALARM: too many instances failed within %g s of each other: the host itself "
                    "is suspected, no corrective command is run",
                    failure.interval_s,
                )
                return
            case FailureVerdict.HOLD:
                _log.error("%s: %s is held back by the mass-failure brake", uuid, action)
                return
            case FailureVerdict.ACT:
                pass
        async with self._limit:
            # Asked when its turn has come, however long it waited for that.
            if lost and channel.heartbeat.state is not HeartbeatState.LOST:
                state = channel.heartbeat.state.shown
                _log.info("%s: %s not run: it is %s now", uuid, action, state)
            elif not self._take(uuid):
                limit = self._commands.per_hour
                _log.error("%s: %s not run: %d in an hour are the limit", uuid, action, limit)
            else:
                await self._perform(channel, action, reason)

    async def _perform(self, channel: Channel, action: CorrectiveAction, reason: str) -> None:
        argv = expand(
            self._command(action),
            uuid=channel.uuid,
            reason=plain_text(reason, _REASON_BYTES),
            action=action,
        )
        _log.warning("%s: %s: running %s", channel.uuid, action, argv)
        # Before the command: it silences the VM in the middle of its work.
        what = f"corrective action {action}"
        if action is CorrectiveAction.REBOOT:
            channel.restarts(what)
        elif action is CorrectiveAction.STOP:
            channel.stops(what)
        self.ran += 1
        failed = "out of time"
        with trio.move_on_after(self._commands.timeout_s):
            try:
                result = await self._processes.run(argv)
            except ProcessNotStarted as error:
                failed = f"{error.path}: {error.reason}"
            else:
                if result.exit_code == 0:
                    _log.info("%s: %s done", channel.uuid, action)
                    return
                said = plain_text(result.stderr.decode("utf-8", "replace"), _REASON_BYTES)
                ended = f"signal {result.signal}" if result.signal else f"exit {result.exit_code}"
                failed = f"{ended}: {said}"
        self.failed += 1
        _log.error("%s: %s failed: %s", channel.uuid, action, failed)
        channel.call_off(what, f"the command failed: {failed}")

    def _take(self, uuid: str) -> bool:
        quota = self._quotas.pop(uuid, None) or Quota(self._commands.per_hour, _HOUR_S)
        self._quotas[uuid] = quota
        if len(self._quotas) > _COUNTED:
            self._quotas.popitem(last=False)
        return quota.take(trio.current_time())
