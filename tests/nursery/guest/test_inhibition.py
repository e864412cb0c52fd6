"""An application that inhibits events: the guest rejects them for it."""

from __future__ import annotations

import logging
import os

import pytest
import trio

from hbtrio.app import Accept, Application, Inhibition, Vote
from hbtrio.wire.app_messages import AppActionNotify, AppInhibit
from hbtrio.wire.app_status import InhibitionStatus
from hbtrio.wire.channel_messages import OFFERED, ActionNotify, InitAck, RejectWithdrawn
from hbtrio.wire.vocabulary import Event, NotificationType, VoteResult
from support.guest_world import STOP_NOTICE, STOP_VOTE, response, said
from support.raw_application import AppWorld, init

pytestmark = pytest.mark.usefixtures("autojump_clock")

INHIBIT = AppInhibit(frozenset({Event.STOP, Event.PAUSE}), "a dump (pg_dump, pid 812)")
REBOOT_VOTE = ActionNotify(902, Event.REBOOT, NotificationType.REVOCABLE, 9000)


async def test_the_guest_rejects_for_it_at_once_also_while_it_is_stopped(world: AppWorld) -> None:
    app = await world.join(init("inhibit", heartbeat_interval_ms=60_000), INHIBIT)
    app.stop()
    await trio.sleep_until(2.0)
    world.device.send(STOP_VOTE)
    await trio.sleep_until(3.0)
    expected = response(STOP_VOTE, VoteResult.REJECT, INHIBIT.log_msg)
    assert said(world.device.unread()) == [(2.0, expected)]
    app.resume()
    await world.settle()
    assert app.received_of(AppActionNotify) == []
    (one,) = world.applications.status().applications
    assert [(request.result, request.reason) for request in one.requests] == [
        ("reject", INHIBIT.log_msg)
    ]


async def test_other_events_and_notices_are_its_own(world: AppWorld) -> None:
    app = await world.join(init("inhibit", heartbeat_interval_ms=60_000), INHIBIT)
    app.on_event = lambda asked: app.answer(asked, VoteResult.ACCEPT)
    await trio.sleep_until(2.0)
    world.device.send(REBOOT_VOTE)
    await world.settle()
    world.device.send(STOP_NOTICE)
    await world.settle()
    assert [answer.vote_result for _, answer in said(world.device.unread())] == [
        VoteResult.ACCEPT,
        VoteResult.COMPLETE,
    ]
    asked = [message.event_type for _, message in app.received_of(AppActionNotify)]  # type: ignore[attr-defined]
    assert asked == ["reboot", "stop"]


@pytest.mark.parametrize("crash", [True, False])
async def test_it_ends_with_the_process(crash: bool, world: AppWorld) -> None:
    app = await world.join(init("inhibit"), INHIBIT)
    if crash:
        app.crash()
    else:
        app.deregister()
    await trio.sleep_until(2.0)
    world.device.send(STOP_VOTE)
    await world.settle()
    (_, answer), *_ = said(world.device.unread())
    assert answer == response(STOP_VOTE, VoteResult.COMPLETE)


async def test_it_is_listed_and_logged(world: AppWorld, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "hbtrio.guest")
    await trio.sleep_until(2.0)
    app = await world.join(init("inhibit"), INHIBIT)
    await trio.sleep_until(5.0)
    (one,) = world.applications.status().applications
    assert one.inhibits == InhibitionStatus(["pause", "stop"], INHIBIT.log_msg, 3.0)
    process = f"application inhibit (pid {os.getpid()}, uid {os.getuid()}, gid {os.getgid()})"
    assert f"{process}: inhibits pause, stop: {INHIBIT.log_msg}" in caplog.messages
    app.send(AppInhibit(frozenset(), ""))
    await world.settle()
    (one,) = world.applications.status().applications
    assert one.inhibits is None
    assert f"{process}: inhibits nothing" in caplog.messages


async def test_an_application_of_the_sdk_inhibits_beside_its_own_votes(world: AppWorld) -> None:
    asked = []

    async def vote(vote: Vote) -> Accept:
        asked.append(vote.event)
        return Accept()

    inhibition = Inhibition(["stop"], "a dump")
    async with Application("db", on_vote=vote, inhibition=inhibition, socket=world.path) as app:
        await app.wait_registered()
        await trio.sleep_until(2.0)
        for notify in (STOP_VOTE, REBOOT_VOTE):
            world.device.send(notify)
            await trio.sleep(0.5)
    assert said(world.device.unread()) == [
        (2.0, response(STOP_VOTE, VoteResult.REJECT, "a dump")),
        (2.5, response(REBOOT_VOTE, VoteResult.ACCEPT)),
    ]
    assert asked == [Event.REBOOT]


@pytest.mark.parametrize("end", ["message", "final", "kill"])
async def test_the_host_is_told_of_its_end_if_it_has_rejected(end: str, world: AppWorld) -> None:
    world.device.send(InitAck(101, OFFERED))
    app = await world.join(init("inhibit"), INHIBIT)
    await trio.sleep_until(2.0)
    world.device.send(STOP_VOTE)
    await world.settle()
    answer = response(STOP_VOTE, VoteResult.REJECT, f"inhibit: {INHIBIT.log_msg}")
    assert (2.0, answer) in said(world.device.unread())
    match end:
        case "message":
            app.send(AppInhibit(frozenset(), ""))
        case "final":
            app.deregister()
        case "kill":
            app.crash()
    await world.settle()
    assert said(world.device.unread()) == [(2.0, RejectWithdrawn(Event.STOP, "inhibit"))]


async def test_the_host_is_not_told_as_the_guest_stops(world: AppWorld) -> None:
    world.device.send(InitAck(101, OFFERED))
    await world.join(init("inhibit"), INHIBIT)
    await trio.sleep_until(2.0)
    world.device.send(STOP_VOTE)
    await world.settle()
    world.device.unread()
    world.guest.guest.stop()
    world.serving.cancel()
    await world.settle()
    assert not [one for _, one in said(world.device.unread()) if isinstance(one, RejectWithdrawn)]
