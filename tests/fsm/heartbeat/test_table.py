"""The heartbeat's table: every legal pair is reached through the public API, no other can be."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator
from functools import partial

import pytest

from hbtrio.fsm.domain import DomainChange
from hbtrio.fsm.heartbeat import situation
from hbtrio.fsm.heartbeat.effects import Effect
from hbtrio.fsm.heartbeat.outage import CALL_OFF_S, Sign
from hbtrio.fsm.heartbeat.situation import NOTHING
from hbtrio.fsm.heartbeat.table import (
    ANSWER_DECISION,
    CHALLENGED,
    EXPECTED_BACK,
    FREEZING,
    HEARTBEAT_TABLE,
    HEARTBEATING,
    PATIENT,
    PROBED,
    TAKING_PART,
    HeartbeatEvent,
    HeartbeatState,
)
from hbtrio.fsm.table import IllegalEvent, Table
from hbtrio.policy.profile import Profile
from hbtrio.wire.vocabulary import Event
from support.heartbeat_bench import HeartbeatBench, Snapshot

S, E = HeartbeatState, HeartbeatEvent

#: The call-off time of the pauses here: their notice is over at 0.25 s.
CALLED_OFF = 0.25 + CALL_OFF_S

Pair = tuple[HeartbeatState, HeartbeatEvent]

LEGAL = [(state, event) for state in S for event in HEARTBEAT_TABLE.rows[state]]
# In the order of the enum: every worker of a parallel run has to collect the same list.
ILLEGAL = [(state, event) for state in S for event in E if event in HEARTBEAT_TABLE.illegal[state]]


class Recorder(Table[HeartbeatState, HeartbeatEvent]):
    """The table, with a note of each pair that was looked up."""

    def __init__(self) -> None:
        super().__init__(
            HEARTBEAT_TABLE.name,
            HEARTBEAT_TABLE.initial,
            HEARTBEAT_TABLE.rows,
            HEARTBEAT_TABLE.illegal,
            HeartbeatEvent,
        )
        self.pairs: list[Pair] = []

    def after(self, state: HeartbeatState, event: HeartbeatEvent) -> HeartbeatState:
        self.pairs.append((state, event))
        return super().after(state, event)


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Recorder]:
    recorder = Recorder()
    monkeypatch.setattr(situation, "HEARTBEAT_TABLE", recorder)
    yield recorder
    assert set(recorder.pairs) <= set(LEGAL)


# -- how to get into each state -----------------------------------------------------------------


def waiting() -> HeartbeatBench:
    bench = HeartbeatBench()
    bench.skip(bench.open())
    return bench


def heartbeating() -> HeartbeatBench:
    return HeartbeatBench().heartbeating()


def suspended() -> HeartbeatBench:
    bench = heartbeating()
    bench.skip(bench.beat.announced.notice_over(Event.PAUSE, bench.now))
    return bench


def frozen() -> HeartbeatBench:
    """Suspended, with two probes unanswered."""
    bench = suspended()
    bench.run(3.0)
    return bench


def provisional() -> HeartbeatBench:
    bench = frozen()
    bench.skip(prove(bench))
    return bench


def silent_again() -> HeartbeatBench:
    bench = provisional()
    bench.run(6.0)
    assert bench.beat.state is S.SUSPENDED
    return bench


def unwatched() -> HeartbeatBench:
    bench = silent_again()
    bench.run(CALLED_OFF)
    return bench


def provisional_until_called_off() -> HeartbeatBench:
    """Challenged for the last time before the call-off, and silent from there on."""
    bench = provisional()
    bench.run(CALLED_OFF - 2, answers=True)
    return bench


def returning() -> HeartbeatBench:
    bench = suspended()
    bench.skip(bench.beat.announced.notice_opened(Event.UNPAUSE, bench.now))
    return bench


def restarting() -> HeartbeatBench:
    bench = heartbeating()
    bench.skip(bench.beat.announced.notice_over(Event.REBOOT, bench.now))
    return bench


def lost() -> HeartbeatBench:
    bench = heartbeating()
    bench.run(3.0)
    return bench


def change(bench: HeartbeatBench, what: DomainChange) -> tuple[Effect, ...]:
    return bench.beat.domain.changed(what, what.value, bench.now)


def paused() -> HeartbeatBench:
    bench = heartbeating()
    bench.skip(change(bench, DomainChange.PAUSED))
    return bench


def stopped() -> HeartbeatBench:
    bench = heartbeating()
    bench.skip(change(bench, DomainChange.STOPPED))
    return bench


def absent() -> HeartbeatBench:
    bench = exited()
    bench.run(bench.now + 121.0)
    return bench


def unheard() -> HeartbeatBench:
    bench = waiting()
    bench.run(bench.beat.profile.restart_s)
    return bench


def unheard_after_a_start() -> HeartbeatBench:
    """An event was announced to the guest of the process before."""
    bench = suspended_to_stop()
    bench.skip(change(bench, DomainChange.STARTED))
    bench.run(130.0)
    return bench


def paused_after(before: HeartbeatBench) -> HeartbeatBench:
    before.skip(change(before, DomainChange.PAUSED))
    return before


REACH: dict[HeartbeatState, Callable[[], HeartbeatBench]] = {
    S.WAITING: waiting,
    S.HEARTBEATING: heartbeating,
    S.PROVISIONAL: provisional,
    S.SUSPENDED: suspended,
    S.UNWATCHED: unwatched,
    S.UNHEARD: unheard,
    S.RETURNING: returning,
    S.RESTARTING: restarting,
    S.LOST: lost,
    S.PAUSED: paused,
    S.STOPPED: stopped,
    S.ABSENT: absent,
}


def lost_and_disconnected() -> HeartbeatBench:
    """The only way to be lost and connect: a RESTART window that closed without a connection."""
    bench = restarting()
    bench.skip(bench.beat.closed("reset"))
    bench.skip(bench.beat.losses.restart_expired(bench.now))
    return bench


def restarting_without_a_guest() -> HeartbeatBench:
    bench = waiting()
    bench.skip(bench.beat.announced.restarts(Event.REBOOT, bench.now))
    return bench


def exited_and_reset() -> HeartbeatBench:
    bench = exited()
    bench.skip(bench.beat.domain.reset(bench.now))
    return bench


def reset() -> HeartbeatBench:
    bench = heartbeating()
    bench.skip(bench.beat.domain.reset(bench.now))
    return bench


def exited() -> HeartbeatBench:
    bench = heartbeating()
    bench.skip(bench.send_exit())
    return bench


def disconnected() -> HeartbeatBench:
    """Waiting, with a guest that has not said that it goes."""
    bench = heartbeating()
    bench.skip(bench.beat.closed("reset"))
    return bench


def saved() -> HeartbeatBench:
    """Stopped by a suspend that was announced."""
    bench = suspended()
    bench.skip(change(bench, DomainChange.STOPPED))
    return bench


def returning_without_a_guest() -> HeartbeatBench:
    bench = waiting()
    bench.skip(bench.beat.announced.notice_opened(Event.UNPAUSE, bench.now))
    return bench


def paused_in(event: Event) -> HeartbeatBench:
    bench = heartbeating()
    bench.skip(bench.beat.announced.notice_over(event, bench.now))
    bench.skip(change(bench, DomainChange.PAUSED))
    return bench


def suspended_to_stop() -> HeartbeatBench:
    """A VM that starts anew is no longer the one that was to stop."""
    bench = heartbeating()
    bench.skip(bench.beat.announced.notice_over(Event.STOP, bench.now))
    return bench


def after_a_pause(state: HeartbeatState) -> HeartbeatBench:
    """Where an event that is over can still be said not to have happened."""
    bench = suspended()
    if state is S.WAITING:
        bench.skip(bench.send_exit())
    else:
        bench.beat.announced.carried_out(Event.PAUSE, bench.now)
        bench.skip(prove(bench))
    if state is S.LOST:
        bench.run(10.0)
    return bench


def carried_out() -> HeartbeatBench:
    bench = frozen()
    bench.beat.announced.carried_out(Event.PAUSE, bench.now)
    return bench


def presumed() -> HeartbeatBench:
    """Remembered from before this host's start, and without a socket."""
    bench = HeartbeatBench()
    bench.skip(
        bench.beat.losses.presumed(Profile(), "remembered", 30.0, bench.now, remembered=True)
    )
    return bench


