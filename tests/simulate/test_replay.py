"""Replays: whatever a run does to its process, and the failure that is looked for is the same."""

from __future__ import annotations

import os
import signal

import attrs
import pytest

from hbtrio.simulate.fault_kinds import Kind
from hbtrio.simulate.invariant import Violation
from hbtrio.simulate.replay import NoResult, failure_like, run_apart, shrink_failure
from hbtrio.simulate.schedule import Fault, Schedule
from hbtrio.simulate.seed_result import SeedResult

FAULTS = tuple(
    Fault(at_s=30.0 + number, kind=Kind.STOP_HOST, who=number, for_s=5.0) for number in range(6)
)
SCHEDULE = Schedule(seed=3, minutes=8.0, vms=4, hosts=2, faults=FAULTS)
LOSS = Violation(200.0, "healthy-not-lost", "vm0 is well and reported lost")
CRASH = Violation(100.0, "no-crash", "agent: KeyError")


def needs_2_and_4(schedule: Schedule) -> SeedResult:
    there = {fault.who for fault in schedule.faults}
    return SeedResult(seed=3, violations=(LOSS,) if {2, 4} <= there else ())


def test_a_run_is_in_another_process() -> None:
    result = run_apart(SCHEDULE, lambda schedule: SeedResult(seed=3, digest=str(os.getpid())))
    assert result.digest not in ("", str(os.getpid()))


def test_a_run_that_dies_has_a_result() -> None:
    def run(schedule: Schedule) -> SeedResult:
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError

    assert run_apart(SCHEDULE, run).error == "the worker died: SIGKILL"


def test_a_failure_is_shrunk_to_what_it_needs() -> None:
    shrunk = shrink_failure(SCHEDULE, needs_2_and_4(SCHEDULE), needs_2_and_4)
    assert shrunk is not None
    assert [(fault.who, fault.for_s) for fault in shrunk.schedule.faults] == [(2, 0.02), (4, 0.02)]
    assert shrunk.failure == LOSS
    assert shrunk.minimal


def test_the_runs_have_a_bound() -> None:
    shrunk = shrink_failure(SCHEDULE, needs_2_and_4(SCHEDULE), needs_2_and_4, most_runs=3)
    assert shrunk is not None
    assert shrunk.runs == 3
    assert not shrunk.minimal


def test_a_run_that_does_not_fail_again_is_no_function_of_its_schedule() -> None:
    assert shrink_failure(SCHEDULE, SeedResult(seed=3, violations=(CRASH,)), needs_2_and_4) is None


def test_another_violation_is_another_failure() -> None:
    """Shrinking must not slip from one fault of the product to another."""

    def run(schedule: Schedule) -> SeedResult:
        loss = needs_2_and_4(schedule).violations
        crash = (CRASH,) if any(fault.who == 1 for fault in schedule.faults) else ()
        return SeedResult(seed=3, violations=(*crash, *loss))

    shrunk = shrink_failure(SCHEDULE, SeedResult(seed=3, violations=(LOSS,)), run)
    assert shrunk is not None
    assert [fault.who for fault in shrunk.schedule.faults] == [2, 4]


def test_a_run_without_a_result_is_shrunk_too() -> None:
    def run(schedule: Schedule) -> SeedResult:
        if any(fault.who == 3 for fault in schedule.faults):
            raise KeyError("lost")
        raise ValueError

    shrunk = shrink_failure(SCHEDULE, run_apart(SCHEDULE, run), run)
    assert shrunk is not None
    assert [fault.who for fault in shrunk.schedule.faults] == [3]
    assert shrunk.failure == NoResult(480.0)


@pytest.mark.parametrize(
    ("result", "again", "failure"),
    [
        (SeedResult(seed=1, violations=(LOSS,)), SeedResult(seed=1, violations=(LOSS,)), LOSS),
        (
            SeedResult(seed=1, violations=(LOSS,)),
            SeedResult(seed=1, violations=(CRASH, attrs.evolve(LOSS, at_s=300.0))),
            attrs.evolve(LOSS, at_s=300.0),
        ),
        (SeedResult(seed=1, violations=(LOSS,)), SeedResult(seed=1), None),
        (SeedResult(seed=1, violations=(LOSS,)), SeedResult(seed=1, error="died"), None),
        (SeedResult(seed=1, error="a\nX\n"), SeedResult(seed=1, error="b\nX"), NoResult(480.0)),
        (SeedResult(seed=1, error="a\nX\n"), SeedResult(seed=1, error="a\nY"), None),
        (SeedResult(seed=1, error="a"), SeedResult(seed=1), None),
        (SeedResult(seed=1, error="a"), SeedResult(seed=1, violations=(LOSS,)), None),
    ],
)
def test_what_counts_as_the_same_failure(
    result: SeedResult, again: SeedResult, failure: object
) -> None:
    assert failure_like(result, again, SCHEDULE) == failure
