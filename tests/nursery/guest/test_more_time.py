"""Voters that ask for more time: the guest's window, what the host is asked, and what bounds it."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from hbtrio.app import Accept, Application, NoMoreTime, Notice, Vote
from hbtrio.policy.more_time import NOT_OPEN, OFF
from hbtrio.wire.app_messages import AppActionNotify, AppMoreTime, AppTimeGranted
from hbtrio.wire.channel_messages import (
    ActionResponse,
    Extension,
    InitAck,
    Message,
    MoreTime,
    Nack,
    TimeGranted,
)
from hbtrio.wire.vocabulary import VoteResult
from support.fake_processes import FakeRun
from support.guest_world import (
    STOP_NOTICE,
    STOP_VOTE,
    GuestWorld,
    handlers,
    response,
    said,
    when,
)
from support.raw_application import RawApplication, app_world, init
from support.run_order import ORDERS, in_every_order

pytestmark = pytest.mark.usefixtures("autojump_clock")

VOTE_ID = STOP_VOTE.invocation_id
SILENT = "no answer in time from handler"


def offer(bench: Any) -> None:
    """The host acknowledges the first init again, and takes requests for more time."""
    bench.device.send(InitAck(101, Extension.MORE_TIME))


def grants(bench: Any, seconds: int, number: int = 1, reason: str = "") -> None:
    bench.device.send(TimeGranted(VOTE_ID, number, seconds, reason))


def asks(delay_s: float, *lines: bytes, takes_s: float) -> FakeRun:
    return FakeRun(1, b"busy", delay_s=takes_s, aside=((delay_s, b"".join(lines)),))


async def bench_of(tmp_path: Path, nursery: trio.Nursery, **runs: FakeRun) -> GuestWorld:
    bench = GuestWorld(processes=handlers(tmp_path, runs), events=tmp_path)
    await bench.enable(nursery)
    offer(bench)
    await trio.sleep_until(2.0)
    bench.device.send(STOP_VOTE)
    return bench


# -- scripts --------------------------------------------------------------------------------


async def test_a_script_has_what_the_host_grants_and_its_answer_is_sent(tmp_path: Path) -> None:
    async with trio.open_nursery() as nursery:
        script = asks(5, b"EXTEND=30\n", takes_s=37)
        bench = await bench_of(tmp_path, nursery, handler=script)
        await trio.sleep_until(7.01)
        grants(bench, 30)
        await trio.sleep_until(60)
        nursery.cancel_scope.cancel()
    assert said(bench.device.unread()) == [
        (7.0, MoreTime(VOTE_ID, 1, 30, "handler")),
        (39.0, response(STOP_VOTE, VoteResult.REJECT, "busy")),
    ]


@pytest.mark.parametrize("granted", [0, 10])
async def test_the_window_ends_at_exactly_what_was_granted(granted: int, tmp_path: Path) -> None:
    async with trio.open_nursery() as nursery:
        bench = await bench_of(tmp_path, nursery, handler=asks(5, b"EXTEND=30\n", takes_s=99))
        await trio.sleep_until(7.5)
        grants(bench, granted, reason="the limit is 10 s in all")
        await trio.sleep_until(60)
        nursery.cancel_scope.cancel()
    assert said(bench.device.unread())[1:] == [
        (10.0 + granted, response(STOP_VOTE, VoteResult.TIMEOUT, SILENT))
    ]
    assert when(bench.processes.cancelled) == [(10.0 + granted, "handler")]


async def test_without_an_answer_of_the_host_the_window_ends_as_ever(tmp_path: Path) -> None:
    async with trio.open_nursery() as nursery:
        bench = await bench_of(tmp_path, nursery, handler=asks(5, b"EXTEND=30\n", takes_s=99))
        await trio.sleep_until(60)
        nursery.cancel_scope.cancel()
    assert said(bench.device.unread())[1:] == [
        (pytest.approx(10.05, abs=0.01), response(STOP_VOTE, VoteResult.TIMEOUT, SILENT))
    ]


@pytest.mark.parametrize("late_s", [0.0, 0.6])
def test_a_grant_that_has_arrived_by_the_end_counts(late_s: float, tmp_path: Path) -> None:
    async def scenario(clock: MockClock) -> list[Any]:
        async with trio.open_nursery() as nursery:
            bench = await bench_of(tmp_path, nursery, handler=asks(5, b"EXTEND=30\n", takes_s=37))
            await trio.sleep_until(9.99)
            grants(bench, 30)
            clock.jump(0.01 + late_s)
            await trio.sleep_until(60)
            nursery.cancel_scope.cancel()
        answers = [one.message for one in bench.device.unread()]
        return [one.log_msg for one in answers if isinstance(one, ActionResponse)]

    assert in_every_order(scenario) == [["busy"]] * ORDERS


async def test_an_answer_for_another_vote_changes_nothing(tmp_path: Path) -> None:
    async with trio.open_nursery() as nursery:
        bench = await bench_of(tmp_path, nursery, handler=asks(5, b"EXTEND=30\n", takes_s=99))
        await trio.sleep_until(7.5)
        bench.device.send(TimeGranted(VOTE_ID + 1, 1, 30, ""))
        bench.device.send(TimeGranted(VOTE_ID, 2, 30, ""))
        await trio.sleep_until(60)
        nursery.cancel_scope.cancel()
    assert said(bench.device.unread())[-1][0] == pytest.approx(10.05, abs=0.01)


async def test_a_host_that_does_not_offer_it_is_not_asked(tmp_path: Path) -> None:
    async with trio.open_nursery() as nursery:
        runs = {"handler": asks(5, b"EXTEND=30\n", takes_s=99)}
        bench = GuestWorld(processes=handlers(tmp_path, runs), events=tmp_path)
        await bench.enable(nursery)
        await trio.sleep_until(2.0)
        bench.device.send(STOP_VOTE)
        await trio.sleep_until(60)
        nursery.cancel_scope.cancel()
    assert said(bench.device.unread()) == [(10.0, response(STOP_VOTE, VoteResult.TIMEOUT, SILENT))]


async def test_an_older_host_after_a_migration_refuses_the_message_once(tmp_path: Path) -> None:
    async with trio.open_nursery() as nursery:
        lines = ((5.0, b"EXTEND=30\n"), (6.0, b"EXTEND=30\n"))
        bench = await bench_of(tmp_path, nursery, handler=FakeRun(delay_s=99, aside=lines))
        await trio.sleep_until(7.5)
        bench.device.send(Nack(VOTE_ID, "unknown msg_type more_time"))
        await trio.sleep_until(60)
        nursery.cancel_scope.cancel()
    heard = said(bench.device.unread())
    assert [type(message) for _, message in heard] == [MoreTime, ActionResponse]
    assert heard[-1][0] == 10.0


@pytest.mark.parametrize(
    "line",
    [
        b"EXTEND=\n",
        b"EXTEND=-5\n",
        b"EXTEND=NaN\n",
        b"EXTEND=1e9\n",
        b"extend=30\n",
        b"EXTEND=" + b"9" * 10 + b"\n",
        b"x" * 65 + b"\n",
        b"\xff\n",
    ],
)
async def test_bad_lines_are_logged_once(
    line: bytes, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with trio.open_nursery() as nursery:
        bench = await bench_of(tmp_path, nursery, handler=asks(1, line * 50, takes_s=5))
        await trio.sleep_until(60)
        nursery.cancel_scope.cancel()
    assert [type(one.message) for one in bench.device.unread()] == [ActionResponse]
    assert len([text for text in caplog.messages if "HBTRIO_EXTEND_FD" in text]) == 1


@pytest.mark.parametrize("line", [b"EXTEND=0\n", b"EXTEND=86401\n", b"EXTEND=999999999\n"])
async def test_numbers_out_of_range_are_not_passed_on(line: bytes, tmp_path: Path) -> None:
    async with trio.open_nursery() as nursery:
        bench = await bench_of(tmp_path, nursery, handler=asks(1, line, takes_s=5))
        await trio.sleep_until(60)
        nursery.cancel_scope.cancel()
    assert [type(one.message) for one in bench.device.unread()] == [ActionResponse]


async def test_a_script_that_asks_for_ever_asks_the_host_a_bounded_number_of_times(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with trio.open_nursery() as nursery:
        lines = tuple((1 + 0.01 * number, b"EXTEND=1\n") for number in range(200))
        bench = await bench_of(tmp_path, nursery, handler=FakeRun(delay_s=99, aside=lines))
        asked: list[Message] = []
        while trio.current_time() < 60:
            await trio.sleep(0.005)
            for one in bench.device.unread():
                asked.append(one.message)
                if isinstance(one.message, MoreTime):
                    grants(bench, one.message.seconds, one.message.request)
        nursery.cancel_scope.cancel()
    assert sum(isinstance(message, MoreTime) for message in asked) <= 32
    assert isinstance(asked[-1], ActionResponse)
    assert any("more than 64 requests" in text for text in caplog.messages)


async def test_two_scripts_at_once_are_merged(tmp_path: Path) -> None:
    async with trio.open_nursery() as nursery:
        scripts = {
            "a": asks(5, b"EXTEND=30\n", takes_s=30),
            "b": asks(5, b"EXTEND=20\n", takes_s=20),
        }
        bench = await bench_of(tmp_path, nursery, **scripts)
        await trio.sleep_until(7.01)
        (heard,) = bench.device.unread()
        assert isinstance(heard.message, MoreTime)
        seconds = heard.message.seconds
        grants(bench, seconds)
        await bench.settle()
        more = [one.message for one in bench.device.unread()]
        # The one that asked first is asked for; if that was the shorter one, the rest follows.
        assert seconds + sum(one.seconds for one in more if isinstance(one, MoreTime)) == 30
        nursery.cancel_scope.cancel()


async def test_a_channel_that_breaks_in_the_middle_ends_it(tmp_path: Path) -> None:
    async with trio.open_nursery() as nursery:
        bench = await bench_of(tmp_path, nursery, handler=asks(5, b"EXTEND=30\n", takes_s=99))
        await trio.sleep_until(7.5)
        bench.device.disconnect()
        await trio.sleep_until(8.0)
        assert when(bench.processes.cancelled) == [(7.5, "handler")]
        nursery.cancel_scope.cancel()


async def test_a_newer_action_ends_it_and_its_answer_is_ignored(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with trio.open_nursery() as nursery:
        bench = await bench_of(tmp_path, nursery, handler=asks(5, b"EXTEND=30\n", takes_s=99))
        await trio.sleep_until(7.5)
        bench.device.send(STOP_NOTICE)
        await bench.settle()
        grants(bench, 30)
        await trio.sleep_until(60)
        nursery.cancel_scope.cancel()
    notice = [one for one in said(bench.device.unread()) if isinstance(one[1], ActionResponse)][-1]
    # The notice's own script asks at 12.5 s, and nobody answers.
    assert notice[0] == pytest.approx(14.5, abs=0.06)


# -- applications ---------------------------------------------------------------------------


async def asked_of(app: RawApplication, bench: Any) -> AppActionNotify:
    bench.device.send(STOP_VOTE)
    await bench.settle()
    return [message for _, message in app.received if isinstance(message, AppActionNotify)][-1]


async def test_an_application_is_told_what_it_was_granted() -> None:
    async with app_world() as bench:
        app = await bench.join(init("orders", vote_secs=3))
        offer(bench)
        await trio.sleep_until(2.5)
        asked = await asked_of(app, bench)
        # Its own 3 s end 5 s before those of the VM, so that the host is asked for the rest.
        app.send(AppMoreTime(asked.invocation_id, 7, 20))
        await bench.settle()
        assert said(bench.device.unread())[-1:] == [(2.5, MoreTime(VOTE_ID, 1, 15, "orders"))]
        grants(bench, 10, reason="the limit is 10 s in all")
        await bench.settle()
        assert app.received[-1] == (
            2.5,
            AppTimeGranted(asked.invocation_id, 7, 15, "the limit is 10 s in all"),
        )
        await trio.sleep_until(60)
        ended = said(bench.device.unread())[-1]
        assert ended == (20.5, response(STOP_VOTE, VoteResult.TIMEOUT, ended[1].log_msg))


async def test_an_application_that_asks_out_of_turn_is_granted_nothing() -> None:
    async with app_world() as bench:
        app = await bench.join(init("orders"))
        offer(bench)
        await trio.sleep_until(2.5)
        app.send(AppMoreTime(5, 1, 20))
        await bench.settle()
        assert app.received[-1] == (2.5, AppTimeGranted(5, 1, 0, NOT_OPEN))


@pytest.mark.parametrize("seconds", [0, 86_401, 2**32 - 1])
async def test_an_application_s_numbers_without_sense(seconds: int) -> None:
    async with app_world() as bench:
        app = await bench.join(init("orders", vote_secs=8))
        offer(bench)
        await trio.sleep_until(2.5)
        asked = await asked_of(app, bench)
        app.send(AppMoreTime(asked.invocation_id, 1, seconds))
        await bench.settle()
        granted = app.received[-1][1]
        assert isinstance(granted, AppTimeGranted)
        assert granted.seconds == 0
        assert not [one for one in bench.device.unread() if isinstance(one.message, MoreTime)]


async def test_an_application_that_leaves_in_the_middle_keeps_nobody_waiting() -> None:
    async with app_world() as bench:
        app = await bench.join(init("orders", vote_secs=8))
        offer(bench)
        await trio.sleep_until(2.5)
        asked = await asked_of(app, bench)
        app.send(AppMoreTime(asked.invocation_id, 1, 20))
        await bench.settle()
        app.crash()
        await bench.settle()
        grants(bench, 20)
        await bench.settle()
        answers = [one.message for one in bench.device.unread()]
        assert [type(one) for one in answers[-2:]] == [MoreTime, ActionResponse]


# -- the SDK --------------------------------------------------------------------------------


async def test_the_sdk_extends_and_goes_on() -> None:
    seen: list[Any] = []

    async def vote(vote: Vote) -> Accept:
        seen.append(await vote.extend(20))
        seen.append(round(vote.remaining_s, 3))
        await trio.sleep(25)
        return Accept()

    async with app_world() as bench, Application("db", socket=bench.path, on_vote=vote) as app:
        offer(bench)
        await app.wait_registered()
        await trio.sleep_until(2.0)
        bench.device.send(STOP_VOTE)
        await trio.sleep_until(2.5)
        grants(bench, 20)
        await trio.sleep_until(60)
        assert seen == [20, 27.5]
        assert said(bench.device.unread())[-1] == (27.5, response(STOP_VOTE, VoteResult.ACCEPT))


async def test_the_sdk_raises_what_the_host_says() -> None:
    seen: list[str] = []

    async def notice(notice: Notice) -> None:
        try:
            await notice.extend(20)
        except NoMoreTime as error:
            seen.append(str(error))

    async with app_world() as bench, Application("db", socket=bench.path, on_notice=notice) as app:
        await app.wait_registered()
        await trio.sleep_until(2.0)
        bench.device.send(STOP_NOTICE)
        await trio.sleep_until(4.0)
        assert seen == [OFF]
