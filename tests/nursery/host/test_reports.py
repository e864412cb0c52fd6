"""Reports: what they look like, who gets them, and that nobody holds anybody up."""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
import trio

from hbtrio.nursery.broadcast import FOLLOWER_QUEUE, RECENT
from hbtrio.nursery.host.reports import Report, ReportKind, Reports, event_line
from hbtrio.wire.vocabulary import CorrectiveAction, Event, VoteResult

TIME = datetime(2026, 1, 2, 3, 4, 5, 678_901, tzinfo=UTC)
UUID = "00000001-1111-2222-abcd-0123456789ef"


def report(number: int = 0, **changes: Any) -> Report:
    words: dict[str, Any] = {
        "time": TIME,
        "kind": ReportKind.STOPPED,
        "uuid": UUID,
        "reason": f"reason {number}",
    }
    return Report(**(words | changes))


def reports() -> Reports:
    return Reports(lambda: TIME)


# -- what they look like --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "more"),
    [
        (ReportKind.HEARTBEATING, {}),
        (ReportKind.STOPPED, {}),
        (ReportKind.RESTART_EXPIRED, {}),
        (ReportKind.LOSS, {"corrective_action": CorrectiveAction.REBOOT}),
        (ReportKind.UNHEALTHY, {"corrective_action": CorrectiveAction.STOP}),
        (ReportKind.VOTE, {"event": Event.LIVE_MIGRATE_BEGIN, "result": VoteResult.REJECT}),
        (ReportKind.NOTICE, {"event": Event.STOP, "result": VoteResult.COMPLETE}),
        (ReportKind.PAUSED, {"state": "paused: saving"}),
        (ReportKind.ABSENT, {"state": "running: booted"}),
        (
            ReportKind.CORRECTIVE,
            {"corrective_action": CorrectiveAction.REBOOT, "outcome": "done"},
        ),
        (
            ReportKind.NOT_ACTED,
            {"corrective_action": CorrectiveAction.REBOOT, "cause": "paused", "state": "paused"},
        ),
    ],
)
def test_a_line_holds_what_applies_and_nothing_else(kind: ReportKind, more: dict[str, Any]) -> None:
    line = report(kind=kind, **more).as_line()
    assert json.loads(line) == {
        "time": "2026-01-02T03:04:05.678+00:00",
        "kind": str(kind),
        "uuid": UUID,
        "reason": "reason 0",
    } | {name: str(value) for name, value in more.items()}


def test_the_kinds_that_are_documented() -> None:
    assert [str(kind) for kind in ReportKind] == [
        "heartbeating",
        "stopped",
        "loss",
        "unhealthy",
        "vote",
        "notice",
        "extended",
        "overridden",
        "withdrawn",
        "restart-expired",
        "paused",
        "absent",
        "unwatched",
        "corrective",
        "not-acted",
        "hold",
        "hold-over",
    ]


def test_a_time_keeps_its_zone() -> None:
    zone = timezone(timedelta(hours=-3, minutes=-30))
    line = event_line(report(time=TIME.astimezone(zone)))
    assert line.time == "2026-01-01T23:34:05.678-03:30"


@pytest.mark.parametrize(
    "reason", ["", 'disk "a" busy', "two\nlines\r\x00", "caf\u00e9 \u2028 \U0001f40d", "C:\\temp"]
)
def test_whatever_a_reason_holds_it_is_one_line(reason: str) -> None:
    line = report(reason=reason).as_line()
    assert "\n" not in line
    assert "\r" not in line
    assert json.loads(line)["reason"] == reason


# -- who gets them --------------------------------------------------------------------------


async def test_every_follower_gets_every_report_from_then_on() -> None:
    told = reports()
    told.publish(report(0))
    with told.follow() as first:
        told.publish(report(1))
        with told.follow() as second:
            told.publish(report(2))
            assert await second.receive() == report(2)
        told.publish(report(3))
        assert [await first.receive() for _ in range(3)] == [report(1), report(2), report(3)]
        with pytest.raises(trio.WouldBlock):
            first.receive_nowait()
    told.publish(report(4))
    assert list(told.recent) == [report(number) for number in range(5)]


async def test_one_that_does_not_read_is_cut_off_and_knows_it() -> None:
    told = reports()
    with told.follow(3) as slow, told.follow(10) as fast:
        for number in range(5):
            told.publish(report(number))
        assert [item async for item in slow] == [report(0), report(1), report(2)]
        assert [fast.receive_nowait() for _ in range(5)] == [report(n) for n in range(5)]
        told.publish(report(5))
        assert fast.receive_nowait() == report(5)


async def test_one_that_hung_up_is_forgotten() -> None:
    told = reports()
    with told.follow() as gone, told.follow() as there:
        gone.close()
        told.publish(report(0))
        told.publish(report(1))
        assert [there.receive_nowait() for _ in range(2)] == [report(0), report(1)]


async def test_the_queue_and_the_memory_are_bounded() -> None:
    assert (RECENT, FOLLOWER_QUEUE) == (1000, 1000)
    told = reports()
    with told.follow() as queue:
        for number in range(1500):
            told.publish(report(number))
        assert len([item async for item in queue]) == 1000
    assert list(told.recent) == [report(number) for number in range(500, 1500)]


def test_each_is_a_line_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "hbtrio.reports")
    told = reports()
    told.publish(report(1))
    told.publish(report(2, kind=ReportKind.VOTE, event=Event.STOP, result=VoteResult.REJECT))
    accepted = {"kind": ReportKind.VOTE, "event": Event.STOP, "result": VoteResult.ACCEPT}
    told.publish(report(reason="", **accepted))
    told.publish(report(4, name="web-1"))
    told.publish(report(reason="", name="web-1"))
    assert [record.getMessage() for record in caplog.records] == [
        f"{UUID} stopped: reason 1",
        f"{UUID} vote stop reject: reason 2",
        f"{UUID} vote stop accept",
        f"{UUID} stopped: reason 4",
        f"{UUID} stopped",
    ]


def test_losses_and_ill_health_are_warnings(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "hbtrio.reports")
    told = reports()
    for kind in ReportKind:
        told.publish(report(kind=kind))
    warned = [
        ReportKind.LOSS,
        ReportKind.UNHEALTHY,
        ReportKind.RESTART_EXPIRED,
        ReportKind.ABSENT,
        ReportKind.UNWATCHED,
        ReportKind.NOT_ACTED,
    ]
    assert [record.levelno for record in caplog.records] == [
        logging.WARNING if kind in warned else logging.INFO for kind in ReportKind
    ]


def test_an_alarm_says_so(caplog: pytest.LogCaptureFixture) -> None:
    told = report(kind=ReportKind.NOT_ACTED, alarm=True)
    reports().publish(told)
    (record,) = caplog.records
    assert (record.levelno, record.getMessage()) == (
        logging.CRITICAL,
        f"{UUID} ALARM: not-acted: reason 0",
    )
    assert json.loads(told.as_line())["alarm"] is True
    assert "alarm" not in json.loads(report().as_line())


def test_the_name_stands_in_the_line_where_it_is_known() -> None:
    assert "name" not in json.loads(report().as_line())
    assert json.loads(report(name="web-1").as_line())["name"] == "web-1"