REACH_FOR: dict[Pair, Callable[[], HeartbeatBench]] = {
    (S.LOST, E.CONNECTED): lost_and_disconnected,
    (S.PROVISIONAL, E.PROVEN): provisional_until_called_off,
    (S.PROVISIONAL, E.UNWATCHED): provisional_until_called_off,
    (S.SUSPENDED, E.CAME_BACK): frozen,
    (S.SUSPENDED, E.PROVEN): carried_out,
    (S.SUSPENDED, E.UNWATCHED): silent_again,
    (S.RESTARTING, E.STAYS_AWAY): restarting_without_a_guest,
    (S.RETURNING, E.STAYS_AWAY): returning_without_a_guest,
    (S.RESTARTING, E.STAYS_ABSENT): exited_and_reset,
    (S.RETURNING, E.STAYS_ABSENT): presumed,
    (S.RESTARTING, E.NO_GUEST): reset,
    (S.RESTARTING, E.ENDED): reset,
    (S.WAITING, E.RESET): exited,
    (S.WAITING, E.FAILED): disconnected,
    (S.WAITING, E.STAYS_ABSENT): exited,
    (S.PAUSED, E.STAYS_ABSENT): lambda: paused_after(absent()),
    (S.PAUSED, E.STAYS_UNHEARD): lambda: paused_after(unheard()),
    (S.UNHEARD, E.CALLED_OFF): unheard_after_a_start,
    (S.SUSPENDED, E.NO_GUEST): suspended_to_stop,
    (S.PAUSED, E.RESUMES_RESTART): partial(paused_in, Event.REBOOT),
    (S.PAUSED, E.RESUMES_STOP): partial(paused_in, Event.STOP),
    (S.PAUSED, E.CALLED_OFF): partial(paused_in, Event.PAUSE),
    (S.STOPPED, E.RESUMED): saved,
    (S.STOPPED, E.CALLED_OFF): saved,
    **{
        (state, E.CALLED_OFF): partial(after_a_pause, state)
        for state in (S.WAITING, S.HEARTBEATING, S.LOST)
    },
}

