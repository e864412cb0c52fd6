"""The guest's session, step by step: state, deadline and effects after each."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from itertools import count

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hbtrio.fsm.guest_session import (
    AbortAction,
    AnswerChallenge,
    Effect,
    GuestSession,
    SendToHost,
    SessionSettings,
    SessionStateChanged,
    StartAction,
    TakeTime,
    TimeRefused,
)
from hbtrio.fsm.guest_session_table import SESSION_TABLE, SessionEvent, SessionState
from hbtrio.policy.more_time import OFF
from hbtrio.wire.channel_codec import decode
from hbtrio.wire.channel_messages import (
    ActionNotify,
    ActionResponse,
    Challenge,
    ChallengeResponse,
    Exit,
    Extension,
    Init,
    InitAck,
    Message,
    Nack,
    TimeGranted,
)
from hbtrio.wire.vocabulary import (
    CorrectiveAction,
    Event,
    Health,
    NotificationType,
    VoteResult,
)
from wire.captured import HOST_TO_GUEST, capture

INITIAL, ENABLING, ENABLED, DISABLED = SessionState

#: Every wait of another length: the release after 1 s, init again after 4, a challenge within 6.
SETTINGS = SessionSettings("vm1", hb_interval_ms=3000, hb_init_retry_ms=4000)
NOTIFY = ActionNotify(900, Event.STOP, NotificationType.REVOCABLE, 9000)
COMPLETE = ActionResponse(900, Event.STOP, NotificationType.REVOCABLE, VoteResult.COMPLETE, "")
DOWN, STOPPING = AbortAction("the channel is down"), AbortAction("the daemon is stopping")


def started(settings: SessionSettings = SETTINGS, now: float = 0.0) -> GuestSession:
    """A session that makes the ids 101, 102, 103, ..."""
    ids = count(101)
    return GuestSession(settings, new_id=lambda: next(ids), now=now)


def in_state(state: SessionState) -> GuestSession:
    """A session that came to ``state`` by 20.0, having sent init 101 (unless it is disabled)."""
    session = started()
    if state is DISABLED:
        session.channel_down(10.0)
        return session
    session.channel_up(10.0)
    if state is not ENABLING:
        session.received(InitAck(101), 20.0)
    if state is INITIAL:
        session.shutdown(20.0)
    assert session.state is state
    return session


# -- the table ------------------------------------------------------------------------------------

#: PROTOCOL.md, guest states; "." is no change, "-" never happens. Two events are ours: init-retry
#: is the "every HB_INIT_RETRY" of enabling, and reload is a configuration read again.
PROTOCOL_TABLE = """
    event              initial   enabling  enabled   disabled
    release            enabling  -         -         -
    init-ack           .         enabled   .         .
    init-retry         -         .         -         -
    challenge          .         .         .         .
    challenge-timeout  -         -         enabling  -
    action             .         .         .         .
    reload             .         .         enabling  .
    channel-up         enabling  .         enabling  enabling
    channel-down       disabled  disabled  disabled  .
    shutdown           .         initial   initial   initial
