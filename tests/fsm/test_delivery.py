"""The delivery of one entry to the VIM: what each result makes of it, and that it is complete."""

from __future__ import annotations

import math
from itertools import product

import pytest

from hbtrio.fsm.delivery import (
    DELIVERY_TABLE,
    GIVE_UP_S,
    Delivery,
    DeliveryEffect,
    DeliveryEvent,
    EndRest,
    MarkDone,
    OutboxKind,
    OutboxState,
    QueueAgain,
    ReportStateGivenUp,
    RestInstance,
)
from hbtrio.fsm.table import IllegalEvent
from hbtrio.wire.vim_result import (
    Delivered,
    ErrorStatus,
    MissingAnswer,
    NotSent,
    SendResult,
    Unconfirmed,
)

SERVICE, ALARM, ACTION = OutboxKind
QUEUED, HELD, SENDING, DELIVERED, UNCONFIRMED, UNDELIVERED, REPLACED = OutboxState

OK = Delivered(200, b"")
CUT = Delivered(200, b"{", "cut short")
CLOSED = Unconfirmed(MissingAnswer.CLOSED)
GARBLED = Unconfirmed(MissingAnswer.GARBLED)
RESET = Unconfirmed(MissingAnswer.RESET)
STALLED = Unconfirmed(MissingAnswer.STALLED)
NO_ROUTE = NotSent("no route to host")

EACH_KIND = pytest.mark.parametrize("kind", OutboxKind)
NEVER = -math.inf


def tried(
    kind: OutboxKind,
    result: SendResult,
    *,
    refused_since: float | None = None,
    now: float = 0.0,
    reachable_since: float = NEVER,
) -> tuple[OutboxState, tuple[DeliveryEffect, ...]]:
    """The whole state after an attempt of which something was written, and what is to be done."""
    delivery = Delivery(kind, refused_since)
    assert delivery.state is QUEUED
    delivery.sending_began()
    assert delivery.state is SENDING
    effects = delivery.tried(result, now, reachable_since)
    return delivery.state, effects


# -- every kind, every result ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("result", "state", "fault"),
    [
        (OK, DELIVERED, ""),
        (CUT, DELIVERED, ""),
        (CLOSED, UNCONFIRMED, "closed without an answer"),
        (GARBLED, UNCONFIRMED, "an answer that is not HTTP"),
        (ErrorStatus(400), UNDELIVERED, "the VIM answered with status 400"),
        (ErrorStatus(302), UNDELIVERED, "the VIM answered with status 302"),
        (ErrorStatus(499), UNDELIVERED, "the VIM answered with status 499"),
    ],
)
def test_what_is_done_with_whatever_it_is(
    result: SendResult, state: OutboxState, fault: str
) -> None:
    done = MarkDone(state, fault)
    assert tried(ACTION, result) == (state, (done,))
    assert tried(ALARM, result) == (state, (EndRest(), done))
    given_up = (ReportStateGivenUp(for_good=True),) if state is UNDELIVERED else ()
    assert tried(SERVICE, result) == (state, (EndRest(), done, *given_up))


@pytest.mark.parametrize(
    ("result", "state", "fault"),
    [
        (RESET, UNCONFIRMED, "reset"),
        (STALLED, UNCONFIRMED, "no answer in time"),
        (ErrorStatus(500), UNDELIVERED, "the VIM answered with status 500"),
        (ErrorStatus(503), UNDELIVERED, "the VIM answered with status 503"),
        (ErrorStatus(408), UNDELIVERED, "the VIM answered with status 408"),
        (ErrorStatus(425), UNDELIVERED, "the VIM answered with status 425"),
        (ErrorStatus(429), UNDELIVERED, "the VIM answered with status 429"),
    ],
)
@pytest.mark.parametrize("kind", [SERVICE, ALARM])
def test_a_verdict_is_done_with_where_others_are_repeated(
    kind: OutboxKind, result: SendResult, state: OutboxState, fault: str
) -> None:
    assert tried(ACTION, result) == (state, (MarkDone(state, fault),))
    again = QueueAgain(fault, reached=True, refused=result != STALLED)
    assert tried(kind, result) == (QUEUED, (RestInstance(), again))


@EACH_KIND
def test_what_was_not_written_whole_is_sent_again(kind: OutboxKind) -> None:
    again = (QueueAgain("no route to host", reached=False, refused=False),)
    assert tried(kind, NO_ROUTE) == (QUEUED, again)
    unbegun = Delivery(kind)
    assert unbegun.tried(NO_ROUTE, 0.0, NEVER) == again
    assert unbegun.state is QUEUED


