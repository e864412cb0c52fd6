"""Processes: nothing stale, left over or without a bound, no crash, and all well in the end."""

from __future__ import annotations

import pytest

from hbtrio.simulate.observations import (
    CarriedOut,
    Condition,
    Crashed,
    Leftover,
    Measured,
    Observation,
    Resource,
    Status,
)
from support.judged import FINE, VIOLATED, during, judged

C = Condition


@pytest.mark.parametrize(
    ("stream", "outcome"),
    [
        ([CarriedOut(50.04, "compute-0", "r1", 50)], FINE),
        ([CarriedOut(50.06, "compute-0", "r1", 50)], VIOLATED),
        (
            [*during(49, 60, C.STOPPED, "compute-0"), CarriedOut(60.004, "compute-0", "r1", 50)],
            "stopped-between",
        ),
        (
            [*during(49, 60, C.STOPPED, "compute-0"), CarriedOut(60.006, "compute-0", "r1", 50)],
            VIOLATED,
        ),
        (
            [*during(49, 60, C.STOPPED, "compute-1"), CarriedOut(60.004, "compute-0", "r1", 50)],
            VIOLATED,
        ),
    ],
)
def test_nothing_stale_is_carried_out(stream: list[Observation], outcome: str) -> None:
    assert judged("nothing-stale", *stream).outcome == outcome


@pytest.mark.parametrize(
    ("what", "at_s", "outcome"),
    [
        (Resource.TASK, 50, VIOLATED),
        (Resource.DESCRIPTOR, 50, VIOLATED),
        (Resource.CHILD, 55, "being-reaped"),
        (Resource.CHILD, 55.1, VIOLATED),
    ],
)
def test_nothing_outlives_its_scope(what: Resource, at_s: float, outcome: str) -> None:
    left = Leftover(at_s, "compute-0", what, "reader", 50)
    assert judged("nothing-outlives", left).outcome == outcome


def test_a_bound_may_be_reached_and_not_passed() -> None:
    def measured(value: float) -> str:
        return judged("memory-bounded", Measured(50, "agent", "queued reports", value, 10)).outcome

    assert measured(10) == FINE
    assert measured(11) == VIOLATED


def test_a_crash_has_no_excuse() -> None:
    assert judged("no-crash", Crashed(50, "agent", "KeyError('x')")).violations == (
        "agent: KeyError('x')",
    )


@pytest.mark.parametrize(
    ("stream", "outcome"),
    [
        ([Status(400, "vm0", True)], FINE),
        ([Status(400, "vm0", False)], VIOLATED),
        ([*during(100, 269, C.VM_PAUSED), Status(400, "vm0", False)], VIOLATED),
        ([*during(100, 271, C.VM_PAUSED), Status(400, "vm0", False)], "recent"),
        ([*during(100, 271, C.VM_PAUSED, "vm1"), Status(400, "vm0", False)], VIOLATED),
        ([*during(100, 300, C.LINK_DOWN, "compute-0"), Status(400, "compute-0", False)], "recent"),
    ],
)
def test_all_that_lives_is_well_in_the_end(stream: list[Observation], outcome: str) -> None:
    assert judged("well-in-the-end", *stream).outcome == outcome