"""


def test_the_table_is_the_one_of_the_protocol() -> None:
    head, *lines = (line.split() for line in PROTOCOL_TABLE.strip().splitlines())
    assert head[1:] == [str(state) for state in SessionState]
    assert [line[0] for line in lines] == [str(event) for event in SessionEvent]
    for event, *cells in lines:
        for state, cell in zip(SessionState, cells, strict=True):
            after = SESSION_TABLE.rows[state].get(SessionEvent(event))
            expected = {"-": None, ".": state}.get(cell) if cell in "-." else SessionState(cell)
            assert after is expected, (state, event)


def test_the_words_of_the_log_line() -> None:
    changed = started().expired(1.0, late=False)[0]
    assert isinstance(changed, SessionStateChanged)
    line = f"heartbeat state change from {changed.old} to {changed.new}, event={changed.event}."
    assert line == "heartbeat state change from initial to enabling, event=release."


# -- every transition through the public API ------------------------------------------------------

Deliver = Callable[[GuestSession], list[Effect]]
EVENTS: dict[str, Deliver] = {
    "init-ack": lambda session: session.received(InitAck(101), 30.0),
    "init-retry": lambda session: session.expired(30.0, late=False),
    "challenge": lambda session: session.received(Challenge(7), 30.0),
    "challenge-timeout": lambda session: session.expired(30.0, late=False),
    "action": lambda session: session.received(NOTIFY, 30.0),
    "reload": lambda session: session.reload(SETTINGS, 30.0),
    "channel-up": lambda session: session.channel_up(30.0),
    "channel-down": lambda session: session.channel_down(30.0),
    "shutdown": lambda session: session.shutdown(30.0),
}
INIT = SendToHost(SETTINGS.init(102))
ANSWER = AnswerChallenge(7)

#: From, event, deadline afterwards (None: as before), effects besides the change of state.
TRANSITIONS = [
    (INITIAL, "init-ack", None, []),
    (INITIAL, "challenge", None, []),
    (INITIAL, "action", None, [SendToHost(COMPLETE)]),
    (INITIAL, "reload", None, []),
    (INITIAL, "channel-up", 34.0, ["changed", INIT]),
    (INITIAL, "channel-down", math.inf, ["changed", DOWN]),
    (INITIAL, "shutdown", math.inf, [STOPPING]),
    (ENABLING, "init-ack", 36.0, ["changed"]),
    (ENABLING, "init-retry", 34.0, [INIT]),
    (ENABLING, "challenge", None, []),
    (ENABLING, "action", None, [SendToHost(COMPLETE)]),
    (ENABLING, "reload", 34.0, [INIT]),
    (ENABLING, "channel-up", 34.0, [INIT]),
    (ENABLING, "channel-down", math.inf, ["changed", DOWN]),
    (ENABLING, "shutdown", math.inf, [STOPPING, "changed"]),
    (ENABLED, "init-ack", None, []),
    (ENABLED, "challenge", 36.0, [ANSWER]),
    (ENABLED, "challenge-timeout", 34.0, ["changed", INIT]),
    (ENABLED, "action", None, [StartAction(NOTIFY)]),
    (ENABLED, "reload", 34.0, ["changed", INIT]),
    (ENABLED, "channel-up", 34.0, ["changed", INIT]),
    (ENABLED, "channel-down", math.inf, ["changed", DOWN]),
    (ENABLED, "shutdown", math.inf, [STOPPING, SendToHost(Exit("Exiting...")), "changed"]),
    (DISABLED, "init-ack", None, []),
    (DISABLED, "challenge", None, []),
    (DISABLED, "action", None, [SendToHost(COMPLETE)]),
    (DISABLED, "reload", None, []),
    (DISABLED, "channel-up", 34.0, ["changed", SendToHost(SETTINGS.init(101))]),
    (DISABLED, "channel-down", math.inf, [DOWN]),
    (DISABLED, "shutdown", math.inf, [STOPPING, "changed"]),
]


@pytest.mark.parametrize(("state", "event", "deadline", "expected"), TRANSITIONS)
def test_a_transition(
    state: SessionState, event: str, deadline: float | None, expected: list[Effect | str]
) -> None:
    session = in_state(state)
    before = session.deadline
    effects = EVENTS[event](session)
    new = SESSION_TABLE.rows[state][SessionEvent(event)]
    changed = SessionStateChanged(state, new, SessionEvent(event))
    assert session.state is new
    assert session.deadline == (before if deadline is None else deadline)
    assert effects == [changed if effect == "changed" else effect for effect in expected]
    assert ("changed" in expected) is (new is not state)


def test_every_legal_pair_has_its_transition_above() -> None:
    legal = {(state, str(e)) for state, row in SESSION_TABLE.rows.items() for e in row}
    # The release is a matter of the start: see below.
    assert {row[:2] for row in TRANSITIONS} == legal - {(INITIAL, "release")}


# -- the start ------------------------------------------------------------------------------------


def test_a_session_is_released_one_second_after_its_start() -> None:
    session = started(now=50.0)
    assert (session.state, session.deadline) == (INITIAL, 51.0)
    assert session.expired(51.0, late=False) == [
        SessionStateChanged(INITIAL, ENABLING, SessionEvent.RELEASE),
        SendToHost(SETTINGS.init(101)),
    ]
    assert (session.state, session.deadline) == (ENABLING, 55.0)


def test_a_release_is_not_held_up_by_lateness() -> None:
    session = started()
    session.expired(9.0, late=True)
    assert (session.state, session.deadline) == (ENABLING, 13.0)


def test_a_channel_that_is_down_at_the_start_cancels_the_release() -> None:
    session = started()
    assert session.channel_down(0.5) == [
        SessionStateChanged(INITIAL, DISABLED, SessionEvent.CHANNEL_DOWN),
        DOWN,
    ]
    assert (session.state, session.deadline) == (DISABLED, math.inf)
    assert session.expired(1.0, late=False) == []
    assert (session.state, session.deadline) == (DISABLED, math.inf)


# -- the handshake --------------------------------------------------------------------------------


def test_init_is_sent_again_with_a_fresh_id_until_it_is_acknowledged() -> None:
    session = started()
    session.expired(1.0, late=False)
    for number in range(5):
        at = 5.0 + 4 * number
        assert session.deadline == at
        assert session.expired(at, late=number % 2 == 0) == [
            SendToHost(SETTINGS.init(102 + number))
        ]
        assert (session.state, session.deadline) == (ENABLING, at + 4.0)


@pytest.mark.parametrize(
    ("acknowledged", "accepted"),
    [(104, True), (103, True), (102, False), (101, False), (105, False), (0, False)],
    ids=["last", "last but one", "older", "first", "never sent", "zero"],
)
def test_only_the_last_two_ids_are_accepted(acknowledged: int, accepted: bool) -> None:
    session = in_state(ENABLING)
    for at in (14.0, 18.0, 22.0):
        session.expired(at, late=False)
    effects = session.received(InitAck(acknowledged), 23.0)
    if accepted:
        assert effects == [SessionStateChanged(ENABLING, ENABLED, SessionEvent.INIT_ACK)]
        assert (session.state, session.deadline) == (ENABLED, 29.0)
    else:
        assert effects == []
        assert (session.state, session.deadline) == (ENABLING, 26.0)


def test_a_second_acknowledgement_does_not_put_off_the_challenge_timeout() -> None:
    session = in_state(ENABLED)
    assert session.received(InitAck(101), 25.0) == []
    assert (session.state, session.deadline) == (ENABLED, 26.0)


@pytest.mark.parametrize(
    "message",
    [
        SETTINGS.init(1),
        ChallengeResponse(7, Health.HEALTHY, CorrectiveAction.NONE, ""),
        COMPLETE,
        Exit("Exiting..."),
        Nack(101, "failed to parse name"),
    ],
    ids=lambda message: str(message.TYPE),
)
@pytest.mark.parametrize("state", SessionState)
def test_what_a_host_never_sends_and_a_nack_change_nothing(
    state: SessionState, message: Message
) -> None:
    session = in_state(state)
    before = session.deadline
    assert session.received(message, 30.0) == []
    assert (session.state, session.deadline) == (state, before)


def test_a_host_that_offers_more_time_is_asked_until_it_refuses_the_message() -> None:
    session = in_state(SessionState.ENABLED)
    notify = ActionNotify(7, Event.STOP, NotificationType.REVOCABLE, 9000)
    assert session.received(notify, 30.0) == [StartAction(notify)]
    acknowledged = session._init_ids[-1]
    session.received(InitAck(acknowledged, Extension.MORE_TIME), 30.0)
    assert session.received(notify, 30.0) == [StartAction(notify, more_time=True)]
    granted = TimeGranted(7, 1, 30, "")
    assert session.received(granted, 30.0) == [TakeTime(granted)]
    refused = Nack(7, "unknown msg_type more_time")
    assert session.received(refused, 30.0) == [TimeRefused(OFF)]
    assert session.received(notify, 30.0) == [StartAction(notify)]


# -- the challenge timeout ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("interval_ms", "minimum_ms", "timeout_s"),
    [(1000, 5000, 5.0), (2500, 5000, 5.0), (2501, 5000, 5.002), (400, 700, 0.8), (60_000, 0, 120)],
)
def test_the_challenge_timeout_is_two_intervals_or_the_minimum(
    interval_ms: int, minimum_ms: int, timeout_s: float
) -> None:
    settings = SessionSettings("vm1", hb_interval_ms=interval_ms, hb_min_timeout_ms=minimum_ms)
    assert settings.challenge_timeout_s == timeout_s
    session = started(settings)
    session.channel_up(0.0)
    session.received(InitAck(101), 10.0)
    assert session.deadline == 10.0 + timeout_s


def test_a_challenge_just_before_the_timeout_puts_it_off() -> None:
    session = in_state(ENABLED)
    assert session.deadline == 26.0
    assert session.received(Challenge(1), 25.999) == [AnswerChallenge(1)]
    assert (session.state, session.deadline) == (ENABLED, 31.999)


@pytest.mark.parametrize("now", [26.0, 26.001, 500.0])
def test_at_the_timeout_and_after_it_the_handshake_starts_over(now: float) -> None:
    session = in_state(ENABLED)
    assert session.expired(now, late=False) == [
        SessionStateChanged(ENABLED, ENABLING, SessionEvent.CHALLENGE_TIMEOUT),
        INIT,
    ]
    assert (session.state, session.deadline) == (ENABLING, now + 4.0)
    # A challenge that comes after it is not answered: the host has to acknowledge first.
    assert session.received(Challenge(1), now + 1) == []
    assert (session.state, session.deadline) == (ENABLING, now + 4.0)


def test_while_the_process_is_late_the_timeout_is_armed_again() -> None:
    session = in_state(ENABLED)
    assert session.expired(40.0, late=True) == []
    assert (session.state, session.deadline) == (ENABLED, 46.0)
    assert session.expired(46.0, late=True) == []
    assert (session.state, session.deadline) == (ENABLED, 52.0)
    assert session.received(Challenge(1), 46.5) == [AnswerChallenge(1)]
    assert (session.state, session.deadline) == (ENABLED, 52.5)
    assert session.expired(52.5, late=False) == [
        SessionStateChanged(ENABLED, ENABLING, SessionEvent.CHALLENGE_TIMEOUT),
        INIT,
    ]


def test_a_burst_of_queued_challenges_is_answered_one_by_one() -> None:
    session = in_state(ENABLED)
    for number in range(12):
        assert session.received(Challenge(number), 25.0) == [AnswerChallenge(number)]
    assert (session.state, session.deadline) == (ENABLED, 31.0)


# -- actions --------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", [INITIAL, ENABLING, DISABLED])
@pytest.mark.parametrize("event", Event)
@pytest.mark.parametrize("notification", NotificationType)
def test_outside_enabled_an_action_is_answered_complete_under_its_own_id_and_words(
    state: SessionState, event: Event, notification: NotificationType
) -> None:
    session = in_state(state)
    before = session.deadline
    answer = ActionResponse(5, event, notification, VoteResult.COMPLETE, "")
    assert session.received(ActionNotify(5, event, notification, 9000), 30.0) == [
        SendToHost(answer)
    ]
    assert (session.state, session.deadline) == (state, before)


@pytest.mark.parametrize(
    ("state", "timeout"), [(INITIAL, 36.0), (ENABLING, 36.0), (ENABLED, 26.0), (DISABLED, math.inf)]
)
def test_when_a_challenge_may_be_missed_at_the_earliest(
    state: SessionState, timeout: float
) -> None:
    assert in_state(state).timeout_from(30.0) == timeout


def test_an_action_does_not_count_as_a_challenge() -> None:
    session = in_state(ENABLED)
    session.received(NOTIFY, 25.0)
    assert session.deadline == 26.0


# -- settings -------------------------------------------------------------------------------------


def test_init_advertises_one_second_more_for_each_window() -> None:
    settings = SessionSettings("vm1")
    assert settings.init(5) == Init(5, "vm1", 1000, 11, 11, 11, 11, 121, CorrectiveAction.REBOOT)


def test_reload_advertises_the_new_settings_and_waits_by_them() -> None:
    session = in_state(ENABLED)
    settings = msgspec.structs.replace(
        SETTINGS, name="vm2", hb_init_retry_ms=2000, hb_min_timeout_ms=9000
    )
    assert session.reload(settings, 22.0) == [
        SessionStateChanged(ENABLED, ENABLING, SessionEvent.RELOAD),
        SendToHost(settings.init(102)),
    ]
    assert (session.state, session.deadline) == (ENABLING, 24.0)
    session.received(InitAck(102), 23.0)
    assert (session.state, session.deadline) == (ENABLED, 32.0)


@pytest.mark.parametrize("state", [INITIAL, DISABLED])
def test_settings_reloaded_while_nothing_is_said_are_advertised_later(state: SessionState) -> None:
    session = in_state(state)
    settings = msgspec.structs.replace(SETTINGS, name="vm2")
    assert session.reload(settings, 22.0) == []
    assert SendToHost(settings.init(102 if state is INITIAL else 101)) in session.channel_up(30.0)


# -- what a deployed client did -------------------------------------------------------------------

SHIPPED = SessionSettings(
    "vm1", vote_s=8, shutdown_notice_s=8, suspend_notice_s=8, resume_notice_s=13, restart_s=600
)
RAND = [1804289383, 846930886, 1681692777, 1714636915, 1957747793, 424238335, 719885386, 1649760492]


def replayed(name: str) -> list[tuple[float, Effect]]:
    """What our session does when the host says what it said in a recording, with its times."""
    ids = iter(RAND)
    session = GuestSession(SHIPPED, new_id=lambda: next(ids), now=0.0)
    done: list[tuple[float, Effect]] = []
    messages = capture(name)
    for captured in messages:
        while session.deadline < captured.at_s:
            at = session.deadline
            done += [(at, effect) for effect in session.expired(at, late=False)]
        if captured.direction == HOST_TO_GUEST:
            at = captured.at_s
            done += [(at, effect) for effect in session.received(decode(captured.line), at)]
    return done


def test_our_inits_come_when_those_of_a_deployed_client_came() -> None:
    ours = [
        (at, effect.message)
        for at, effect in replayed("k1_silent")
        if isinstance(effect, SendToHost)
    ]
    theirs = [
        (captured.at_s, decode(captured.line))
        for captured in capture("k1_silent")
        if json.loads(captured.line)["msg_type"] == "init"
    ]
    assert len(theirs) == 8
    assert [message for _, message in ours] == [message for _, message in theirs]
    for (our_time, _), (their_time, _) in zip(ours, theirs, strict=True):
        assert our_time == pytest.approx(their_time, abs=0.05)


def test_before_the_acknowledgement_we_answer_what_a_deployed_client_answered() -> None:
    ours = [
        effect.message for _, effect in replayed("h_noscript") if isinstance(effect, SendToHost)
    ]
    theirs = [decode(c.line) for c in capture("h_noscript") if c.direction != HOST_TO_GUEST]
    # init and two actions asked before the acknowledgement; the challenge among them is ignored.
    assert ours == theirs[:3]
    assert [type(message) for message in ours] == [Init, ActionResponse, ActionResponse]


# -- whatever happens -----------------------------------------------------------------------------

STEPS = st.lists(
    st.tuples(
        st.sampled_from(
            [
                "ack",
                "old ack",
                "challenge",
                "action",
                "expire",
                "expire late",
                "up",
                "down",
                "reload",
                "shutdown",
                "nack",
            ]
        ),
        st.integers(0, 40),
    ),
    max_size=40,
)


@settings(deadline=None)  # a shared machine may be slow
@given(STEPS)
def test_whatever_comes_in_whatever_order_the_session_keeps_its_promises(
    steps: list[tuple[str, int]],
) -> None:
    session, now, sent = started(), 0.0, [0, 0]
    for step, quarters in steps:
        now = min(now + quarters / 4, session.deadline)
        old = session.state
        match step:
            case "ack":
                effects = session.received(InitAck(sent[-1]), now)
            case "old ack":
                effects = session.received(InitAck(sent[-2]), now)
            case "challenge":
                effects = session.received(Challenge(7), now)
                assert (AnswerChallenge(7) in effects) is (old is ENABLED)
            case "action":
                effects = session.received(NOTIFY, now)
                assert effects == (
                    [StartAction(NOTIFY)] if old is ENABLED else [SendToHost(COMPLETE)]
                )
            case "expire" | "expire late":
                if session.deadline == math.inf:
                    continue
                now = max(now, session.deadline)
                effects = session.expired(now, late=step == "expire late")
            case "up":
                effects = session.channel_up(now)
            case "down":
                effects = session.channel_down(now)
            case "reload":
                effects = session.reload(SETTINGS, now)
            case "shutdown":
                effects = session.shutdown(now)
                assert (SendToHost(Exit("Exiting...")) in effects) is (old is ENABLED)
            case _:
                effects = session.received(Nack(1, ""), now)
        changes = [effect for effect in effects if isinstance(effect, SessionStateChanged)]
        assert [(c.old, c.new) for c in changes] == (
            [] if old is session.state else [(old, session.state)]
        )
        inits = [
            e.message for e in effects if isinstance(e, SendToHost) and isinstance(e.message, Init)
        ]
        assert len(inits) <= 1
        if session.state is ENABLING and old is not ENABLING:
            assert len(inits) == 1
        sent += [message.invocation_id for message in inits]
        if session.state is ENABLED:
            assert now <= session.deadline <= now + 6.0
        elif session.state is ENABLING:
            assert session.deadline <= now + 4.0
        elif session.state is DISABLED:
            assert session.deadline == math.inf
        else:
            assert session.deadline in (1.0, math.inf)
