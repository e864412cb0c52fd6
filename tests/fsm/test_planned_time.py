"""A planned action: asked from a time on, performed without its vote at another, never later."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hbtrio.fsm.action import ActionState
from hbtrio.fsm.drain import (
    ASK_AGAIN_S,
    WITHDRAWN_S,
    Drain,
    DrainItem,
    DrainOutcome,
    DrainPhase,
    Turn,
)
from hbtrio.fsm.drain_rules import DrainRules, OnReject
from hbtrio.fsm.drain_table import ENDED, OUT_OF_TURN, DrainState
from hbtrio.fsm.planned_time import LATE_S, STALE, PlannedTime

BEGIN, END = 1000.0, 1100.0


#: The last turn of one that has rejected.
OVERRIDES = Turn("a", force=True, overrides="a backup runs")


def planned(on_reject: OnReject = OnReject.WAIT) -> Drain:
    time = PlannedTime(not_before=BEGIN, before=END)
    rules = DrainRules(planned=time, on_reject=on_reject)
    return Drain(rules, [DrainItem("a", ask_at=BEGIN)])


def rejected(one: Drain, at: float) -> None:
    one.ended("a", ActionState.REJECTED, "a backup runs", at)


def test_times_the_wrong_way_round_are_refused() -> None:
    for before in (BEGIN, BEGIN - 1, math.nan):
        with pytest.raises(ValueError, match="before"):
            PlannedTime(not_before=BEGIN, before=before)


def test_nothing_is_asked_before_its_time() -> None:
    one = planned()
    assert one.turns(BEGIN - 0.001) == ()
    assert one.wakes_at == BEGIN
    assert one.turns(BEGIN) == (Turn("a"),)


def test_one_that_rejects_is_asked_again_and_not_asked_at_the_end() -> None:
    one, at, asked = planned(), BEGIN, []
    while (turns := one.turns(at)) == (Turn("a"),):
        asked.append(at)
        rejected(one, at + 1)
        at = one.wakes_at
    assert asked == [BEGIN + number * (ASK_AGAIN_S + 1) for number in range(4)]
    assert (at, turns) == (END, (OVERRIDES,))
    one.ended("a", ActionState.DONE, "", END + 5)
    assert one.outcome is DrainOutcome.DRAINED


def test_a_reject_is_overridden_whatever_has_become_of_the_turns_since() -> None:
    one = planned()
    one.turns(BEGIN)
    rejected(one, BEGIN + 1)
    assert one.turns(BEGIN + 31) == (Turn("a"),)
    one.blocked("a", "a hold", BEGIN + 31)
    assert one.turns(END) == (OVERRIDES,)
    # The daemon was killed before the action was begun.
    one.unresumed("a")
    assert one.turns(END) == (OVERRIDES,)


def test_one_that_gives_up_is_asked_once_more_at_the_end_and_left_alone() -> None:
    one, at, asked = planned(OnReject.SKIP), BEGIN, []
    while (turns := one.turns(at)) == (Turn("a"),):
        asked.append(at)
        rejected(one, at)
        at = one.wakes_at
    assert asked == [BEGIN, BEGIN + 30, BEGIN + 60, BEGIN + 90, END]
    assert (turns, one.items["a"].state) == ((), DrainState.SKIPPED)
    assert one.items["a"].reason == "rejected: a backup runs"
    assert (planned().rules.forced_at, one.rules.forced_at) == (END, math.inf)


def test_a_reject_that_is_withdrawn_is_asked_for_at_once() -> None:
    one = planned()
    one.turns(BEGIN)
    rejected(one, BEGIN)
    one.withdrawn("a", BEGIN + 20)
    assert one.turns(BEGIN + 20) == (Turn("a"),)
    rejected(one, BEGIN + 20)
    assert one.wakes_at == BEGIN + 20 + ASK_AGAIN_S


def test_one_that_withdraws_in_a_loop_is_asked_every_few_seconds() -> None:
    one, at, asked = planned(), BEGIN, []
    while one.turns(at) == (Turn("a"),):
        asked.append(at)
        one.withdrawn("a", at)  # what crosses the reject counts for it
        rejected(one, at)
        one.withdrawn("a", at)
        one.withdrawn("a", at)
        at = one.wakes_at
    assert asked == [BEGIN + number * WITHDRAWN_S for number in range(20)]


def test_a_withdrawal_from_before_the_turn_does_not_count_for_its_reject() -> None:
    one = planned()
    one.turns(BEGIN)
    one.withdrawn("a", BEGIN)
    rejected(one, BEGIN)
    assert one.turns(BEGIN + WITHDRAWN_S) == (Turn("a"),)
    rejected(one, BEGIN + WITHDRAWN_S)
    assert one.wakes_at == BEGIN + WITHDRAWN_S + ASK_AGAIN_S


def test_a_withdrawal_changes_nothing_for_one_that_does_not_reject() -> None:
    for state in set(DrainState) - {DrainState.REJECTED, DrainState.ASKED}:
        one = Drain(DrainRules(), [DrainItem("a", state, "why", 1.0, 50.0)])
        one.withdrawn("a", 2.0)
        assert one.items["a"] == DrainItem("a", state, "why", 1.0, 50.0)
    one = planned()
    one.turns(BEGIN)
    one.blocked("a", "group db: 1 of 3", BEGIN)
    one.withdrawn("a", BEGIN + 1)
    assert one.wakes_at == BEGIN + ASK_AGAIN_S


def test_a_reject_in_a_vote_that_lasts_beyond_the_end_is_overridden_at_once() -> None:
    one = planned()
    one.turns(END - 1)
    # However long the vote lasts: the answer of a guest that was asked in time is awaited.
    late = END + 2 * LATE_S
    assert (one.turns(late), one.expire(late)) == ((), ())
    rejected(one, late)
    assert one.expire(late) == ()
    assert one.turns(late) == (OVERRIDES,)


def test_an_accept_beyond_the_end_counts() -> None:
    one = planned()
    one.turns(END - 1)
    one.step("a", ActionState.PREPARING)
    one.ended("a", ActionState.DONE, "", END + 2 * LATE_S)
    assert one.items["a"].state is DrainState.DONE


def test_what_blocks_it_at_the_end_is_not_overridden() -> None:
    one = planned()
    one.turns(END - 20)
    one.blocked("a", "group db: 1 of 3", END - 20)
    assert one.wakes_at == END
    assert one.turns(END) == (Turn("a", force=True),)
    one.blocked("a", "group db: 1 of 3", END)
    assert one.items["a"].state is DrainState.SKIPPED
    assert one.items["a"].reason == "blocked: group db: 1 of 3"
    assert one.outcome is DrainOutcome.INCOMPLETE


@pytest.mark.parametrize(
    ("back_at", "expected"),
    [
        (END - 0.001, (Turn("a"),)),
        (END, (Turn("a", force=True),)),
        # Its turn was due at BEGIN, longer ago than LATE_S.
        (END + 0.001, ()),
    ],
)
def test_after_an_absence_nothing_stale_is_carried_out(
    back_at: float, expected: tuple[Turn, ...]
) -> None:
    one = planned()
    stale = one.expire(back_at)
    assert one.turns(back_at) == expected
    assert stale == (() if expected else ("a",))
    if stale:
        assert one.items["a"].reason == STALE
        assert one.is_over


@pytest.mark.parametrize(("late_s", "is_forced"), [(LATE_S, True), (LATE_S + 0.001, False)])
def test_a_short_restart_at_the_end_is_no_absence(late_s: float, is_forced: bool) -> None:
    one = planned()
    one.turns(END - 5)
    rejected(one, END - 5)
    assert one.wakes_at == END
    assert one.expire(END + late_s) == (() if is_forced else ("a",))
    assert one.turns(END + late_s) == ((OVERRIDES,) if is_forced else ())


def test_one_that_was_being_asked_when_the_daemon_ended_is_asked_again_in_its_time() -> None:
    one = planned()
    one.turns(BEGIN)
    one.unresumed("a")
    assert (one.expire(BEGIN + 50), one.turns(BEGIN + 50)) == ((), (Turn("a"),))
    one.unresumed("a")
    assert one.expire(END + LATE_S) == ("a",)


def test_cancelled_nothing_is_done() -> None:
    one = planned()
    one.cancel("cancelled by uid 0")
    assert one.phase is DrainPhase.CANCELLED
    assert (one.turns(END), one.expire(END + 1000)) == ((), ())
    assert one.outcome is DrainOutcome.CANCELLED


def test_a_drain_has_no_time_that_can_be_over() -> None:
    one = Drain(DrainRules(), [DrainItem("a")])
    assert one.expire(1e9) == ()
    assert one.turns(1e9) == (Turn("a"),)


#: What may become of a turn, and of the time between two turns.
_STEPS = st.one_of(
    st.tuples(st.sampled_from(["reject", "block", "withdraw", "wait"]), st.floats(0.0, 40.0)),
    # The daemon, or its machine, is away: for a moment, or for long.
    st.tuples(st.just("away"), st.one_of(st.floats(0.0, LATE_S), st.floats(LATE_S, 500.0))),
)


@given(
    steps=st.lists(_STEPS, max_size=40),
    on_reject=st.sampled_from([OnReject.WAIT, OnReject.SKIP]),
    ends_at=st.floats(BEGIN + 1, BEGIN + 200),
)
def test_in_any_order_nothing_is_asked_too_early_or_carried_out_late(
    steps: list[tuple[str, float]], on_reject: OnReject, ends_at: float
) -> None:
    rules = DrainRules(planned=PlannedTime(not_before=BEGIN, before=ends_at), on_reject=on_reject)
    one, now, rejected_at = Drain(rules, [DrainItem("a", ask_at=BEGIN)]), BEGIN - 20, -math.inf
    item = one.items["a"]
    for what, span_s in steps:
        due = item.ask_at
        one.expire(now)
        turns = one.turns(now)
        for turn in turns:
            assert now >= max(BEGIN, due)
            assert now <= ends_at or now - due <= LATE_S
            assert turn.force == (now >= ends_at and on_reject is OnReject.WAIT)
            if not turn.force:
                assert now >= min(rejected_at + WITHDRAWN_S, ends_at)
        if what == "withdraw":
            one.withdrawn("a", now)
        elif turns and turns[0].force:
            one.ended("a", ActionState.DONE, "", now)
        elif turns and what == "reject":
            rejected_at = now
            rejected(one, now)
        elif turns and what == "block":
            one.blocked("a", "group db: 1 of 3", now)
        elif turns:
            # The answer is awaited, however long it takes.
            now += span_s
            one.withdrawn("a", now)
            rejected_at = now
            rejected(one, now)
        now += span_s
    # Whatever has happened, an absence beyond the end is its end.
    if item.state in OUT_OF_TURN:
        away = max(now, ends_at, item.ask_at) + LATE_S + 1
        assert one.expire(away) == ("a",)
        assert one.turns(away) == ()
    assert item.state in ENDED or item.state is DrainState.ASKED