@EACH_KIND
@pytest.mark.parametrize("result", [OK, CLOSED, RESET, STALLED, ErrorStatus(500)])
def test_no_answer_is_believed_before_anything_was_sent(
    kind: OutboxKind, result: SendResult
) -> None:
    delivery = Delivery(kind)
    with pytest.raises(IllegalEvent):
        delivery.tried(result, 0.0, NEVER)
    assert delivery.state is QUEUED


@pytest.mark.parametrize(
    "result",
    [OK, CUT, *map(Unconfirmed, MissingAnswer), *map(ErrorStatus, range(300, 600))],
    ids=str,
)
def test_a_verdict_written_whole_is_never_sent_again(result: SendResult) -> None:
    delivery = Delivery(ACTION)
    delivery.sending_began()
    [done] = delivery.tried(result, 0.0, NEVER)
    state = delivery.state
    assert state in (DELIVERED, UNCONFIRMED, UNDELIVERED)
    assert isinstance(done, MarkDone)
    assert done.state is state
    with pytest.raises(IllegalEvent):
        delivery.sending_began()
    assert delivery.state is state


# -- an hour of refusals --------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [SERVICE, ALARM])
@pytest.mark.parametrize(
    ("result", "fault"),
    [(RESET, "reset"), (ErrorStatus(503), "the VIM answered with status 503")],
)
def test_refusals_for_an_hour_are_enough(kind: OutboxKind, result: SendResult, fault: str) -> None:
    again = QUEUED, (RestInstance(), QueueAgain(fault, reached=True, refused=True))
    assert tried(kind, result, refused_since=100.0, now=100.0) == again
    assert tried(kind, result, refused_since=100.0, now=100.0 + GIVE_UP_S - 0.01) == again
    given_up = (ReportStateGivenUp(for_good=False),) if kind is SERVICE else ()
    done = MarkDone(UNDELIVERED, f"{fault}, again and again for 1 h")
    assert tried(kind, result, refused_since=100.0, now=100.0 + GIVE_UP_S) == (
        UNDELIVERED,
        (EndRest(), done, *given_up),
    )


def test_while_the_vim_could_not_be_reached_it_refused_nothing() -> None:
    state, _ = tried(ALARM, RESET, refused_since=0.0, now=GIVE_UP_S + 9, reachable_since=10.0)
    assert state is QUEUED
    state, _ = tried(ALARM, RESET, refused_since=0.0, now=GIVE_UP_S + 10, reachable_since=10.0)
    assert state is UNDELIVERED


def test_silence_is_no_refusal_however_long_it_lasts() -> None:
    assert tried(ALARM, STALLED, refused_since=0.0, now=100 * GIVE_UP_S) == (
        QUEUED,
        (RestInstance(), QueueAgain("no answer in time", reached=True, refused=False)),
    )


# -- the table ------------------------------------------------------------------------------------


def test_nothing_leaves_an_end() -> None:
    assert DELIVERY_TABLE.terminal == (DELIVERED, UNCONFIRMED, UNDELIVERED, REPLACED)


def test_what_is_being_sent_waits_for_its_end() -> None:
    for event in (DeliveryEvent.HELD_BACK, DeliveryEvent.WITHDRAWN, DeliveryEvent.SUPERSEDED):
        assert DELIVERY_TABLE.after(SENDING, event) is SENDING


def test_one_that_is_held_is_not_sent_before_it_is_let_go() -> None:
    leaves = {event: after for event, after in DELIVERY_TABLE.rows[HELD].items() if after != HELD}
    assert leaves == {DeliveryEvent.LET_GO: QUEUED, DeliveryEvent.WITHDRAWN: UNDELIVERED}


def test_the_only_way_back_from_sending_is_one_of_two() -> None:
    """Of which a verdict has but the first: see the test of all its results."""
    back = {event for event, after in DELIVERY_TABLE.rows[SENDING].items() if after is QUEUED}
    assert back == {DeliveryEvent.NOT_SENT, DeliveryEvent.FAILED}
    into = {
        (state, event)
        for state, event in product(OutboxState, DeliveryEvent)
        if DELIVERY_TABLE.rows[state].get(event) is SENDING and state is not SENDING
    }
    assert into == {(QUEUED, DeliveryEvent.SENDING_BEGAN)}
