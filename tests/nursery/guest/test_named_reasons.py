"""Who gave a reason: named to a host that offers to take names, and else in the log alone."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import trio

from hbtrio.policy.health_merge import HealthStatus
from hbtrio.wire.channel_codec import MAX_LOG_BYTES
from hbtrio.wire.channel_messages import (
    ActionResponse,
    Challenge,
    ChallengeResponse,
    Extension,
    InitAck,
)
from hbtrio.wire.vocabulary import CorrectiveAction, Health, VoteResult
from support.fake_processes import FakeRun
from support.guest_world import STOP_NOTICE, STOP_VOTE, handlers, response, said
from support.raw_application import AppWorld, RawApplication, app_world, init

pytestmark = pytest.mark.usefixtures("autojump_clock")

#: The init of a world's guest.
INIT_ID = 101
OFFERS = InitAck(INIT_ID, int(Extension.NAMED_REASONS))
ACCEPT, REJECT, COMPLETE = VoteResult.ACCEPT, VoteResult.REJECT, VoteResult.COMPLETE


def ill(app: RawApplication, action: CorrectiveAction, reason: str) -> None:
    app.health = HealthStatus(False, action, reason)


async def asked(world: AppWorld) -> ChallengeResponse:
    world.device.send(Challenge(7))
    heard = await world.device.next()
    assert isinstance(heard.message, ChallengeResponse)
    return heard.message


async def test_a_reject_names_the_application_once_the_host_offers_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    async with app_world() as world:
        orders = await world.join(init("orders"))
        orders.on_event = lambda notify: orders.answer(notify, REJECT, "3 orders are open")
        for ack, reason in (
            (InitAck(INIT_ID), "3 orders are open"),
            (OFFERS, "orders: 3 orders are open"),
            # Bits of a host that is newer than this guest.
            (InitAck(INIT_ID, 0x7FFFFFFF), "orders: 3 orders are open"),
            (InitAck(INIT_ID, 0x7FFFFFFE), "3 orders are open"),
        ):
            world.device.send(ack, STOP_VOTE)
            await world.settle()
            heard = world.device.unread()
            assert [one.message for one in heard] == [response(STOP_VOTE, REJECT, reason)]
    # The log names it whatever the host takes.
    assert caplog.messages.count("revocable stop: reject (orders: 3 orders are open)") == 4


async def test_all_who_prepared_or_failed_are_named_in_order(tmp_path: Path) -> None:
    processes = handlers(tmp_path, {"script": FakeRun(0, b"synced\n", delay_s=1)})
    events = tmp_path / "script"
    async with app_world(events=events, processes=processes) as world:
        world.device.send(OFFERS)
        web, db, mute = [await world.join(init(name)) for name in ("web", "web", "mute")]
        web.on_event = lambda notify: web.answer(notify, COMPLETE, "drained")
        db.on_event = lambda notify: db.answer(notify, COMPLETE, "flushed")
        mute.on_event = lambda notify: mute.answer(notify, COMPLETE)
        world.device.send(STOP_NOTICE)
        await world.sleep(2.0)
        message = world.device.unread()[-1].message
        assert isinstance(message, ActionResponse)
        assert message.vote_result is COMPLETE
        *applications, script = message.log_msg.split("; ")
        assert sorted(applications) == ["web (2): flushed", "web: drained"]
        assert script == "synced"  # a second later, and the script's reason is its own
        db.on_event = lambda notify: db.answer(notify, REJECT, "disk full")
        mute.on_event = lambda _: None  # its own window is 4 s
        world.device.send(STOP_NOTICE)
        await world.sleep(5.0)
        reason = "web (2): disk full; no answer in time from mute"
        failed = response(STOP_NOTICE, VoteResult.ERROR, reason)
        assert said(world.device.unread())[-1][1] == failed


async def test_everybody_who_is_ill_is_named_the_one_that_decides_first() -> None:
    reboot, log = CorrectiveAction.REBOOT, CorrectiveAction.LOG
    async with app_world() as world:
        web, db = [await world.join(init(name)) for name in ("web", "db")]
        ill(web, log, "slow")
        ill(db, reboot, "disk full")
        await trio.sleep_until(3.5)
        assert (await asked(world)).log_msg == "disk full"
        world.device.send(OFFERS)
        answer = await asked(world)
        assert answer.heartbeat_health is Health.UNHEALTHY
        assert answer.log_msg == "db: disk full; web: slow"
        # A hang names the application itself.
        db.health, db.beats = HealthStatus(True), False
        await trio.sleep_until(9.0)
        assert (await asked(world)).log_msg == (
            "Application db heartbeat timeout 2000 ms.; web: slow"
        )


async def test_a_host_that_acknowledges_without_the_key_is_not_sent_names() -> None:
    """A guest that migrates to a host with the deployed program sends it what it always did."""
    async with app_world() as world:
        world.device.send(OFFERS)
        web = await world.join(init("web"))
        web.on_event = lambda notify: web.answer(notify, REJECT, "busy")
        world.device.send(InitAck(INIT_ID), STOP_VOTE)
        await world.settle()
        assert world.device.unread()[-1].message == response(STOP_VOTE, REJECT, "busy")


async def test_a_reason_with_a_name_is_cut_between_characters() -> None:
    name, reason = "é" * 19, "ü" * 95
    async with app_world() as world:
        world.device.send(OFFERS)
        app = await world.join(init(name))
        app.on_event = lambda notify: app.answer(notify, REJECT, reason)
        world.device.send(STOP_VOTE)
        await world.settle()
        text = f"{name}: {reason}".encode()[:MAX_LOG_BYTES].decode(errors="ignore")
        assert len(text.encode()) == MAX_LOG_BYTES - 1 < len(f"{name}: {reason}".encode())
        assert world.device.unread()[-1].message == response(STOP_VOTE, REJECT, text)