# -- how to bring about each event --------------------------------------------------------------


def challenged(bench: HeartbeatBench) -> HeartbeatBench:
    """A challenge is unanswered, whatever the state; an ``init`` asks for one."""
    if not bench.beat.owes_answer:
        bench.skip(bench.send_init())
    return bench


def connect(bench: HeartbeatBench) -> tuple[Effect, ...]:
    if bench.beat.connected:
        bench.skip(bench.beat.closed("reset"))
    return bench.open()


def prove(bench: HeartbeatBench) -> tuple[Effect, ...]:
    bench.skip(bench.send_init())
    return bench.answer_challenge()


def prove_late(bench: HeartbeatBench) -> tuple[Effect, ...]:
    """By an answer after the call-off time, where one before it would be another event."""
    if bench.beat.state is S.PROVISIONAL:
        bench.run(CALLED_OFF, answers=True)
        return NOTHING
    return prove(bench)


def unwatch(bench: HeartbeatBench) -> tuple[Effect, ...]:
    before, effects = bench.beat.state, NOTHING
    while bench.beat.state is before:
        effects = bench.skip(bench.at(bench.beat.due).tick())
    return effects


def beat_again(bench: HeartbeatBench) -> tuple[Effect, ...]:
    bench.at(bench.beat.due)
    bench.skip(bench.tick())
    return bench.answer_challenge()


def miss(bench: HeartbeatBench) -> tuple[Effect, ...]:
    challenged(bench)
    bench.at(bench.now + 1)
    return bench.tick()


def fall_silent(bench: HeartbeatBench) -> tuple[Effect, ...]:
    bench.run(bench.beat.due + 1)
    return bench.at(bench.beat.due).tick()


def call_off(bench: HeartbeatBench) -> tuple[Effect, ...]:
    return bench.beat.announced.called_off(
        bench.beat.situation.outage.event, "it failed", bench.now
    )


def resume(bench: HeartbeatBench) -> tuple[Effect, ...]:
    """A saved VM is started, another goes on."""
    stopped = bench.beat.state is S.STOPPED
    return change(bench, DomainChange.STARTED if stopped else DomainChange.RESUMED)


def stay_missing(bench: HeartbeatBench) -> tuple[Effect, ...]:
    """No guest comes in time, or the VM runs again after a pause before which none had come."""
    match bench.beat.state:
        case S.PAUSED:
            return change(bench, DomainChange.RESUMED)
        case S.WAITING:
            return bench.beat.losses.overdue(bench.now)
    return bench.beat.losses.restart_expired(bench.now)


