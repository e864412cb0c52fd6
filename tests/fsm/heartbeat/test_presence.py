"""What is known of a guest: the table of presence, walked through the heartbeat's public API."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from hbtrio.fsm.domain import DomainChange
from hbtrio.fsm.heartbeat.effects import Effect, Lost, RestartExpired
from hbtrio.fsm.heartbeat.presence import (
    GUEST_KNOWN,
    INIT_SEEN,
    PRESENCE_TABLE,
    Presence,
    PresenceEvent,
)
from hbtrio.wire.vocabulary import CorrectiveAction, Event
from support.heartbeat_bench import HeartbeatBench

P, E = Presence, PresenceEvent


def none() -> HeartbeatBench:
    bench = HeartbeatBench()
    bench.skip(bench.open())
    return bench


def exited() -> HeartbeatBench:
    bench = proven()
    bench.skip(bench.send_exit())
    return bench


def unproven() -> HeartbeatBench:
    bench = none()
    bench.skip(bench.send_init())
    return bench


def proven() -> HeartbeatBench:
    return HeartbeatBench().heartbeating()


def reproving() -> HeartbeatBench:
    bench = proven()
    bench.skip(bench.send_init())
    return bench


def leaving() -> HeartbeatBench:
    bench = proven()
    bench.skip(bench.beat.announced.notice_opened(Event.REBOOT, bench.now))
    return bench


def leaving_init() -> HeartbeatBench:
    bench = leaving()
    bench.skip(bench.send_init())
    return bench


REACH: dict[Presence, Callable[[], HeartbeatBench]] = {
    P.NONE: none,
    P.EXITED: exited,
    P.UNPROVEN: unproven,
    P.PROVEN: proven,
    P.REPROVING: reproving,
    P.LEAVING: leaving,
    P.LEAVING_INIT: leaving_init,
}


def answer(bench: HeartbeatBench) -> tuple[Effect, ...]:
    """Also without an init: one that returns is challenged."""
    if not bench.beat.owes_answer:
        bench.skip(bench.beat.announced.notice_opened(Event.UNPAUSE, bench.now))
    if not bench.beat.owes_answer:
        bench.skip(bench.at(bench.beat.due).tick())
    return bench.answer_challenge()


def start_anew(bench: HeartbeatBench) -> tuple[Effect, ...]:
    bench.skip(bench.beat.domain.changed(DomainChange.PAUSED, "paused: starting up", bench.now))
    return bench.beat.domain.changed(DomainChange.STARTED, "running: booted", bench.now)


ACT: dict[PresenceEvent, Callable[[HeartbeatBench], tuple[Effect, ...]]] = {
    E.INIT: lambda bench: bench.send_init(),
    E.ANSWERED: answer,
    E.INIT_VOID: lambda bench: bench.beat.closed("reset"),
    E.LEFT: lambda bench: bench.send_exit(),
    E.RESTART_NOTICE: lambda bench: bench.beat.announced.notice_opened(Event.REBOOT, bench.now),
    E.RESTARTS: lambda bench: bench.beat.announced.notice_over(Event.REBOOT, bench.now),
    E.NEW_PROCESS: start_anew,
}


@pytest.mark.parametrize("event", E, ids=lambda word: word.name)
@pytest.mark.parametrize("before", P, ids=lambda word: word.name)
def test_every_pair_is_reached(before: P, event: E) -> None:
    bench = REACH[before]()
    assert bench.beat.situation.presence is before
    bench.skip(ACT[event](bench))
    assert bench.beat.situation.presence is PRESENCE_TABLE.rows[before][event]


def test_what_is_said_of_a_presence_fits_together() -> None:
    assert {P.UNPROVEN} == INIT_SEEN - GUEST_KNOWN
    assert {P.NONE, P.EXITED} == set(P) - INIT_SEEN - GUEST_KNOWN
    for before in P:
        row = PRESENCE_TABLE.rows[before]
        # Only an answer makes a guest, and only an exit or a new process is its end.
        known = {event for event, after in row.items() if after in GUEST_KNOWN}
        assert known == ({E.ANSWERED} if before not in GUEST_KNOWN else known | {E.ANSWERED})
        ends = {event for event, after in row.items() if after not in GUEST_KNOWN}
        assert before not in GUEST_KNOWN or ends <= {E.LEFT, E.NEW_PROCESS}
        # Only an init is an init, and whatever proves or voids it ends it.
        assert row[E.INIT] in INIT_SEEN
        assert {row[event] for event in (E.ANSWERED, E.INIT_VOID, E.LEFT)}.isdisjoint(INIT_SEEN)


@pytest.mark.parametrize("greets", [False, True])
def test_a_guest_that_exits_on_its_notice_is_lost_if_a_command_restarts_it(greets: bool) -> None:
    """The command may come before the notice is over: the guest goes down all the same."""
    bench = leaving()
    if greets:
        bench.skip(bench.send_init())
    bench.skip(bench.send_exit())
    bench.skip(bench.beat.announced.restarts("reboot", bench.now))
    bench.run(121.0)
    why = "not back within 121 s"
    assert bench.beat.losses.restart_expired(121.25) == (
        RestartExpired(why),
        Lost(why, CorrectiveAction.REBOOT),
    )


def test_an_exit_outside_of_a_notice_ends_it() -> None:
    bench = leaving()
    bench.skip(bench.beat.announced.notice_over(Event.REBOOT, bench.now))
    bench.skip(bench.at(60.0).send_init())
    bench.skip(bench.answer_challenge())
    bench.skip(bench.send_exit())
    assert bench.beat.situation.presence is P.EXITED
