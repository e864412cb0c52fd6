"""Runs the guest's health script every interval; exit status and first line are the result."""

from __future__ import annotations

import logging
from collections.abc import Callable

import trio

from hbtrio.nursery.guest.scripts import ScriptAnswer, ScriptVerdict, run_script
from hbtrio.nursery.time_guard import sleep_until_on_time
from hbtrio.policy.health_merge import HealthStatus
from hbtrio.policy.health_timeouts import HealthTimeouts
from hbtrio.policy.time_guard import CALM_S, OnTimeGuard
from hbtrio.system.runner import ProcessRunner
from hbtrio.wire.vocabulary import CorrectiveAction

_log = logging.getLogger("hbtrio.health")


class HealthScript:
    """Runs HEALTH_CHECK_SCRIPT every HEALTH_CHECK_INTERVAL seconds.

    Args:
        path: the script; None for no script.
        interval_s: seconds between two starts, and the time limit of a run.
        processes: runs the script.
        timeouts: HEALTH_CHECK_TIMEOUTS, the runs in a row over their time limit that are ill
            health; at least 1.
        timeout_action: HEALTH_TIMEOUT_ACTION, requested for that.
    """

    def __init__(
        self,
        path: str | None,
        interval_s: float,
        processes: ProcessRunner,
        timeouts: int,
        timeout_action: CorrectiveAction,
    ) -> None:
        self._path = path
        self._interval_s = interval_s
        self._processes = processes
        self._timeouts = timeouts
        self._timeout_action = timeout_action
        #: Whether a run is in progress, which may time out.
        self.is_running = False

    async def run(
        self,
        on_answer: Callable[[ScriptAnswer], None],
        on_hung: Callable[[HealthStatus], None],
        guard: OnTimeGuard,
    ) -> None:
        """Runs the script every interval until cancelled, which ends a running script.

        Args:
            on_answer: called with each OK or REFUSED; not called for a script without a verdict
                (killed, missing, timed out).
            on_hung: called with an ill health for each timeout from the limit on.
            guard: a run times out only while this process is on time.
        """
        if self._path is None:
            return
        timeouts = HealthTimeouts(self._timeouts, guard)
        while True:
            async with trio.open_nursery() as nursery:
                timeouts.run_started()
                nursery.start_soon(self._run_once, self._path, on_answer)
                # From the actual start, not from when it was due: a run after a freeze, or after a
                # run that was slow to end, has its whole interval, too.
                due = trio.current_time() + self._interval_s
                # No source: only the reading itself lets the run's end through.
                at_most_s = self._interval_s + CALM_S
                await sleep_until_on_time(due, guard, at_most_s=at_most_s, sources=())
                if not nursery.child_tasks:
                    timeouts.run_ended()
                else:
                    _log.error(
                        "health script %s did not end within %g s", self._path, self._interval_s
                    )
                    if timeouts.run_timed_out(trio.current_time()):
                        on_hung(self._hung)
                nursery.cancel_scope.cancel()

    @property
    def _hung(self) -> HealthStatus:
        # The limit, not the present count: a reason that changes with every run reads as news.
        times = f", {self._timeouts} times in a row" if self._timeouts > 1 else ""
        reason = f"health script did not end within {self._interval_s:g} s{times}"
        return HealthStatus(False, self._timeout_action, reason)

    async def _run_once(self, path: str, on_answer: Callable[[ScriptAnswer], None]) -> None:
        self.is_running = True
        try:
            answer = await run_script(self._processes, [path])
        finally:
            self.is_running = False
        if answer.verdict is not ScriptVerdict.NO_ANSWER:
            on_answer(answer)
