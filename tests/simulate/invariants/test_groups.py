"""Groups: commands that run at once, and how long a corrective one has waited."""

from __future__ import annotations

import pytest

from hbtrio.simulate.observations import CommandEnded, Grouped, Observation, Purpose, Reported
from support.judged import FINE, VIOLATED, command, judged

ONE = Grouped(1, "compute-0", 1, 30.0)
TWO = Grouped(1, "compute-0", 2, 30.0)
NONE = Grouped(1, "compute-0", 0, 30.0)
ELSEWHERE = Grouped(1, "compute-1", 1, 30.0)

FIRST = command(50)
SECOND = command(51, number="c2", instance="vm1")
THIRD = command(52, number="c3", instance="vm2")
WAITS = Reported(45, "compute-0", "vm1", "not-acted", "group")


def second(at_s: float, **changes: object) -> Observation:
    return command(at_s, number="c2", instance="vm1", **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("stream", "outcome"),
    [
        ([FIRST, SECOND], FINE),  # there is no group
        ([ELSEWHERE, FIRST, SECOND], FINE),
        ([ONE, FIRST], FINE),
        ([NONE, FIRST], FINE),
        ([NONE, FIRST, SECOND], VIOLATED),
        ([ONE, FIRST, SECOND], VIOLATED),
        ([ONE, FIRST, second(51, purpose=Purpose.ACTION)], VIOLATED),
        ([ONE, FIRST, CommandEnded(50.9, "c1", "done"), SECOND], FINE),
        ([TWO, FIRST, SECOND], FINE),
        ([TWO, FIRST, SECOND, THIRD], VIOLATED),
        ([ONE, FIRST, second(51, name="log")], "log"),
        ([ONE, command(50, "log"), SECOND], FINE),
        ([ONE, command(50, "resume"), SECOND], FINE),
        # One that has waited for as long as it may.
        ([ONE, WAITS, FIRST, second(75)], "waited"),
        ([ONE, WAITS, FIRST, second(74.9)], VIOLATED),
        ([ONE, WAITS, FIRST, second(75, purpose=Purpose.ACTION)], VIOLATED),
        (
            [ONE, WAITS, Reported(46, "compute-0", "vm1", "heartbeating"), FIRST, second(80)],
            VIOLATED,
        ),
    ],
)
def test_no_more_are_taken_down_at_once(stream: list[Observation], outcome: str) -> None:
    assert judged("group-kept", *stream).outcome == outcome
