"""A vote or notice at the agent: in whatever order things happen, it has one end."""

from __future__ import annotations

from collections.abc import Callable

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hbtrio.fsm.fleet_round import (
    ENDED_EARLY,
    FLEET_ROUND_TABLE,
    FleetRound,
    FleetRoundEvent,
    FleetRoundState,
    RoundEnd,
)
from hbtrio.fsm.table import IllegalEvent
from hbtrio.policy.allowances import MARGIN_S
from hbtrio.wire.vocabulary import VoteResult

ASKED, EARLY, OPENED, AWAITED, REPORTED, DUE, STORED, AGREED, LOST, DENIED, DROPPED, FORGOTTEN = (
    FleetRoundState
)

#: When it is asked for, and the window that the instance has advertised.
T0, WINDOW_S = 100.0, 8.0
#: When its host has opened it, and for how long.
T1, OPENED_S = 101.0, 9.0
#: How much longer than the window the VIM waits.
BEYOND_S = 3.0

NOT_HEARD = RoundEnd(
    VoteResult.ERROR, "the requester did not wait for the reply", has_verdict=False
)
HOST_LOST = RoundEnd(VoteResult.ERROR, "the host daemon was restarted", has_verdict=True)
REFUSED = RoundEnd(VoteResult.ERROR, "no guest", has_verdict=False)
AGREEMENT = RoundEnd(VoteResult.ACCEPT, "no answer within 9 s", has_verdict=True)
UNREPLIED = RoundEnd(
    VoteResult.ERROR, "the agent was restarted before its reply", has_verdict=False
)
CLOCK_BACK = RoundEnd(
    VoteResult.ERROR,
    "the clock was set back: the VIM may no longer wait",
    has_verdict=False,
)


@attrs.frozen
class Whole:
    """All that there is to know of a round."""

    state: FleetRoundState
    window_s: float
    ends_at: float
    agrees_at: float
    awaits_reply: bool
    is_over: bool


def whole(current: FleetRound) -> Whole:
    return Whole(
        current.state,
        current.window_s,
        current.ends_at,
        current.agrees_at,
        current.awaits_reply,
        current.is_over,
    )


def before_opening(state: FleetRoundState, *, over: bool = False) -> Whole:
    """A round whose window is still what the instance has advertised."""
    ends_at = T0 + WINDOW_S + BEYOND_S
    return Whole(state, WINDOW_S, ends_at, ends_at - MARGIN_S, not over, over)


def after_opening(state: FleetRoundState, *, unreplied: bool = False, over: bool = False) -> Whole:
    """A round whose window is what its host has said."""
    ends_at = T1 + OPENED_S + BEYOND_S
    return Whole(state, OPENED_S, ends_at, ends_at - MARGIN_S, unreplied, over)


def asked(*, vote: bool = True) -> FleetRound:
    return FleetRound(vote=vote, window_s=WINDOW_S, now=T0, for_vim=True)


#: What its host reports, and how the agent ends it if that could not be stored.
REPORT = VoteResult.REJECT, "the database is busy"
KEPT = RoundEnd(*REPORT, has_verdict=True)

#: The shortest way to each state.
STEPS: dict[str, Callable[[FleetRound], object]] = {
    "opened": lambda one: one.host_opened(OPENED_S, T1),
    "opened none": lambda one: one.host_opened_none("no guest"),
    "not stored": lambda one: one.not_stored(),
    "replied": lambda one: one.reply_written(),
    "unheard": lambda one: one.reply_unheard(),
    "reported": lambda one: one.outcome_reported(*REPORT),
    "stored": lambda one: one.outcome_stored(),
    "window": lambda one: one.window_closed(),
    "host restarted": lambda one: one.host_restarted(),
    "agent restarted": lambda one: one.agent_restarted(1.0),
    "clock set back": lambda one: one.agent_restarted(-1.0),
    "denied": lambda one: one.denied("group db: db-2 is lost"),
}
WAYS: dict[FleetRoundState, tuple[str, ...]] = {
    ASKED: (),
    EARLY: ("reported",),
    OPENED: ("opened",),
    AWAITED: ("opened", "replied"),
    REPORTED: ("opened", "reported"),
    DUE: ("opened", "replied", "reported"),
    STORED: ("opened", "replied", "reported", "stored"),
    AGREED: ("opened", "window"),
    LOST: ("opened", "host restarted"),
    DENIED: ("denied",),
    DROPPED: ("opened none",),
    FORGOTTEN: ("not stored",),
}


def test_the_rule_of_a_group_ends_it_before_its_host_is_asked() -> None:
    current = asked()
    reason = "group db: db-2 is lost, at most 1 of 3 may be unavailable"
    assert current.denied(reason) == RoundEnd(VoteResult.REJECT, reason, has_verdict=True)
    assert current.is_over
    assert not current.is_dropped


