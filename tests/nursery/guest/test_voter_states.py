"""A guest reports its voters by name to a host that offers to take them, and to no other."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from hbtrio.policy.health_merge import HealthStatus
from hbtrio.policy.voter_news import INTERVAL_S
from hbtrio.wire.channel_messages import Challenge, Extension, InitAck, Nack, VoterState
from hbtrio.wire.vocabulary import (
    CorrectiveAction,
    Event,
    NotificationType,
    VoterAnswer,
    VoteResult,
    VoterHealth,
)
from support.fake_processes import FakeRun
from support.guest_world import STOP_NOTICE, STOP_VOTE, handlers
from support.raw_application import AppWorld, app_world, init

pytestmark = pytest.mark.usefixtures("autojump_clock")

#: The init of a world's guest.
INIT_ID = 101
OFFERS = InitAck(INIT_ID, int(Extension.VOTERS))


async def reported(world: AppWorld) -> list[VoterState]:
    """What the guest reports after a challenge that comes as soon as it may report anything."""
    await world.sleep(INTERVAL_S)
    world.device.unread()
    world.device.send(Challenge(7))
    await world.settle()
    _, *states = [one.message for one in world.device.unread()]
    assert all(isinstance(one, VoterState) for one in states)
    return states  # type: ignore[return-value]


async def test_applications_and_scripts_by_name_with_health_and_answers(tmp_path: Path) -> None:
    processes = handlers(tmp_path, {"handler": FakeRun(0, b"synced\n", delay_s=1)})
    async with app_world(events=tmp_path / "handler", processes=processes) as world:
        world.device.send(OFFERS)
        [handler] = await reported(world)
        assert (handler.name, handler.health, handler.interval_ms) == (
            "handler",
            VoterHealth.NONE,
            0,
        )
        assert handler.notification_type is NotificationType.UNKNOWN
        orders, web = [await world.join(init(name)) for name in ("orders", "web")]
        orders.on_event = lambda one: orders.answer(one, VoteResult.REJECT, "3 orders are open")
        world.device.send(STOP_VOTE)
        web.health = HealthStatus(False, CorrectiveAction.LOG, "disk full")
        states = await reported(world)
        assert [one.name for one in states] == ["web", "orders", "handler"]
        assert [one.health for one in states] == [
            VoterHealth.ILL,
            VoterHealth.HEALTHY,
            VoterHealth.NONE,
        ]
        assert (states[0].corrective_action, states[0].reason) == (
            CorrectiveAction.LOG,
            "disk full",
        )
        assert states[0].health_s == 4  # ill with its first answer
        assert states[1].corrective_action is CorrectiveAction.STOP  # if it hung
        assert {(one.event_type, one.notification_type, one.ago_s) for one in states} == {
            (Event.STOP, NotificationType.REVOCABLE, 5)
        }
        # The reject ended the vote: the others had no say.
        assert [one.answer for one in states] == [
            VoterAnswer.NONE,
            VoterAnswer.REJECT,
            VoterAnswer.NONE,
        ]
        assert states[1].answer_reason == "3 orders are open"
        orders.deregister()
        web.health, web.beats = HealthStatus(True), False
        world.device.send(STOP_NOTICE)
        states = await reported(world)
        assert [(one.name, one.health) for one in states] == [
            ("web", VoterHealth.SILENT),
            ("handler", VoterHealth.NONE),
        ]
        assert [one.answer for one in states] == [VoterAnswer.TIMEOUT, VoterAnswer.ACCEPT]
        assert states[1].answer_reason == "synced"


async def test_equal_names_are_numbered_as_in_reasons_and_a_missing_name_is_said() -> None:
    async with app_world() as world:
        world.device.send(OFFERS)
        assert [one.count for one in await reported(world)] == [0]
        for name in ("web", "web", ""):
            await world.join(init(name, heartbeat_interval_ms=60_000))
        assert [one.name for one in await reported(world)] == ["web", "web (2)", "application"]


@pytest.mark.parametrize("extensions", [0, 1, 2, 3, 0x7FFFFFFB])
async def test_a_host_that_does_not_offer_it_is_not_sent_any(extensions: int) -> None:
    async with app_world() as world:
        world.device.send(OFFERS)
        await world.join(init("web", heartbeat_interval_ms=60_000))
        assert await reported(world)
        world.device.send(InitAck(INIT_ID, extensions))
        await world.join(init("db", heartbeat_interval_ms=60_000))
        assert await reported(world) == []


async def test_a_host_that_refuses_them_is_not_sent_more_until_it_offers_them_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """An older host of ours challenges a guest that has migrated to it without an init."""
    async with app_world() as world:
        world.device.send(OFFERS)
        assert await reported(world)
        await world.join(init("web", heartbeat_interval_ms=60_000))
        # Another refusal says nothing of voters.
        world.device.send(Nack(5, "no action with this invocation_id is open"))
        assert await reported(world)
        world.device.send(Nack(0, "unknown msg_type voter_state"))
        await world.join(init("db", heartbeat_interval_ms=60_000))
        assert await reported(world) == []
        world.device.send(OFFERS)
        assert len(await reported(world)) == 2
    refused = [one for one in caplog.records if one.levelno == logging.WARNING]
    assert [one.getMessage() for one in refused][-1] == (
        "the host refuses a message: unknown msg_type voter_state"
    )
