"""Runs corrective commands for lost and ill instances, on a host without an orchestrator.

Each failure is held back for one heartbeat interval by the mass failure guard: if many instances
fail at once, the host is the problem. Then the configured command is run, with a timeout, and at
most ``per_hour`` times per instance. Every decision is logged with its reason.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Mapping
from functools import partial
from typing import Final

import attrs
import trio

from hbtrio.config.host import CorrectiveCommands, expand
from hbtrio.fsm.heartbeat.table import HeartbeatState
from hbtrio.nursery.host.channel import Channel
from hbtrio.nursery.time_guard import sleep_until_on_time, take_in
from hbtrio.nursery.windows import within
from hbtrio.policy.mass_failure import Failure, FailureVerdict, MassFailures
from hbtrio.policy.quota import Quota
from hbtrio.policy.time_guard import CALM_S, OnTimeGuard
from hbtrio.system.runner import ProcessNotStarted, ProcessRunner
from hbtrio.wire.channel_codec import plain_text
from hbtrio.wire.vocabulary import CorrectiveAction

_log = logging.getLogger("hbtrio.corrective")

_HOUR_S: Final = 3600.0

#: Less than this is no time to wait, in seconds.
_ROUNDING_S: Final = 1e-6

#: Times that a failure is held, if the host is late again each time.
_HOLDS: Final = 3

#: Commands at once; hung `virsh` processes must not pile up by the hundred.
_PARALLEL: Final = 16

#: Instances whose commands are counted; beyond it the one with the oldest command is forgotten.
_COUNTED: Final = 100_000

#: Bytes of a reason that are passed to a command; reasons contain text from tenants.
_REASON_BYTES: Final = 223


class HeartbeatingCount:
    """Counts the heartbeating instances of a host."""

    def __init__(self) -> None:
        self.count = 0

    def change(self, by: int) -> None:
        """Adds ``by``, which may be negative."""
        self.count += by


class Corrective:
    """Runs corrective commands.

    Args:
        nursery: runs the commands; its end terminates those in progress.
        commands: ``[corrective-commands]`` of the configuration.
        channels: the channels of all instances, by uuid; a live view.
        mass_failures: the mass failure guard.
        processes: runs the commands.
        heartbeating: counts the heartbeating instances.
        guard: the process's on-time guard.
        failure_threshold: how many challenges in a row may be missed without a loss.
    """

    def __init__(
        self,
        nursery: trio.Nursery,
        commands: CorrectiveCommands,
        channels: Mapping[str, Channel],
        mass_failures: MassFailures,
        processes: ProcessRunner,
        heartbeating: HeartbeatingCount,
        guard: OnTimeGuard,
        failure_threshold: int,
    ) -> None:
        self._nursery = nursery
        self._commands = commands
        self._channels = channels
        self._mass_failures = mass_failures
        self._processes = processes
        self._heartbeating = heartbeating
        self._guard = guard
        self._failure_threshold = failure_threshold
        self._quotas: OrderedDict[str, Quota] = OrderedDict()
        self._limit = trio.CapacityLimiter(_PARALLEL)
        #: Commands run, and commands that failed, for status and metrics.
        self.ran = 0
        self.failed = 0

    def failure(self, uuid: str, action: CorrectiveAction, reason: str) -> None:
        """Handles a reported loss or ill health; runs the configured command, if any.

        Args:
            uuid: the instance; it must have a channel.
            action: the corrective action that the guest requested.
            reason: the reason of the report.
        """
        channel = self._channels[uuid]
        interval_s = channel.heartbeat.profile.interval_s
        # The instances that were heartbeating before this failure, including this one.
        total = self._heartbeating.count + (not channel.heartbeating)
        failure = Failure(uuid, self._ran_s(), interval_s, total)
        judge_at = self._mass_failures.note(failure)
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
        failure = await self._hold(channel, failure, judge_at)
        match self._mass_failures.judge(failure):
            case FailureVerdict.HOLD_AND_ALARM:
                _log.critical(
                    "ALARM: too many instances failed within %g s of each other: the host itself "
                    "is suspected, no corrective command is run",
                    failure.interval_s,
                )
                return
            case FailureVerdict.HOLD:
                text = "%s: %s is held back by the mass failure guard%s"
                _log.error(text, uuid, action, channel.name_suffix)
                return
            case FailureVerdict.ACT:
                pass
        async with self._limit:
            # Checked here, because the instance may have changed while this command waited its
            # turn, and this host may not have run meanwhile.
            await take_in([channel.take_in])
            if lost and channel.heartbeat.state is not HeartbeatState.LOST:
                state = channel.heartbeat.state.shown
                text = "%s: %s not run: the instance is %s now%s"
                _log.info(text, uuid, action, state, channel.name_suffix)
            elif not self._take(uuid):
                limit = self._commands.per_hour
                text = "%s: %s not run: limit reached: %d per hour%s"
                _log.error(text, uuid, action, limit, channel.name_suffix)
            else:
                await self._perform(channel, action, reason)

    async def _hold(self, channel: Channel, failure: Failure, judge_at: float) -> Failure:
        """Waits until all that failed together are known; returns the failure, as of that time.

        A host that was late took back the misses of the others that failed with this instance. So
        it holds the failure until they would be lost too, and counts them all.
        """
        lost_after_s = (self._failure_threshold + 2) * failure.interval_s
        late_ticks = self._guard.late_ticks
        for _ in range(_HOLDS):
            while (left_s := judge_at - self._ran_s()) > _ROUNDING_S:
                await sleep_until_on_time(
                    trio.current_time() + left_s,
                    self._guard,
                    at_most_s=CALM_S,
                    sources=[channel.take_in],
                )
            if self._guard.late_ticks == late_ticks:
                break
            late_ticks = self._guard.late_ticks
            judge_at = self._ran_s() + lost_after_s
            # Since it was late, which was at least CALM_S ago.
            failure = attrs.evolve(failure, at=judge_at, interval_s=CALM_S + lost_after_s)
            self._mass_failures.note(failure)
        return failure

    def _ran_s(self) -> float:
        """Returns the time without that in which this host did not run: failures are timed by it.

        While the host does not run, nobody fails in its eyes, nor is there time for it.
        """
        now = trio.current_time()
        return now - self._guard.stalled_s(now)

    async def _perform(self, channel: Channel, action: CorrectiveAction, reason: str) -> None:
        argv = expand(
            self._command(action),
            uuid=channel.uuid,
            reason=plain_text(reason, _REASON_BYTES),
            action=action,
        )
        _log.warning("%s: %s: running %s%s", channel.uuid, action, argv, channel.name_suffix)
        # Before the command, because the instance falls silent while the command runs.
        what = f"corrective action {action}"
        if action is CorrectiveAction.REBOOT:
            channel.outages.restarts(what)
        elif action is CorrectiveAction.STOP:
            channel.outages.stops(what)
        self.ran += 1
        failed = f"timed out after {self._commands.timeout_s:g} s"
        run = partial(self._processes.run, argv)
        try:
            result = await within(self._commands.timeout_s, self._guard, run)
        except trio.TooSlowError:
            pass
        except ProcessNotStarted as error:
            failed = f"{error.path}: {error.reason}"
        else:
            if result.exit_code == 0:
                _log.info("%s: %s done%s", channel.uuid, action, channel.name_suffix)
                return
            stderr = plain_text(result.stderr.decode("utf-8", "replace"), _REASON_BYTES)
            ended = f"signal {result.signal}" if result.signal else f"exit {result.exit_code}"
            failed = f"{ended}: {stderr}"
        self.failed += 1
        _log.error("%s: %s failed: %s%s", channel.uuid, action, failed, channel.name_suffix)
        channel.outages.call_off(what, f"the command failed: {failed}")

    def _take(self, uuid: str) -> bool:
        quota = self._quotas.pop(uuid, None) or Quota(self._commands.per_hour, _HOUR_S)
        self._quotas[uuid] = quota
        if len(self._quotas) > _COUNTED:
            self._quotas.popitem(last=False)
        return quota.take(trio.current_time())