def at(state: FleetRoundState) -> FleetRound:
    """A vote in that state."""
    current = asked()
    for step in WAYS[state]:
        STEPS[step](current)
    assert current.state is state
    return current


# -- the usual way, step by step --------------------------------------------------------------


def test_a_round_whose_outcome_comes_after_the_reply() -> None:
    current = asked()
    assert whole(current) == before_opening(ASKED)
    current.host_opened(OPENED_S, T1)
    assert whole(current) == after_opening(OPENED, unreplied=True)
    assert current.reply_written() is False
    assert whole(current) == after_opening(AWAITED)
    current.outcome_reported(*REPORT)
    assert whole(current) == after_opening(DUE)
    current.outcome_stored()
    assert whole(current) == after_opening(STORED, over=True)


def test_a_round_whose_outcome_comes_before_the_reply_is_written() -> None:
    current = asked()
    current.host_opened(OPENED_S, T1)
    current.outcome_reported(*REPORT)
    assert whole(current) == after_opening(REPORTED, unreplied=True)
    # Now its verdict may be sent, and whoever sends it is to be woken.
    assert current.reply_written() is True
    assert whole(current) == after_opening(DUE)
    current.outcome_stored()
    assert whole(current) == after_opening(STORED, over=True)


def test_a_round_whose_outcome_comes_before_its_hosts_reply() -> None:
    current = asked()
    current.outcome_reported(*REPORT)
    assert whole(current) == before_opening(EARLY)
    current.host_opened(OPENED_S, T1)
    assert whole(current) == after_opening(REPORTED, unreplied=True)


#: What may be heard of only after the outcome is stored.
LATE = ["opened", "opened none", "not stored"]


@pytest.mark.parametrize("late", LATE)
def test_what_comes_behind_the_stored_outcome_changes_nothing(late: str) -> None:
    current = asked()
    current.outcome_reported(*REPORT)
    current.outcome_stored()
    end = before_opening(STORED, over=True)
    assert whole(current) == end
    assert STEPS[late](current) is None
    assert whole(current) == end


def test_a_report_that_comes_again_counts_once() -> None:
    for state in (EARLY, REPORTED, DUE):
        current = at(state)
        before = whole(current)
        current.outcome_reported(*REPORT)
        assert whole(current) == before


# -- ends of the agent's own --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("state", "end"), [(OPENED, AGREEMENT), (AWAITED, AGREEMENT), (REPORTED, KEPT), (DUE, KEPT)]
)
def test_silence_is_agreement_and_a_report_that_is_not_stored_is_none(
    state: FleetRoundState, end: RoundEnd
) -> None:
    current = at(state)
    assert current.agrees_at == T1 + OPENED_S + BEYOND_S - MARGIN_S
    assert current.window_closed() == end
    assert whole(current) == after_opening(AGREED, over=True)


@pytest.mark.parametrize(
    ("for_vim", "ends_s", "within"), [(True, 44.0, "43.75"), (False, 603.0, "600")]
)
def test_a_window_that_is_longer_than_the_vim_waits(
    for_vim: bool, ends_s: float, within: str
) -> None:
    current = FleetRound(vote=True, window_s=WINDOW_S, now=T0, for_vim=for_vim)
    current.host_opened(600.0, T1)
    assert (current.ends_at, current.agrees_at) == (T1 + ends_s, T1 + ends_s - MARGIN_S)
    end = current.window_closed()
    assert end is not None
    assert end.reason == f"no answer within {within} s"


def test_the_silence_of_a_notice_is_its_completion() -> None:
    current = asked(vote=False)
    current.host_opened(OPENED_S, T1)
    assert current.window_closed() == attrs.evolve(AGREEMENT, result=VoteResult.COMPLETE)


@pytest.mark.parametrize(
    ("state", "end"), [(OPENED, HOST_LOST), (AWAITED, HOST_LOST), (REPORTED, KEPT), (DUE, KEPT)]
)
def test_a_host_that_was_restarted_took_it_along_unless_it_had_reported(
    state: FleetRoundState, end: RoundEnd
) -> None:
    current = at(state)
    assert current.host_restarted() == end
    assert whole(current) == after_opening(LOST, over=True)


@pytest.mark.parametrize("state", [ASKED, EARLY])
def test_a_host_that_was_restarted_before_it_has_replied(state: FleetRoundState) -> None:
    current = at(state)
    assert current.host_restarted() is None
    assert whole(current) == before_opening(state)
    assert current.host_opened_none("no guest") == REFUSED


@pytest.mark.parametrize("state", [ASKED, EARLY])
def test_a_host_that_opens_none(state: FleetRoundState) -> None:
    current = at(state)
    assert current.host_opened_none("no guest") == REFUSED
    assert whole(current) == before_opening(DROPPED, over=True)


