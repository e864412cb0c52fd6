"""Ill health around an event, and right after heartbeating began: it counts only if it lasts."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from hbtrio.fsm.heartbeat.effects import Effect, Ill, Note
from hbtrio.fsm.heartbeat.illness import HEALTH_INTERVAL_S, UNTIL_NOTICE_S
from hbtrio.fsm.heartbeat.table import HeartbeatState
from hbtrio.wire.vocabulary import CorrectiveAction, Event, Health
from support.heartbeat_bench import HeartbeatBench

S = HeartbeatState
NONE, REBOOT = CorrectiveAction.NONE, CorrectiveAction.REBOOT
KEPT = Note("unhealthy around an event or after its start: reported only if that lasts")


def beat(bench: HeartbeatBench, action: CorrectiveAction = REBOOT) -> tuple[Effect, ...]:
    """The next beat is unhealthy."""
    if not bench.beat.owes_answer:
        bench.skip(bench.at(max(bench.now, bench.beat.due)).tick())
    return bench.skip(
        bench.answer_challenge(health=Health.UNHEALTHY, action=action, log_msg="load")
    )


def ill_until(bench: HeartbeatBench, end: float) -> list[tuple[float, str]]:
    """Beats unhealthily, as a deployed guest does: it requests its action once in a minute."""
    reports = []
    asked_at = bench.now
    while bench.now < end:
        action = REBOOT if bench.now - asked_at >= 60 else NONE
        asked_at = bench.now if action is REBOOT else asked_at
        reports += [(bench.now, one.reason) for one in beat(bench, action) if isinstance(one, Ill)]
    return reports


def noticed(event: Event) -> HeartbeatBench:
    """Heartbeating, with a notice opened at 5 s."""
    bench = HeartbeatBench().heartbeating()
    bench.run(5.0, answers=True)
    bench.skip(bench.beat.announced.notice_opened(event, bench.now))
    return bench


@pytest.mark.parametrize(
    "event", [Event.PAUSE, Event.SUSPEND, Event.LIVE_MIGRATE_BEGIN, Event.STOP, Event.REBOOT]
)
def test_from_the_opening_of_a_notice_ill_health_is_shown_and_kept(event: Event) -> None:
    bench = noticed(event)
    assert beat(bench) == (KEPT,)
    assert (bench.beat.health, bench.beat.health_reason) == (Health.UNHEALTHY, "load")
    assert beat(bench) == ()
    bench.skip(bench.beat.announced.notice_over(event, bench.now))
    assert not [one for _ in range(3) for one in beat(bench) if isinstance(one, Ill)]


def over(bench: HeartbeatBench, how: str) -> None:
    match how:
        case "end notice":
            bench.skip(bench.beat.announced.notice_opened(Event.UNPAUSE, bench.now))
        case "enabled":
            bench.skip(bench.beat.announced.runs_again("enabled", bench.now))
        case "called off":
            bench.skip(bench.beat.announced.called_off("pause", "it failed", bench.now))


@pytest.mark.parametrize("how", ["end notice", "enabled", "called off"])
@pytest.mark.parametrize("provisional", [False, True])
def test_if_it_lasts_it_is_reported_a_health_interval_after_the_event(
    how: str, provisional: bool
) -> None:
    bench = noticed(Event.PAUSE)
    bench.skip(bench.beat.announced.notice_over(Event.PAUSE, bench.now))
    bench.run(20.0)
    if provisional:
        bench.skip(bench.send_init())
        bench.skip(bench.answer_challenge())
        assert bench.beat.state is S.PROVISIONAL
    over(bench, how)
    assert beat(bench)[-1] == KEPT
    assert bench.beat.state is S.HEARTBEATING
    began = bench.now
    reports = ill_until(bench, 200.0)
    assert reports[0][1] == "load"
    assert began + HEALTH_INTERVAL_S - 1 <= reports[0][0] <= began + HEALTH_INTERVAL_S + 1


def test_it_is_forgotten_if_it_does_not_last() -> None:
    bench = noticed(Event.PAUSE)
    beat(bench)
    bench.skip(bench.beat.announced.notice_over(Event.PAUSE, bench.now))
    bench.skip(bench.beat.announced.notice_opened(Event.UNPAUSE, bench.now))
    bench.run(bench.now + 100.0, answers=True)
    # An illness without a request is none, and what was requested before is over.
    assert beat(bench, NONE) == ()
    assert beat(bench)[0] == Ill("load", REBOOT)


def test_an_accepted_vote_keeps_it_for_a_minute() -> None:
    bench = HeartbeatBench().heartbeating()
    bench.beat.announced.action_begins(bench.now)
    assert beat(bench) == (KEPT,)
    (report,) = ill_until(bench, 0.25 + UNTIL_NOTICE_S + 3)
    assert 0.25 + UNTIL_NOTICE_S <= report[0] <= 0.25 + UNTIL_NOTICE_S + 2


def test_a_vote_alone_keeps_nothing() -> None:
    bench = HeartbeatBench().heartbeating()
    assert beat(bench) == (Ill("load", REBOOT),)


STARTS: dict[str, Callable[[HeartbeatBench], object]] = {
    "first": lambda _: None,
    "again": lambda bench: (
        bench.skip(bench.send_exit()),
        bench.skip(bench.at(500.0).send_init()),
        bench.skip(bench.answer_challenge()),
    ),
}


@pytest.mark.parametrize("start", STARTS)
def test_the_boot_grace(start: str) -> None:
    bench = HeartbeatBench(grace_s=30.0).heartbeating()
    STARTS[start](bench)
    began = bench.now
    assert beat(bench) == (KEPT,)
    assert bench.beat.health is Health.UNHEALTHY
    (report,) = ill_until(bench, began + 33.0)
    assert began + 30.0 <= report[0] <= began + 32.0


def test_after_the_boot_grace_ill_health_is_reported_at_once() -> None:
    bench = HeartbeatBench(grace_s=30.0).heartbeating()
    bench.run(31.0, answers=True)
    assert beat(bench)[0] == Ill("load", REBOOT)


def test_without_reporting_it_is_kept_all_the_same() -> None:
    bench = HeartbeatBench(grace_s=30.0).heartbeating()
    bench.beat.situation.reporting = False
    assert beat(bench) == (KEPT,)
    assert ill_until(bench, 40.0) == []
