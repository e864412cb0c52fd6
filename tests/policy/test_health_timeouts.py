"""How many runs over their interval are ill health, and which of them count."""

from __future__ import annotations

import pytest

from hbtrio.policy.health_timeouts import HealthTimeouts
from hbtrio.policy.time_guard import CALM_S, LATE_S, TICK_S, OnTimeGuard

RUN_S = 10.0


class Clock:
    """Runs of a script that hangs, with a guard that is ticked on time unless a test says so."""

    def __init__(self, limit: int) -> None:
        self.now = 0.0
        self.guard = OnTimeGuard(0.0)
        self.timeouts = HealthTimeouts(limit, self.guard)

    def pass_s(self, seconds: float) -> None:
        for _ in range(round(seconds / TICK_S)):
            self.now += TICK_S
            self.guard.tick(self.now)

    def stop_s(self, seconds: float) -> None:
        """The process is stopped; its next tick comes late."""
        self.now += seconds
        self.guard.tick(self.now)

    def hang(self, stopped_s: float = 0.0) -> bool:
        self.timeouts.run_started()
        if stopped_s:
            self.stop_s(stopped_s)
        self.pass_s(RUN_S)
        return self.timeouts.run_timed_out(self.now)

    def end(self) -> None:
        self.timeouts.run_started()
        self.timeouts.run_ended()


@pytest.mark.parametrize("limit", [1, 2, 3])
def test_the_limit_is_the_first_ill_run_and_all_after_it_are_ill(limit: int) -> None:
    clock = Clock(limit)
    assert [clock.hang() for _ in range(limit + 2)] == [False] * (limit - 1) + [True] * 3


def test_a_run_that_ends_starts_the_row_again() -> None:
    clock = Clock(2)
    assert not clock.hang()
    clock.end()
    assert [clock.hang(), clock.hang()] == [False, True]
    clock.end()
    assert [clock.hang(), clock.hang()] == [False, True]


# A stop that ends TICK_S + LATE_S after the last tick is the longest that is on time.
@pytest.mark.parametrize(("stopped_s", "counts"), [(0.99, True), (1.01, False), (3600.0, False)])
def test_a_run_during_which_the_process_was_late_does_not_count(
    stopped_s: float, counts: bool
) -> None:
    assert TICK_S + LATE_S == 1.0
    clock = Clock(1)
    assert clock.hang(stopped_s) is counts


def test_a_late_run_neither_counts_nor_ends_the_row() -> None:
    clock = Clock(2)
    assert not clock.hang()
    assert not clock.hang(stopped_s=5.0)
    assert clock.hang()


def test_a_late_run_after_the_limit_is_still_ill() -> None:
    clock = Clock(1)
    assert clock.hang()
    assert clock.hang(stopped_s=5.0)


def test_a_run_that_starts_late_counts_if_the_process_is_calm_at_its_end() -> None:
    clock = Clock(1)
    clock.stop_s(5.0)
    clock.timeouts.run_started()
    clock.pass_s(CALM_S - TICK_S)
    assert not clock.timeouts.run_timed_out(clock.now)
    clock.pass_s(2 * TICK_S)
    assert clock.timeouts.run_timed_out(clock.now)


def test_a_tick_that_is_overdue_at_the_end_is_late_too() -> None:
    clock = Clock(1)
    clock.timeouts.run_started()
    clock.pass_s(RUN_S)
    assert not clock.timeouts.run_timed_out(clock.now + 1.01)