@pytest.mark.parametrize("state", [OPENED, REPORTED])
def test_nobody_waits_for_the_reply(state: FleetRoundState) -> None:
    current = at(state)
    assert current.reply_unheard() == NOT_HEARD
    assert whole(current) == after_opening(DROPPED, over=True)


@pytest.mark.parametrize("state", [ASKED, EARLY])
def test_nobody_waits_even_for_the_host_s_reply(state: FleetRoundState) -> None:
    current = at(state)
    assert current.reply_unheard() == attrs.evolve(NOT_HEARD, reason=ENDED_EARLY)
    assert whole(current) == before_opening(DROPPED, over=True)


@pytest.mark.parametrize("state", [ASKED, EARLY])
def test_a_round_that_is_not_stored_has_no_end(state: FleetRoundState) -> None:
    current = at(state)
    current.not_stored()
    assert whole(current) == before_opening(FORGOTTEN, over=True)


# -- after a restart of the agent ----------------------------------------------------------------


def left_open(*, replied: bool, age_s: float) -> FleetRound:
    return FleetRound.resumed(
        vote=True, window_s=WINDOW_S, replied=replied, age_s=age_s, now=T0, for_vim=True
    )


def test_a_round_that_a_former_process_has_opened_goes_on() -> None:
    current = left_open(replied=True, age_s=3.0)
    assert current.agent_restarted(3.0) is None
    ends_at = T0 + WINDOW_S + BEYOND_S - 3.0
    assert whole(current) == Whole(
        AWAITED, WINDOW_S, ends_at, ends_at - MARGIN_S, awaits_reply=False, is_over=False
    )
    current.outcome_reported(*REPORT)
    current.outcome_stored()
    assert (current.state, current.ends_at) == (STORED, ends_at)


@pytest.mark.parametrize("age_s", [3.0, -3.0])
def test_a_round_whose_reply_a_former_process_has_not_written(age_s: float) -> None:
    current = left_open(replied=False, age_s=age_s)
    assert current.agent_restarted(age_s) == UNREPLIED
    assert (current.state, current.is_over) == (DROPPED, True)


@pytest.mark.parametrize(("age_s", "end"), [(-0.001, CLOCK_BACK), (0.0, None)])
def test_a_clock_that_was_set_back(age_s: float, end: RoundEnd | None) -> None:
    current = left_open(replied=True, age_s=age_s)
    assert current.agent_restarted(age_s) == end
    assert current.state is (AWAITED if end is None else DROPPED)


# -- the table --------------------------------------------------------------------------------

#: The event that each step is.
EVENTS = {
    "opened": FleetRoundEvent.HOST_OPENED,
    "opened none": FleetRoundEvent.HOST_OPENED_NONE,
    "not stored": FleetRoundEvent.NOT_STORED,
    "replied": FleetRoundEvent.REPLY_WRITTEN,
    "unheard": FleetRoundEvent.REPLY_UNHEARD,
    "reported": FleetRoundEvent.OUTCOME_REPORTED,
    "stored": FleetRoundEvent.OUTCOME_STORED,
    "window": FleetRoundEvent.WINDOW_CLOSED,
    "host restarted": FleetRoundEvent.HOST_RESTARTED,
    "agent restarted": FleetRoundEvent.AGENT_RESTARTED,
    "clock set back": FleetRoundEvent.AGENT_RESTARTED,
    "denied": FleetRoundEvent.DENIED,
}


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("state", FleetRoundState)
def test_what_has_no_place_is_refused_and_changes_nothing(
    state: FleetRoundState, step: str
) -> None:
    current = at(state)
    before = whole(current)
    after = FLEET_ROUND_TABLE.rows[state].get(EVENTS[step])
    if after is not None:
        STEPS[step](current)
        set_back = step == "clock set back" and state is AWAITED
        assert current.state is (DROPPED if set_back else after)
        return
    if state is STORED and step in LATE:
        STEPS[step](current)
    else:
        with pytest.raises(IllegalEvent):
            STEPS[step](current)
    assert whole(current) == before


def test_every_event_of_the_table_has_its_step() -> None:
    assert {*EVENTS.values(), FleetRoundEvent.CLOCK_SET_BACK} == set(FleetRoundEvent)


@given(st.lists(st.sampled_from(sorted(STEPS)), max_size=20))
def test_it_has_one_end_at_most_and_stays_there(steps: list[str]) -> None:
    current = asked()
    ends: list[RoundEnd] = []
    over: FleetRoundState | None = None
    for step in steps:
        try:
            found = STEPS[step](current)
        except IllegalEvent:
            continue
        if isinstance(found, RoundEnd):
            ends.append(found)
        assert over in (None, current.state)
        if current.is_over:
            over = current.state
    assert len(ends) <= 1
    assert bool(ends) == (current.state in (AGREED, LOST, DENIED, DROPPED))
    assert [end.has_verdict for end in ends] in ([], [current.state in (AGREED, LOST, DENIED)])