ACT: dict[HeartbeatEvent, Callable[[HeartbeatBench], tuple[Effect, ...]]] = {
    E.CONNECTED: connect,
    E.CLOSED: lambda bench: bench.beat.closed("reset"),
    E.INIT: lambda bench: bench.send_init(),
    E.ANSWERED: beat_again,
    E.CAME_BACK: prove,
    E.PROVEN: prove_late,
    E.MISSED: miss,
    E.FELL_SILENT: fall_silent,
    E.LEFT: lambda bench: bench.send_exit(),
    E.STOPS: lambda bench: bench.beat.announced.notice_over(Event.STOP, bench.now),
    E.FREEZES: lambda bench: bench.beat.announced.notice_over(Event.SUSPEND, bench.now),
    E.RESTARTS: lambda bench: bench.beat.announced.notice_over(Event.REBOOT, bench.now),
    E.RETURNS: lambda bench: bench.beat.announced.notice_opened(Event.RESUME, bench.now),
    E.CALLED_OFF: call_off,
    E.UNWATCHED: unwatch,
    E.STAYS_AWAY: lambda bench: bench.beat.losses.restart_expired(bench.now),
    E.RESTART_EXPIRED: lambda bench: bench.beat.losses.restart_expired(bench.now),
    E.REMOVED: lambda bench: bench.beat.removed("socket gone"),
    E.STAYS_ABSENT: stay_missing,
    E.STAYS_UNHEARD: stay_missing,
    E.PAUSED: lambda bench: change(bench, DomainChange.PAUSED),
    E.RESUMED: resume,
    E.RESUMES_RESTART: lambda bench: change(bench, DomainChange.RESUMED),
    E.RESUMES_STOP: lambda bench: change(bench, DomainChange.RESUMED),
    E.NO_GUEST: lambda bench: change(bench, DomainChange.STARTED),
    E.RESET: lambda bench: bench.beat.domain.reset(bench.now),
    E.ENDED: lambda bench: change(bench, DomainChange.STOPPED),
    E.FAILED: lambda bench: change(bench, DomainChange.FAILED),
}


@pytest.mark.parametrize(("state", "event"), LEGAL, ids=lambda word: word.name)
def test_every_legal_pair_is_reached(state: S, event: E, recorder: Recorder) -> None:
    bench = REACH_FOR.get((state, event), REACH[state])()
    assert bench.beat.state is state
    recorder.pairs.clear()
    bench.skip(ACT[event](bench))
    assert recorder.pairs[-1] == (state, event)
    assert bench.beat.state is HEARTBEAT_TABLE.rows[state][event]


@pytest.mark.parametrize(("state", "event"), ILLEGAL, ids=lambda word: word.name)
def test_an_illegal_pair_raises(state: S, event: E) -> None:
    with pytest.raises(IllegalEvent, match=f"^heartbeat: {event.name} is illegal in {state.name}$"):
        HEARTBEAT_TABLE.after(state, event)


GONE_CALLS: dict[str, Callable[[HeartbeatBench], object]] = {
    "opened": lambda bench: bench.open(),
    "closed": lambda bench: bench.beat.closed("reset"),
    "removed": lambda bench: bench.beat.removed("again"),
    "init": lambda bench: bench.send_init(),
    "exit": lambda bench: bench.send_exit(),
    "notice_opened": lambda bench: bench.beat.announced.notice_opened(Event.UNPAUSE, bench.now),
    "notice_over": lambda bench: bench.beat.announced.notice_over(Event.PAUSE, bench.now),
    "restarts": lambda bench: bench.beat.announced.restarts("reboot", bench.now),
    "stops": lambda bench: bench.beat.announced.stops("stop", bench.now),
}


@pytest.mark.parametrize("call", GONE_CALLS)
@pytest.mark.parametrize("before", REACH, ids=lambda state: state.name)
def test_after_the_end_everything_raises_and_changes_nothing(before: S, call: str) -> None:
    bench = REACH[before]()
    bench.skip(bench.beat.removed("socket gone"))
    with pytest.raises(IllegalEvent):
        GONE_CALLS[call](bench)
    assert Snapshot.of(bench.beat) == bench.seen


