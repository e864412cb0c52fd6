"""Shrinking: what is left still fails, none of it is spare, and the number of runs has a bound."""

from __future__ import annotations

from collections.abc import Callable

import attrs
from hypothesis import given, settings
from hypothesis import strategies as st

from hbtrio.simulate.fault_kinds import Kind
from hbtrio.simulate.schedule import Fault, Schedule
from hbtrio.simulate.shrink import MOST_RUNS, SHORTER_S, Failure, Shrunk, shrink


@attrs.frozen
class Seen:
    at_s: float


def schedule(faults: list[Fault]) -> Schedule:
    return Schedule(seed=1, minutes=8.0, vms=4, hosts=2, faults=tuple(faults))


def stops(number: int, for_s: float = 10.0) -> list[Fault]:
    return [Fault(at_s=30.0 + n, kind=Kind.STOP_HOST, who=n, for_s=for_s) for n in range(number)]


class Runs:
    """A world that fails if all of some faults are in the schedule."""

    def __init__(
        self, needed: set[int], least_s: float = 0.0, at_s: float = 200.0, parity: bool = False
    ) -> None:
        self.needed, self.least_s, self.at_s, self.parity = needed, least_s, at_s, parity
        self.schedules: list[Schedule] = []

    def fails(self, schedule: Schedule) -> Failure | None:
        self.schedules.append(schedule)
        long = {f.who for f in schedule.faults if f.for_s is None or f.for_s >= self.least_s}
        fails = self.needed <= long and not (self.parity and len(schedule.faults) % 2)
        return Seen(self.at_s) if fails else None


def shrunk(
    faults: list[Fault],
    fails: Callable[[Schedule], Failure | None],
    most_runs: int = MOST_RUNS,
) -> Shrunk:
    found = shrink(schedule(faults), fails, most_runs)
    assert found is not None
    return found


def test_a_schedule_that_does_not_fail_is_not_shrunk() -> None:
    runs = Runs({99})
    assert shrink(schedule(stops(5)), runs.fails) is None
    assert len(runs.schedules) == 1


def test_one_of_many_is_found_in_few_runs() -> None:
    found = shrunk(stops(43, for_s=0.01), Runs({17}).fails)
    assert [fault.who for fault in found.schedule.faults] == [17]
    assert found.minimal
    assert found.runs < 20


def test_a_run_that_fails_without_faults_needs_none() -> None:
    found = shrunk(stops(7), Runs(set()).fails)
    assert found.schedule.faults == ()
    assert found.runs == 2


def test_what_comes_after_the_failure_goes_first() -> None:
    runs = Runs({2}, at_s=32.5)
    shrunk(stops(20), runs.fails)
    assert [len(one.faults) for one in runs.schedules[:3]] == [20, 0, 3]


def test_durations_become_as_short_as_they_may_be() -> None:
    found = shrunk(stops(4), Runs({1, 3}, least_s=0.25).fails)
    assert [(fault.who, fault.for_s) for fault in found.schedule.faults] == [(1, 0.3), (3, 0.3)]


def test_a_fault_shorter_than_all_that_are_tried_stays() -> None:
    found = shrunk(stops(1, for_s=0.01), Runs({0}).fails)
    assert found.schedule.faults[0].for_s == 0.01
    assert min(SHORTER_S) > 0.01


def test_what_lasts_no_time_stays_as_it_is() -> None:
    faults = [Fault(at_s=30.0, kind=Kind.CUT_LINK), Fault(at_s=31.0, kind=Kind.CUT_LINK, who=1)]
    assert shrunk(faults, Runs({1}).fails).schedule.faults == (faults[1],)


def test_a_fault_that_was_only_needed_beside_a_long_one_goes() -> None:
    """Once 0 is short, 1 is spare."""

    def fails(one: Schedule) -> Failure | None:
        of = {fault.who: fault.for_s or 0.0 for fault in one.faults}
        return Seen(99.0) if 0 in of and (1 in of or of[0] < 5.0) else None

    found = shrunk(stops(2), fails)
    assert [fault.who for fault in found.schedule.faults] == [0]


def test_nothing_is_run_twice() -> None:
    runs = Runs({1, 5, 6, 11}, least_s=0.2, parity=True)
    found = shrunk(stops(12), runs.fails)
    assert len({one.faults for one in runs.schedules}) == len(runs.schedules) == found.runs


def test_the_runs_have_a_bound_and_what_was_found_by_then_fails() -> None:
    for most_runs in range(1, 30):
        runs = Runs(set(range(0, 30, 2)))
        found = shrunk(stops(30), runs.fails, most_runs)
        assert found.runs == len(runs.schedules) <= most_runs
        assert runs.fails(found.schedule) is not None
        assert not found.minimal


def test_the_seed_and_the_fleet_stay() -> None:
    found = shrunk(stops(5), Runs({2}).fails)
    assert attrs.evolve(found.schedule, faults=()) == schedule([])


@settings(max_examples=150, deadline=None)
@given(
    st.integers(1, 24).flatmap(
        lambda number: st.tuples(st.just(number), st.sets(st.integers(0, number - 1)))
    ),
    st.floats(0, 9),
    st.booleans(),
)
def test_what_is_left_fails_and_each_of_its_faults_is_needed(
    case: tuple[int, set[int]], least_s: float, parity: bool
) -> None:
    number, needed = case
    runs = Runs(needed, least_s, parity=parity)
    found = shrink(schedule(stops(number)), runs.fails, 100_000)
    if found is None:
        assert parity
        assert number % 2
        return
    assert found.minimal
    assert found.failure == runs.fails(found.schedule)
    assert found.failure is not None
    faults = found.schedule.faults
    for place, fault in enumerate(faults):
        without = (*faults[:place], *faults[place + 1 :])
        assert runs.fails(attrs.evolve(found.schedule, faults=without)) is None
        for for_s in SHORTER_S:
            if for_s < (fault.for_s or 0.0):
                shorter = attrs.evolve(fault, for_s=for_s)
                changed = (*faults[:place], shorter, *faults[place + 1 :])
                assert runs.fails(attrs.evolve(found.schedule, faults=changed)) is None


def test_no_fault_is_made_shorter_than_one_that_is_drawn() -> None:
    cut = Fault(at_s=30.0, kind=Kind.CUT_POWER_OF_AGENT, who=0, for_s=30.0)
    found = shrunk([cut], Runs({0}).fails)
    assert found.schedule.faults[0].for_s == 30.0
