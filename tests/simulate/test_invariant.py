"""Invariants as such: names, sentences and excuses; the checker's order; the truth they ask."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path

import pytest

from hbtrio.simulate.invariant import Agenda, Bounds, Checker, Excuse, Invariant, Violation
from hbtrio.simulate.invariants.every import INVARIANTS
from hbtrio.simulate.observations import (
    Began,
    CommandEnded,
    Condition,
    Crashed,
    Observation,
    Over,
    Placed,
    ProcessStarted,
    Reported,
    Verdict,
)
from hbtrio.simulate.truth import Contradiction, Truth
from support.judged import beating, command, during

TESTS = Path(__file__).parent / "invariants"
C = Condition


@pytest.mark.parametrize("invariant", INVARIANTS, ids=lambda one: one.name)
def test_each_has_a_name_a_sentence_and_written_excuses(invariant: type[Invariant]) -> None:
    assert re.fullmatch(r"[a-z]+(-[a-z]+)+", invariant.name)
    assert re.fullmatch(r"[A-Z][^.\n]+\.", invariant.sentence())
    names = [excuse.name for excuse in invariant.excuses]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"[a-z]+(-[a-z]+)*", name) for name in names)


def test_no_two_have_the_same_name() -> None:
    assert len({one.name for one in INVARIANTS}) == len(INVARIANTS)


@pytest.mark.parametrize("invariant", INVARIANTS, ids=lambda one: one.name)
def test_each_excuse_has_a_test(invariant: type[Invariant]) -> None:
    """By its name in the file that has the invariant's."""
    (text,) = (
        text
        for path in TESTS.glob("test_*.py")
        if f'"{invariant.name}"' in (text := path.read_text())
    )
    assert [one.name for one in invariant.excuses if f'"{one.name}"' not in text] == []


def test_an_excuse_that_is_not_written_down_is_refused() -> None:
    class Lenient(Invariant):
        """Nothing is wrong."""

        name = "lenient-one"

        def see(self, observation: Observation) -> None:
            self.judge("wrong", (Excuse("new", "it is new"), True))

    with pytest.raises(AssertionError, match="lenient-one: new is not written down"):
        Checker([Lenient], Bounds()).see(Crashed(1, "agent", "x"))


def test_violations_of_all_invariants_come_in_the_order_of_their_times() -> None:
    checker = Checker(INVARIANTS, Bounds())
    checker.see(Crashed(3, "agent", "x"))
    checker.see(Verdict(4, "r1", "accept"))
    checker.see(Crashed(5, "agent", "y"))
    violations = checker.finish(20)
    assert violations[0] == Violation(3, "no-crash", "agent: x")
    assert [one.invariant for one in violations] == [
        "no-crash",
        "one-verdict",
        "no-crash",
        "history-agrees",
    ]
    assert all(a.at_s <= b.at_s for a, b in pairwise(violations))


def test_checks_run_in_the_order_of_their_times_before_what_is_later() -> None:
    agenda = Agenda()
    calls: list[str] = []
    for due_s, word in ((3.0, "c"), (1.0, "a"), (1.0, "b"), (4.0, "d")):
        agenda.add(due_s, lambda word=word: calls.append(word))  # type: ignore[misc]
    assert [due_s for due_s, check in agenda.due_before(4.0) if check() is None] == [1, 1, 3]
    assert calls == ["a", "b", "c"]


# -- the truth ---------------------------------------------------------------------------------


def truth_of(*stream: Observation) -> Truth:
    truth = Truth()
    for observation in stream:
        truth.see(observation)
    return truth


def test_conditions_hold_from_their_begin_to_their_end() -> None:
    truth = truth_of(*during(10, 20, C.VM_PAUSED), Began(25, C.VM_HUNG, "vm0"))
    assert truth.holds("vm0", C.VM_HUNG)
    assert not truth.holds("vm0", C.VM_PAUSED)
    assert truth.held_since(20, "vm0", C.VM_PAUSED)
    assert not truth.held_since(20.1, "vm0", C.VM_PAUSED)
    assert truth.began_s("vm0", C.VM_PAUSED, C.VM_HUNG) == 25
    assert truth.began_s("vm0", C.VM_PAUSED) is None


def test_a_condition_that_ends_at_this_moment_does_not_hold() -> None:
    truth = truth_of(*during(10, 20, C.VM_PAUSED))
    assert truth.now_s == 20
    assert not truth.holds("vm0", C.VM_PAUSED)
    assert truth.held_since(20, "vm0", C.VM_PAUSED)


def test_what_lasted_is_added_up_and_cut_at_the_ends() -> None:
    truth = truth_of(
        *during(10, 20, C.STOPPED, "agent"),
        *during(30, 35, C.STOPPED, "agent"),
        Began(40, C.DOWN, "agent"),
        ProcessStarted(42, "compute-0"),
    )
    assert truth.lasted_s(0, "agent", C.STOPPED) == 15
    assert truth.lasted_s(15, "agent", C.STOPPED, C.DOWN) == 5 + 5 + 2
    assert truth.lasted_s(50, "agent", C.DOWN) == 0
    assert truth.lasted_s(0, "compute-0", C.STOPPED) == 0


def test_only_the_present_host_knows_whether_an_instance_heartbeats() -> None:
    """The previous one may say for minutes that it is gone."""
    moved = [*beating(), Placed(5, "vm0", "compute-1")]
    assert not truth_of(*moved).heartbeats("vm0")
    there = Reported(6, "compute-1", "vm0", "heartbeating")
    late = Reported(7, "compute-0", "vm0", "absent")
    assert truth_of(*moved, there, late).heartbeats("vm0")
    assert not truth_of(*moved, there, Reported(7, "compute-1", "vm0", "loss")).heartbeats("vm0")


@pytest.mark.parametrize(
    ("stream", "fault"),
    [
        ([Over(1, C.VM_PAUSED, "vm0")], "it has not begun"),
        ([*during(1, 2, C.VM_PAUSED), Over(3, C.VM_PAUSED, "vm0")], "it has not begun"),
        ([CommandEnded(1, "c1", "done")], "it has not begun"),
        ([command(1), CommandEnded(2, "c1", "x"), CommandEnded(2, "c1", "x")], "not begun"),
        ([ProcessStarted(2, "agent"), ProcessStarted(1.9, "agent")], "the time is 2.0000 already"),
    ],
)
def test_observations_that_cannot_be_true_are_refused(
    stream: list[Observation], fault: str
) -> None:
    with pytest.raises(Contradiction, match=fault):
        truth_of(*stream)
