"""Applications that withdraw a reject: what the host is told of it, and when it is told nothing."""

from __future__ import annotations

import itertools

import pytest

from hbtrio.fsm.guest_session import GuestSession, SendToHost, SessionSettings
from hbtrio.wire.app_messages import AppReady
from hbtrio.wire.channel_messages import (
    OFFERED,
    ActionResponse,
    Extension,
    InitAck,
    Nack,
    RejectWithdrawn,
)
from hbtrio.wire.vocabulary import Event, VoteResult
from support.guest_world import STOP_NOTICE, STOP_VOTE, said
from support.raw_application import AppWorld, RawApplication, app_world, init

pytestmark = pytest.mark.usefixtures("autojump_clock")

READY = AppReady(Event.STOP)
STOP = RejectWithdrawn(Event.STOP, "web")


async def voting(
    bench: AppWorld,
    result: VoteResult = VoteResult.REJECT,
    offers: int = OFFERED,
) -> RawApplication:
    """An application that has voted on a stop."""
    bench.device.send(InitAck(101, offers))
    app = await bench.join(init("web"))
    bench.device.send(STOP_VOTE)
    app.answer(await app.asked(), result, "busy")
    await bench.settle()
    return app


def withdrawn(bench: AppWorld) -> list[RejectWithdrawn]:
    return [one for _, one in said(bench.device.unread()) if isinstance(one, RejectWithdrawn)]


async def test_the_host_is_told_once_for_each_reject() -> None:
    async with app_world() as bench:
        app = await voting(bench)
        app.send(READY, READY)
        await bench.settle()
        assert withdrawn(bench) == [STOP]
        bench.device.send(STOP_VOTE)
        app.answer(await app.asked(2), VoteResult.REJECT)
        app.send(READY)
        await bench.settle()
        assert withdrawn(bench) == [STOP]


async def test_a_reject_and_its_withdrawal_in_one_piece() -> None:
    async with app_world() as bench:
        bench.device.send(InitAck(101, OFFERED))
        app = await bench.join(init("web"))
        bench.device.send(STOP_VOTE)
        asked = await app.asked()
        app.send_bytes(b"")
        app.answer(asked, VoteResult.REJECT, "busy")
        app.send(READY)
        await bench.settle()
        kinds = [type(one) for _, one in said(bench.device.unread())]
        assert {RejectWithdrawn, ActionResponse} <= set(kinds)


@pytest.mark.parametrize("result", [VoteResult.ACCEPT, VoteResult.COMPLETE, VoteResult.UNKNOWN])
async def test_who_has_not_rejected_has_nothing_to_withdraw(result: VoteResult) -> None:
    async with app_world() as bench:
        app = await voting(bench, result)
        app.send(READY)
        await bench.settle()
        assert withdrawn(bench) == []


async def test_another_event_is_another_reject() -> None:
    async with app_world() as bench:
        app = await voting(bench)
        app.send(AppReady(Event.REBOOT), AppReady(Event.UNKNOWN))
        await bench.settle()
        assert withdrawn(bench) == []


async def test_an_application_that_has_gone_has_withdrawn_nothing() -> None:
    async with app_world() as bench:
        app = await voting(bench)
        app.deregister()
        app.send(READY)
        await bench.settle()
        assert withdrawn(bench) == []
        # Nor has its next registration, or another application.
        app.send(init("web"), READY)
        other = await bench.join(init("web"))
        other.send(READY)
        await bench.settle()
        assert withdrawn(bench) == []


async def test_an_agreement_later_takes_the_reject_back() -> None:
    async with app_world() as bench:
        app = await voting(bench)
        bench.device.send(STOP_VOTE)
        app.answer(await app.asked(2), VoteResult.ACCEPT)
        await bench.settle()
        app.send(READY)
        await bench.settle()
        assert withdrawn(bench) == []


async def test_a_failed_notice_is_no_reject() -> None:
    async with app_world() as bench:
        bench.device.send(InitAck(101, OFFERED))
        app = await bench.join(init("web"))
        bench.device.send(STOP_NOTICE)
        app.answer(await app.asked(), VoteResult.REJECT)
        app.send(READY)
        await bench.settle()
        assert withdrawn(bench) == []


async def test_a_host_that_does_not_take_it_is_not_told() -> None:
    async with app_world() as bench:
        app = await voting(bench, offers=OFFERED & ~Extension.WITHDRAWALS)
        app.send(READY)
        await bench.settle()
        assert withdrawn(bench) == []


async def test_a_host_that_refuses_it_gets_no_more() -> None:
    async with app_world() as bench:
        app = await voting(bench)
        bench.device.send(Nack(0, "unknown msg_type reject_withdrawn"))
        await bench.settle()
        app.send(READY)
        await bench.settle()
        assert withdrawn(bench) == []


def test_a_guest_without_a_session_says_nothing() -> None:
    session = GuestSession(SessionSettings("vm"), new_id=itertools.count(1).__next__, now=0.0)
    assert session.reject_withdrawn(Event.STOP, "web") == []
    session.expired(1.0, late=False)
    session.channel_up(1.0)
    session.received(InitAck(2, OFFERED), 1.0)
    assert session.reject_withdrawn(Event.STOP, "web") == [SendToHost(STOP)]
    session.channel_down(2.0)
    assert session.reject_withdrawn(Event.STOP, "web") == []
