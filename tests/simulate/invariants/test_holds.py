"""Holds: commands while one is in force, and instances that are lost when it is over."""

from __future__ import annotations

import pytest

from hbtrio.simulate.observations import (
    Began,
    CommandEnded,
    Condition,
    Observation,
    ProcessStarted,
    Purpose,
    Struck,
)
from hbtrio.simulate.order_observations import HoldEnded, HoldSet
from support.judged import FINE, VIOLATED, action, beating, command, during, judged, loss, reported

C = Condition
HOLD = HoldSet(40, "vm0", "compute-0", 100)
ASKED_TO_END = HoldEnded(60, "vm0", certain=False)


def acted(at_s: float, outcome: str) -> list[Observation]:
    began = command(at_s, purpose=Purpose.ACTION, number="c9")
    return [began, CommandEnded(at_s + 1, "c9", outcome)]


LOST = [*beating(), HOLD, loss(50), reported(51, "not-acted", "hold")]


@pytest.mark.parametrize(
    ("stream", "outcome"),
    [
        ([command(50)], FINE),
        ([HOLD, command(50)], VIOLATED),
        ([HOLD, command(50, instance="vm1")], FINE),
        ([HOLD, command(50, purpose=Purpose.ACTION)], FINE),
        ([HOLD, command(50, "log")], "log"),
        # At its ends.
        ([command(39.9), HOLD], FINE),
        ([HOLD, command(40.005)], FINE),  # it crossed the answer
        ([HOLD, command(40.1)], VIOLATED),
        ([HOLD, command(99.9)], VIOLATED),
        ([HOLD, command(100)], FINE),
        ([HOLD, HoldSet(70, "vm0", "compute-0", 130), command(110)], VIOLATED),
        ([HOLD, HoldSet(70, "vm0", "compute-0", 80), command(90)], FINE),
        ([HOLD, command(59), ASKED_TO_END], VIOLATED),
        ([HOLD, ASKED_TO_END, command(60.001)], FINE),
        # A restart of the host changes nothing, unless it could not write.
        ([HOLD, ProcessStarted(45, "compute-0"), command(50)], VIOLATED),
        ([HoldSet(40, "vm0", "compute-0", 100, stored=False), command(50)], "forgotten"),
        ([*during(30, 39, C.DISK_BAD, "compute-0"), HOLD, command(50)], VIOLATED),
        ([HOLD, *during(41, 45, C.DISK_BAD, "compute-0"), command(50)], "forgotten"),
        ([HOLD, *during(41, 45, C.DISK_BAD, "compute-1"), command(50)], VIOLATED),
        ([HOLD, Struck(45, "cut-power-of-host", "compute-0"), command(50)], "forgotten"),
        ([Struck(35, "cut-power-of-host", "compute-0"), HOLD, command(50)], VIOLATED),
    ],
)
def test_nothing_is_done_to_a_vm_on_hold(stream: list[Observation], outcome: str) -> None:
    assert judged("hold-kept", *stream).outcome == outcome


@pytest.mark.parametrize(
    ("stream", "outcome"),
    [
        (LOST, VIOLATED),
        ([*LOST, command(279)], FINE),
        ([*LOST, command(281)], VIOLATED),
        ([*LOST, reported(120, "heartbeating")], FINE),
        ([*LOST, reported(90, "heartbeating")], FINE),  # before its end
        ([*LOST, reported(120, "not-acted", "paused")], FINE),
        ([*LOST, reported(90, "paused")], FINE),  # nor is anything done then
        ([*LOST, Began(120, C.VM_GONE, "vm0")], "gone"),
        ([*LOST, Began(90, C.GUEST_DOWN, "vm0"), reported(120, "absent")], "left"),
        ([*LOST, Began(90, C.GUEST_DOWN, "vm0")], VIOLATED),
        ([*LOST, *during(60, 110, C.GUEST_DOWN), reported(120, "absent")], VIOLATED),
        ([*LOST, action(120)], "announced"),
        ([*LOST, *acted(120, "failed"), command(289)], "announced"),
        ([*LOST, *acted(120, "failed")], VIOLATED),
        ([*LOST, *acted(120, "done"), command(289)], "announced"),
        ([*LOST, *acted(120, "done")], VIOLATED),
        ([*LOST, *during(120, 220, C.DOWN, "compute-0"), command(379)], "host-away"),
        ([*beating(), HOLD, reported(51, "not-acted", "hold")], FINE),  # it was not lost
        ([*beating(), HOLD, loss(50)], FINE),  # the hold is not why nothing was done
        # Ended by its operator.
        ([*LOST, HoldEnded(60, "vm0"), command(239)], FINE),
        ([*LOST, HoldEnded(60, "vm0"), command(241)], VIOLATED),
        # Set anew: what is withheld then is withheld until that is over.
        ([*LOST, HoldSet(70, "vm0", "compute-0", 130), command(309)], FINE),
        ([*LOST, HoldSet(70, "vm0", "compute-0", 130), command(311)], VIOLATED),
        # Held again after it.
        ([*LOST, HoldSet(200, "vm0", "compute-0", 250), command(429)], "held"),
        (
            [*LOST, HoldSet(200, "vm0", "compute-0", 250), HoldEnded(210, "vm0"), command(389)],
            "held",
        ),
    ],
)
def test_one_that_is_lost_is_acted_upon_after_its_hold(
    stream: list[Observation], outcome: str
) -> None:
    assert judged("hold-kept", *stream).outcome == outcome
