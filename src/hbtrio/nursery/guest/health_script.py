"""The guest's health script: run every interval, judged by its exit status and first line."""

from __future__ import annotations

import logging
from collections.abc import Callable

import trio

from hbtrio.nursery.guest.scripts import ScriptAnswer, ScriptVerdict, run_script
from hbtrio.nursery.time_guard import sleep_until_on_time
from hbtrio.policy.time_guard import CALM_S, OnTimeGuard
from hbtrio.system.runner import ProcessRunner

_log = logging.getLogger("hbtrio.health")


class HealthScript:
    """Runs HEALTH_CHECK_SCRIPT every HEALTH_CHECK_INTERVAL seconds.

    Args:
        path: the script, or None for no script.
        interval_s: seconds between two starts; also how long a run may take.
        processes: runs it.
    """

    def __init__(self, path: str | None, interval_s: float, processes: ProcessRunner) -> None:
        self._path = path
        self._interval_s = interval_s
        self._processes = processes

    async def run(self, on_answer: Callable[[ScriptAnswer], None], guard: OnTimeGuard) -> None:
        """Runs until cancelled, which ends a script under way.

        Args:
            on_answer: called with each verdict, OK or REFUSED: a script that gives none (killed,
                missing, out of time) changes nothing.
            guard: a run is out of time only if this process was on time itself.
        """
        if self._path is None:
            return
        while True:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._run_once, self._path, on_answer)
                # From this start, not from when it was due: a run after a freeze, or after one that
                # would not die, has its whole interval too.
                due = trio.current_time() + self._interval_s
                await sleep_until_on_time(due, guard, at_most_s=self._interval_s + CALM_S)
                if nursery.child_tasks:
                    _log.error("%s did not end within %g s", self._path, self._interval_s)
                nursery.cancel_scope.cancel()

    async def _run_once(self, path: str, on_answer: Callable[[ScriptAnswer], None]) -> None:
        answer = await run_script(self._processes, [path])
        if answer.verdict is not ScriptVerdict.NO_ANSWER:
            on_answer(answer)
