"""Judges when a health script that keeps running over its interval counts as ill health.

One run over its interval may be a busy moment. Several in a row mean that the script hangs, usually
on what it was written to check. A run proves nothing if this process was late meanwhile, because
the script was then delayed too: such a run neither counts nor ends the row.
"""

from __future__ import annotations

from hbtrio.policy.time_guard import OnTimeGuard


class HealthTimeouts:
    """Counts the runs in a row that outlived their interval while the process was on time.

    Args:
        limit: the runs in a row that count as ill health, at least 1.
        guard: the process's on-time guard.
    """

    def __init__(self, limit: int, guard: OnTimeGuard) -> None:
        self._limit = limit
        self._guard = guard
        self._late_ticks = guard.late_ticks
        self._in_a_row = 0

    def run_started(self) -> None:
        """Records the start of a run."""
        self._late_ticks = self._guard.late_ticks

    def run_ended(self) -> None:
        """Records that the run ended by itself, which ends the row."""
        self._in_a_row = 0

    def run_timed_out(self, now: float) -> bool:
        """Records that the run outlived its interval; returns whether that is ill health.

        Args:
            now: the time, on the guard's clock.
        """
        if self._guard.late_ticks == self._late_ticks and not self._guard.is_late(now):
            self._in_a_row += 1
        return self._in_a_row >= self._limit