@pytest.mark.parametrize("before", REACH, ids=lambda state: state.name)
def test_what_may_still_be_on_its_way_at_the_end_is_harmless(before: S) -> None:
    bench = challenged(REACH[before]())
    bench.skip(bench.beat.removed("socket gone"))
    bench.expect(bench.answer_challenge(), [])
    bench.expect(bench.at(bench.now + 1).tick(), [])
    bench.expect(bench.beat.losses.restart_expired(bench.now), [])
    bench.expect(bench.beat.announced.notice_opened(Event.PAUSE, bench.now), [])
    bench.expect(bench.beat.announced.notice_over(Event.UNPAUSE, bench.now), [])
    bench.expect(bench.beat.announced.called_off("nothing", "it failed", bench.now), [])


def test_connecting_twice_without_closing_is_a_fault_where_it_would_hide_a_stop() -> None:
    bench = heartbeating()
    with pytest.raises(IllegalEvent):
        bench.open()
    assert Snapshot.of(bench.beat) == bench.seen


def test_only_the_end_is_final() -> None:
    assert HEARTBEAT_TABLE.terminal == (S.GONE,)


def ways(begins: Container[S], ends: Container[S]) -> set[Pair]:
    """All that leads from one of the first states to one of the others."""
    rows = HEARTBEAT_TABLE.rows
    return {(one, what) for one, what in LEGAL if one in begins and rows[one][what] in ends}


def test_only_a_proof_leads_to_heartbeating() -> None:
    away = set(S) - HEARTBEATING
    assert {event for _, event in ways(away, HEARTBEATING)} == {E.CAME_BACK, E.PROVEN}
    assert ways(away, {S.PROVISIONAL}) == {(S.SUSPENDED, E.CAME_BACK)}


def test_a_return_becomes_final_and_never_provisional_again() -> None:
    assert {event for _, event in ways({S.PROVISIONAL}, {S.HEARTBEATING})} == {
        E.PROVEN,
        E.RETURNS,
        E.CALLED_OFF,
    }
    assert ways({S.HEARTBEATING}, {S.PROVISIONAL}) == set()


def test_only_what_follows_a_freeze_is_unwatched() -> None:
    assert ways(set(S) - {S.UNWATCHED}, {S.UNWATCHED}) == {
        (S.PROVISIONAL, E.UNWATCHED),
        (S.SUSPENDED, E.UNWATCHED),
    }


def test_what_an_answer_means() -> None:
    """It proves that the instance is back, but for these."""
    pairs = [(state, sign) for state in ANSWER_DECISION.states for sign in Sign]
    decided = {(state, sign): ANSWER_DECISION.event(state, sign) for state, sign in pairs}
    assert {pair: event for pair, event in decided.items() if event is not E.PROVEN} == {
        **{(S.HEARTBEATING, sign): E.ANSWERED for sign in Sign},
        (S.PROVISIONAL, Sign.GOES_ON): E.ANSWERED,
        (S.PROVISIONAL, Sign.BACK): E.ANSWERED,
        (S.SUSPENDED, Sign.GOES_ON): E.ANSWERED,
        (S.SUSPENDED, Sign.BACK): E.CAME_BACK,
        (S.RESTARTING, Sign.GOES_ON): E.ANSWERED,
    }


def test_what_the_states_are_called() -> None:
    assert {state: state.shown for state in S if state.shown != state.value} == {
        S.PROVISIONAL: "heartbeating",
        S.UNHEARD: "unwatched",
    }


def test_loss_is_possible_only_while_heartbeating_or_expected_back_or_if_libvirt_says_so() -> None:
    ends = ways(set(S) - {S.LOST}, {S.LOST})
    assert {pair for pair in ends if pair[1] is not E.FAILED} == {
        (S.HEARTBEATING, E.FELL_SILENT),
        *((state, E.RESTART_EXPIRED) for state in EXPECTED_BACK),
    }


def test_what_is_said_of_the_states_fits_together() -> None:
    assert CHALLENGED.isdisjoint(PROBED)
    assert PATIENT - {S.PAUSED} < TAKING_PART
    assert EXPECTED_BACK < TAKING_PART
    assert HEARTBEATING < CHALLENGED
    assert FREEZING < CHALLENGED | PROBED
    assert set(S) - TAKING_PART == {
        S.WAITING,
        S.UNWATCHED,
        S.UNHEARD,
        S.LOST,
        S.PAUSED,
        S.STOPPED,
        S.ABSENT,
        S.GONE,
    }
