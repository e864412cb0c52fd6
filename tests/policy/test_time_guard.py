"""When a process counts as late: a tick more than 800 ms late, and two calm seconds after it."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hbtrio.policy.time_guard import (
    BEHIND_S,
    CALM_S,
    FAR_S,
    LATE_S,
    REST_S,
    TICK_S,
    OnTimeGuard,
)


def ticked(guard: OnTimeGuard, start: float, end: float) -> None:
    """Ticks on time from one tick of the guard to the next, up to ``end``."""
    for number in range(1, round((end - start) / TICK_S) + 1):
        guard.tick(start + number * TICK_S)


def test_the_numbers_of_the_protocol() -> None:
    assert (TICK_S, LATE_S, CALM_S) == (0.2, 0.8, 2.0)


def test_a_process_that_has_just_started_is_on_time() -> None:
    guard = OnTimeGuard(50.0)
    assert not guard.is_late(50.0)
    assert guard.calm_at(50.0) == 50.0
    assert guard.late_ticks == 0


def test_a_tick_says_when_the_next_is_due() -> None:
    guard = OnTimeGuard(0.0)
    assert guard.tick(0.2) == 0.4
    assert guard.tick(0.9) == 1.1


def test_a_resting_process_ticks_five_times_more_rarely_and_is_judged_by_that() -> None:
    guard = OnTimeGuard(0.0)
    assert guard.tick(0.2, resting=True) == 0.2 + REST_S == 1.2
    assert not guard.is_late(2.0)
    assert guard.is_late(2.001)
    assert guard.tick(2.0) == 2.2
    assert guard.late_ticks == 0


@pytest.mark.parametrize(("at", "late"), [(0.999, False), (1.0, False), (1.001, True)])
def test_a_tick_is_late_from_800_ms_after_it_was_due(at: float, late: bool) -> None:
    guard = OnTimeGuard(0.0)
    guard.tick(at)
    assert guard.is_late(at) is late
    assert guard.late_ticks == late
    assert guard.calm_at(at) == (at + 2.0 if late else at)


def test_a_process_stays_late_for_2000_ms_without_another_late_tick() -> None:
    guard = OnTimeGuard(0.0)
    guard.tick(10.0)
    ticked(guard, 10.0, 11.8)
    assert guard.is_late(11.999)
    assert guard.calm_at(11.999) == 12.0
    assert not guard.is_late(12.0)
    assert guard.calm_at(12.0) == 12.0
    assert guard.late_ticks == 1


def test_another_late_tick_starts_the_2000_ms_again() -> None:
    guard = OnTimeGuard(0.0)
    guard.tick(10.0)
    guard.tick(11.5)
    assert guard.late_ticks == 2
    ticked(guard, 11.5, 13.3)
    assert guard.is_late(13.499)
    assert not guard.is_late(13.5)


@pytest.mark.parametrize(("at", "late"), [(0.999, False), (1.0, False), (1.001, True)])
def test_a_tick_that_is_owed_counts_before_it_has_run(at: float, late: bool) -> None:
    guard = OnTimeGuard(0.0)
    assert guard.is_late(at) is late
    assert guard.calm_at(at) == (at + 2.0 if late else at)
    # Asking has changed nothing: only a tick does.
    assert guard.late_ticks == 0
    assert not guard.is_late(0.5)


def test_the_late_tick_that_was_owed_goes_on_from_what_was_said_before_it() -> None:
    guard = OnTimeGuard(0.0)
    before = guard.calm_at(30.0)
    guard.tick(30.0)
    assert guard.calm_at(30.0) == before == 32.0


GAPS = st.lists(st.floats(0.001, 5.0), min_size=1, max_size=20)


@settings(deadline=None)  # a shared machine may be slow
@given(GAPS)
def test_lateness_ends_when_it_was_said_to(gaps: list[float]) -> None:
    guard = OnTimeGuard(0.0)
    now = 0.0
    for gap in gaps:
        now += gap
        late = guard.is_late(now)
        calm_at = guard.calm_at(now)
        assert late is (calm_at > now)
        guard.tick(now)
        # A tick makes late what was owed, and never makes a late process on time.
        assert guard.is_late(now) is late
        assert guard.calm_at(now) == calm_at


@settings(deadline=None)  # a shared machine may be slow
@given(st.lists(st.floats(0.001, 0.999), max_size=40))
def test_a_process_with_small_delays_only_is_never_late(gaps: list[float]) -> None:
    guard = OnTimeGuard(0.0)
    now = 0.0
    for gap in gaps:
        now += gap
        assert not guard.is_late(now)
        guard.tick(now)
    assert guard.late_ticks == 0


# -- rest while every timeout is far ------------------------------------------------------------


class Process:
    """A process that ticks its guard, and rests while its timeout is far, unless it is stalled.

    Args:
        stalls: the beginning and end of each, in order.
    """

    def __init__(self, stalls: list[tuple[float, float]]) -> None:
        self.guard = OnTimeGuard(0.0)
        self.ticks = 0
        self._stalls = stalls

    def woken(self, due: float) -> float:
        """When it wakes up that wanted to at ``due``."""
        for begin, end in self._stalls:
            if begin <= due < end:
                return end
        return due

    def runs_until(self, timeout: float) -> float:
        """Ticks until its timeout is noticed; returns when that is."""
        due, noticed = TICK_S, self.woken(timeout)
        while (now := self.woken(due)) < noticed:
            due = self.guard.tick(now, resting=timeout - now >= FAR_S)
            self.ticks += 1
        return noticed


@given(st.floats(0.5, 12.0), st.lists(st.tuples(st.floats(0.1, 5.0), st.floats(0.01, 4.0))))
def test_a_process_that_rests_while_its_timeout_is_far_judges_it_as_one_that_does_not(
    timeout: float, gaps: list[tuple[float, float]]
) -> None:
    stalls, at = [], 0.0
    for gap, length in gaps:
        stalls.append((at + gap, at + gap + length))
        at += gap + length
    process = Process(stalls)
    now = process.runs_until(timeout)
    recent = [end - begin for begin, end in stalls if now - CALM_S < end <= now]
    if any(length > TICK_S + LATE_S for length in recent):
        assert process.guard.is_late(now)
    if all(end - begin <= LATE_S for begin, end in stalls):
        assert not process.guard.is_late(now)


@pytest.mark.parametrize(
    ("far_s", "late"), [(FAR_S, True), (FAR_S - REST_S / 2, False), (REST_S, False)]
)
def test_a_stall_is_missed_if_the_rest_reaches_nearer_to_the_timeout(
    far_s: float, late: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(globals(), "FAR_S", far_s)
    found = []
    for timeout in (10.0 + tenth / 10 for tenth in range(10)):
        for step in range(200):
            end = timeout - CALM_S + 0.01 + step * 0.005
            process = Process([(end - 1.01, end)])
            found.append(process.guard.is_late(process.runs_until(timeout)))
    assert all(found) is late


def test_a_timeout_that_is_put_off_each_second_costs_a_tick_a_second() -> None:
    process = Process([])
    now = TICK_S
    for _ in range(10):
        now = process.guard.tick(now, resting=5.0 - (now % 1.0) >= FAR_S)
    assert now == pytest.approx(TICK_S + 10 * REST_S)


# -- the time in which the process did not run --------------------------------------------------


@pytest.mark.parametrize(("at", "stalled_s"), [(0.2, 0.0), (0.22, 0.0), (0.3, 0.08), (0.9, 0.68)])
def test_an_event_loop_s_usual_delay_is_no_stall(at: float, stalled_s: float) -> None:
    guard = OnTimeGuard(0.0)
    assert guard.stalled_s(at) == pytest.approx(stalled_s)
    guard.tick(at)
    assert guard.stalled_s(at + TICK_S + BEHIND_S) == pytest.approx(stalled_s)


def test_a_stall_counts_before_its_tick_and_once() -> None:
    guard = OnTimeGuard(0.0)
    assert guard.stalled_s(5.22) == pytest.approx(5.0)
    guard.tick(5.22)
    assert guard.stalled_s(5.22) == guard.stalled_s(5.42) == pytest.approx(5.0)
    assert guard.stalled_s(6.44) == pytest.approx(6.0)
    guard.tick(6.44)
    assert guard.stalled_s(6.44) == pytest.approx(6.0)


def test_a_resting_process_did_not_stall() -> None:
    guard = OnTimeGuard(0.0)
    guard.tick(0.2, resting=True)
    assert guard.stalled_s(1.2) == 0.0


@given(st.lists(st.floats(0.0, 100.0), max_size=30))
def test_stalled_time_never_runs_back_nor_ahead_of_the_clock(gaps: list[float]) -> None:
    guard, now, stalled_s = OnTimeGuard(0.0), 0.0, 0.0
    for gap in gaps:
        now += gap
        at = guard.stalled_s(now)
        assert stalled_s <= at <= now
        assert at - stalled_s <= gap + 1e-9
        stalled_s = at
        if gap > 10.0:
            continue  # judged before the tick has run
        guard.tick(now)
        assert guard.stalled_s(now) == pytest.approx(stalled_s)
        stalled_s = guard.stalled_s(now)
