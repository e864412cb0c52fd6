"""What the tests of events share."""

from __future__ import annotations

from hbtrio.fsm.heartbeat.effects import (
    Effect,
    Note,
    OpenRestart,
    SendToGuest,
    Stopped,
)
from hbtrio.fsm.heartbeat.table import HeartbeatState
from hbtrio.wire.channel_messages import OFFERED, Challenge, InitAck
from hbtrio.wire.vocabulary import EVENT_TABLE, CorrectiveAction, Event, ExpectedEffect
from support.heartbeat_bench import HeartbeatBench

S = HeartbeatState


REBOOT = CorrectiveAction.REBOOT


ACK = SendToGuest(InitAck(1804289383, OFFERED))


LEFTOVER = Note("ignoring a stale init: no challenge was answered after it")


BEGINNINGS = [e for e, rule in EVENT_TABLE.items() if rule.effect is not ExpectedEffect.RETURNS]


ENDS = [event for event, rule in EVENT_TABLE.items() if rule.effect is ExpectedEffect.RETURNS]


SUSPENDING = [e for e in BEGINNINGS if EVENT_TABLE[e].effect is not ExpectedEffect.RESTARTS]


RESTARTING = [e for e in BEGINNINGS if EVENT_TABLE[e].effect is ExpectedEffect.RESTARTS]


def challenge(number: int) -> SendToGuest:
    return SendToGuest(Challenge(number))


def kinds(came: list[tuple[float, Effect]], *wanted: type[Effect]) -> list[tuple[float, Effect]]:
    return [(when, effect) for when, effect in came if isinstance(effect, wanted)]


def suspended(event: Event = Event.PAUSE) -> HeartbeatBench:
    bench = HeartbeatBench().heartbeating()
    bench.expect(
        bench.beat.announced.notice_over(event, bench.now),
        [Stopped(f"{event} is in progress")],
        state=S.SUSPENDED,
        reason=f"{event} is in progress",
    )
    return bench


def restarting(event: Event = Event.REBOOT, **values: int) -> HeartbeatBench:
    bench = HeartbeatBench().heartbeating(**values)
    bench.expect(
        bench.beat.announced.notice_over(event, bench.now),
        [Stopped(f"{event} is in progress"), OpenRestart(bench.beat.profile.restart_s)],
        state=S.RESTARTING,
        reason=f"{event} is in progress",
    )
    return bench


def returning() -> HeartbeatBench:
    bench = suspended()
    bench.run(100.0)
    bench.skip(bench.beat.announced.notice_opened(Event.UNPAUSE, 100.0))
    assert bench.beat.state is S.RETURNING
    return bench
