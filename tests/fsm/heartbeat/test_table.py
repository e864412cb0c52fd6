"""The heartbeat's table: every legal pair is reached through the public API, no other can be."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import pytest

from hbtrio.fsm.heartbeat import pulse
from hbtrio.fsm.heartbeat.machine import Effect
from hbtrio.fsm.heartbeat.table import (
    CHALLENGED,
    HEARTBEAT_TABLE,
    PATIENT,
    PROBED,
    TAKING_PART,
    HeartbeatEvent,
    HeartbeatState,
)
from hbtrio.fsm.table import IllegalEvent, Table
from hbtrio.wire.vocabulary import Event
from support.heartbeat_bench import Bench, Snapshot

S, E = HeartbeatState, HeartbeatEvent

Pair = tuple[HeartbeatState, HeartbeatEvent]

LEGAL = [(state, event) for state in S for event in HEARTBEAT_TABLE.rows[state]]
ILLEGAL = [(state, event) for state in S for event in HEARTBEAT_TABLE.illegal[state]]


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
    monkeypatch.setattr(pulse, "HEARTBEAT_TABLE", recorder)
    yield recorder
    assert set(recorder.pairs) <= set(LEGAL)


# -- how to get into each state -----------------------------------------------------------------


def waiting() -> Bench:
    bench = Bench()
    bench.skip(bench.open())
    return bench


def beating() -> Bench:
    return Bench().beating()


def suspended() -> Bench:
    bench = beating()
    bench.skip(bench.beat.notice_over(Event.PAUSE, bench.now))
    return bench


def returning() -> Bench:
    bench = suspended()
    bench.skip(bench.beat.notice_opened(Event.UNPAUSE, bench.now))
    return bench


def restarting() -> Bench:
    bench = beating()
    bench.skip(bench.beat.notice_over(Event.REBOOT, bench.now))
    return bench


def lost() -> Bench:
    bench = beating()
    bench.run(3.0)
    return bench


REACH: dict[HeartbeatState, Callable[[], Bench]] = {
    S.WAITING: waiting,
    S.BEATING: beating,
    S.SUSPENDED: suspended,
    S.RETURNING: returning,
    S.RESTARTING: restarting,
    S.LOST: lost,
}


def lost_and_disconnected() -> Bench:
    """The only way to be lost and connect: a RESTART window that closed without a connection."""
    bench = restarting()
    bench.skip(bench.beat.closed("reset"))
    bench.skip(bench.beat.restart_expired(bench.now))
    return bench


def restarting_without_a_guest() -> Bench:
    bench = waiting()
    bench.skip(bench.beat.restarts(Event.REBOOT, bench.now))
    return bench


def after_a_pause(state: HeartbeatState) -> Bench:
    """Where an event that is over can still be said not to have happened."""
    bench = suspended()
    if state is S.WAITING:
        bench.skip(bench.exit())
    else:
        bench.skip(prove(bench))
    if state is S.LOST:
        bench.run(10.0)
    return bench


REACH_FOR: dict[Pair, Callable[[], Bench]] = {
    (S.LOST, E.CONNECTED): lost_and_disconnected,
    (S.RESTARTING, E.STAYS_AWAY): restarting_without_a_guest,
    **{
        (state, E.CALLED_OFF): partial(after_a_pause, state)
        for state in (S.WAITING, S.BEATING, S.LOST)
    },
}

# -- how to bring about each event --------------------------------------------------------------


def challenged(bench: Bench) -> Bench:
    """A challenge is unanswered, whatever the state; an ``init`` asks for one."""
    if not bench.beat.owes_answer:
        bench.skip(bench.init())
    return bench


def connect(bench: Bench) -> tuple[Effect, ...]:
    if bench.beat.connected:
        bench.skip(bench.beat.closed("reset"))
    return bench.open()


def prove(bench: Bench) -> tuple[Effect, ...]:
    bench.skip(bench.init())
    return bench.answer()


def beat_again(bench: Bench) -> tuple[Effect, ...]:
    bench.at(bench.beat.due)
    bench.skip(bench.tick())
    return bench.answer()


def miss(bench: Bench) -> tuple[Effect, ...]:
    challenged(bench)
    bench.at(bench.now + 1)
    return bench.tick()


def fall_silent(bench: Bench) -> tuple[Effect, ...]:
    bench.run(2.0)
    return bench.at(3.0).tick()


def call_off(bench: Bench) -> tuple[Effect, ...]:
    what = Event.REBOOT if bench.beat.state is S.RESTARTING else Event.PAUSE
    return bench.beat.called_off(what, "it failed", bench.now)


ACT: dict[HeartbeatEvent, Callable[[Bench], tuple[Effect, ...]]] = {
    E.CONNECTED: connect,
    E.CLOSED: lambda bench: bench.beat.closed("reset"),
    E.GREETED: lambda bench: bench.init(),
    E.ANSWERED: beat_again,
    E.PROVEN: prove,
    E.MISSED: miss,
    E.FELL_SILENT: fall_silent,
    E.LEFT: lambda bench: bench.exit(),
    E.STOPS: lambda bench: bench.beat.notice_over(Event.STOP, bench.now),
    E.FREEZES: lambda bench: bench.beat.notice_over(Event.SUSPEND, bench.now),
    E.RESTARTS: lambda bench: bench.beat.notice_over(Event.REBOOT, bench.now),
    E.RETURNS: lambda bench: bench.beat.notice_opened(Event.RESUME, bench.now),
    E.CALLED_OFF: call_off,
    E.STAYS_AWAY: lambda bench: bench.beat.restart_expired(bench.now),
    E.RESTART_EXPIRED: lambda bench: bench.beat.restart_expired(bench.now),
    E.REMOVED: lambda bench: bench.beat.removed("socket gone"),
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


GONE_CALLS: dict[str, Callable[[Bench], object]] = {
    "opened": lambda bench: bench.open(),
    "closed": lambda bench: bench.beat.closed("reset"),
    "removed": lambda bench: bench.beat.removed("again"),
    "init": lambda bench: bench.init(),
    "exit": lambda bench: bench.exit(),
    "notice_opened": lambda bench: bench.beat.notice_opened(Event.UNPAUSE, bench.now),
    "notice_over": lambda bench: bench.beat.notice_over(Event.PAUSE, bench.now),
    "restarts": lambda bench: bench.beat.restarts("reboot", bench.now),
    "stops": lambda bench: bench.beat.stops("stop", bench.now),
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
    bench.expect(bench.answer(), [])
    bench.expect(bench.at(bench.now + 1).tick(), [])
    bench.expect(bench.beat.restart_expired(bench.now), [])
    bench.expect(bench.beat.notice_opened(Event.PAUSE, bench.now), [])
    bench.expect(bench.beat.notice_over(Event.UNPAUSE, bench.now), [])
    bench.expect(bench.beat.called_off("nothing", "it failed", bench.now), [])


def test_connecting_twice_without_closing_is_a_fault_where_it_would_hide_a_stop() -> None:
    bench = beating()
    with pytest.raises(IllegalEvent):
        bench.open()
    assert Snapshot.of(bench.beat) == bench.seen


def test_only_the_end_is_final() -> None:
    assert HEARTBEAT_TABLE.terminal == (S.GONE,)


def test_only_a_proof_leads_to_beating() -> None:
    ways = {event for state, event in LEGAL if HEARTBEAT_TABLE.rows[state][event] is S.BEATING}
    kept = {event for event, after in HEARTBEAT_TABLE.rows[S.BEATING].items() if after is S.BEATING}
    assert ways - kept == {E.PROVEN}


def test_loss_is_possible_only_while_beating_or_restarting() -> None:
    ways = {
        (state, event)
        for state, event in LEGAL
        if HEARTBEAT_TABLE.rows[state][event] is S.LOST and state is not S.LOST
    }
    assert ways == {(S.BEATING, E.FELL_SILENT), (S.RESTARTING, E.RESTART_EXPIRED)}


def test_what_is_said_of_the_states_fits_together() -> None:
    assert CHALLENGED.isdisjoint(PROBED)
    assert PATIENT < TAKING_PART
    assert set(S) - TAKING_PART == {S.WAITING, S.LOST, S.GONE}
