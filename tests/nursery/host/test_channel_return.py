"""VMs that stand still for a while: when they are heartbeating again, and what is said of the rest.

A frozen guest reads nothing, so what the host sends waits in its port; once it runs it answers all
of it in one burst, as deployed guests do.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from hbtrio.api.host_status import host_status, instance_status
from hbtrio.config.host import AgentLinkSettings, CorrectiveCommands
from hbtrio.fsm.heartbeat.outage import CALL_OFF_S
from hbtrio.fsm.heartbeat.table import HeartbeatState
from hbtrio.nursery.host.agent_feed import instance_of
from hbtrio.nursery.host.round import NotHeartbeating
from hbtrio.wire.vocabulary import EVENT_TABLE, ActionName, Event, ExpectedEffect
from support.fake_processes import FakeRun
from support.host_world import HostWorld, ScriptedGuest, Told, host_world, now

pytestmark = pytest.mark.usefixtures("autojump_clock")

#: When the notice is over; the guest beats on every whole second until then.
NOTICED = 4.5
CALLED_OFF = NOTICED + CALL_OFF_S

#: How soon a VM that runs again has to be heartbeating: the orchestrator waits for that.
BACK_WITHIN_S = 8.0

FREEZING = [e for e, rule in EVENT_TABLE.items() if rule.effect is ExpectedEffect.FREEZES]
ENDS = {
    Event.PAUSE: Event.UNPAUSE,
    Event.SUSPEND: Event.RESUME,
    Event.LIVE_MIGRATE_BEGIN: Event.LIVE_MIGRATE_END,
}


def freeze(guest: ScriptedGuest) -> None:
    guest.reads = guest.peer.reading = False


def thaw(guest: ScriptedGuest) -> None:
    guest.reads = guest.peer.reading = True


async def noticed(world: HostWorld, event: Event = Event.PAUSE, **init: int) -> ScriptedGuest:
    """A guest that was told of ``event`` and goes on answering."""
    guest = await world.heartbeating(**init)
    await world.at(NOTICED)
    world.notice(guest, event)
    await world.settle()
    return guest


async def hiccup(world: HostWorld, guest: ScriptedGuest) -> None:
    """The guest is silent for 4 s, and then answers again: a provisional return."""
    freeze(guest)
    await world.sleep(4)
    thaw(guest)
    await world.sleep(0.25)
    assert world.channel(guest).heartbeat.state is HeartbeatState.PROVISIONAL


def later(world: HostWorld) -> list[Told]:
    """What was reported after the notice and the suspension."""
    told = world.reports(since=NOTICED)
    assert [one[1] for one in told[:2]] == ["notice", "stopped"]
    return told[2:]


@asynccontextmanager
async def world_of_vim() -> AsyncIterator[HostWorld]:
    """A host that is told what to report."""
    async with host_world(agent=AgentLinkSettings(connect="unix:/agent")) as world:
        world.host.set_reporting("", enabled=True)
        yield world


def enable(world: HostWorld, guest: ScriptedGuest, *, on: bool = True) -> None:
    world.host.set_reporting(guest.uuid, enabled=on)


# -- the order of the VIM -----------------------------------------------------------------------


@pytest.mark.parametrize("event", FREEZING)
@pytest.mark.parametrize(("interval_ms", "frozen_s"), [(1000, 10), (1000, 400), (5000, 60)])
async def test_it_is_heartbeating_soon_after_its_thaw_without_an_end_notice(
    event: Event, interval_ms: int, frozen_s: int
) -> None:
    async with world_of_vim() as world:
        guest = await world.heartbeating(heartbeat_interval_ms=interval_ms)
        enable(world, guest)
        await world.at(NOTICED)
        world.notice(guest, event)
        await world.settle()
        enable(world, guest, on=False)
        freeze(guest)
        sent = len(guest.challenges)
        await world.sleep(frozen_s)
        assert [one[1] for one in world.reports(since=NOTICED)] == ["notice", "stopped"]
        thawed = now()
        thaw(guest)
        await world.sleep(BACK_WITHIN_S)
        ((at, *words),) = later(world)
        assert words == ["heartbeating", f"back after {event}"]
        assert isinstance(at, float)
        assert thawed <= at <= thawed + BACK_WITHIN_S
        assert instance_of(world.channel(guest)).heartbeating
        # Two challenges had waited for it.
        assert guest.challenged_at()[sent : sent + 3] == [thawed] * 3

        enable(world, guest)
        world.notice(guest, ENDS[event])
        await world.settle()
        freeze(guest)
        await world.sleep(4 * interval_ms / 1000)
        assert [one[1] for one in later(world)[1:]] == ["notice", "loss"]


async def test_enabled_again_it_is_heartbeating_though_it_was_never_silent() -> None:
    """A live migration that stays on its host: the VM stops for less than a beat."""
    async with world_of_vim() as world:
        guest = await world.heartbeating()
        enable(world, guest)
        await world.at(NOTICED)
        world.notice(guest, Event.LIVE_MIGRATE_BEGIN)
        await world.settle()
        enable(world, guest, on=False)
        await world.at(30)
        assert later(world) == []
        enable(world, guest)
        await world.at(31)
        assert later(world) == [(30.0, "heartbeating", "back after the instance was enabled")]
        freeze(guest)
        await world.at(40)
        assert [one[1] for one in later(world)[1:]] == ["loss"]


async def test_enabled_again_while_frozen_it_is_challenged_and_back_for_good() -> None:
    async with world_of_vim() as world:
        guest = await world.heartbeating()
        await world.at(NOTICED)
        world.notice(guest, Event.PAUSE)
        await world.settle()
        freeze(guest)
        await world.at(20)
        enable(world, guest)
        assert world.channel(guest).heartbeat.state is HeartbeatState.RETURNING
        await world.at(22)
        thaw(guest)
        await world.at(23.5)
        assert world.channel(guest).heartbeat.state is HeartbeatState.HEARTBEATING


@pytest.mark.parametrize("how", ["still enabled", "disabled", "the host", "another instance"])
async def test_only_its_own_change_to_enabled_says_that_it_runs(how: str) -> None:
    async with world_of_vim() as world:
        guest = await world.heartbeating()
        other = await world.heartbeating()
        enable(world, guest)
        await world.at(NOTICED)
        world.notice(guest, Event.PAUSE)
        await world.settle()
        freeze(guest)
        await world.at(20)
        match how:
            case "still enabled":  # as an agent says once more with each link
                enable(world, guest)
            case "disabled":
                enable(world, guest, on=False)
            case "the host":
                world.host.set_reporting("", enabled=False)
                world.host.set_reporting("", enabled=True)
            case _:
                enable(world, other)
        await world.at(30)
        assert world.channel(guest).heartbeat.state is HeartbeatState.SUSPENDED


@pytest.mark.parametrize("event", [Event.STOP, Event.REBOOT])
async def test_enabled_says_nothing_of_a_stop_or_restart(event: Event) -> None:
    async with world_of_vim() as world:
        guest = await world.heartbeating()
        await world.at(NOTICED)
        world.notice(guest, event)
        await world.settle()
        before = world.channel(guest).heartbeat.state
        await world.at(20)
        enable(world, guest)
        await world.at(60)
        assert world.channel(guest).heartbeat.state is before
        assert later(world) == []


# -- provisional --------------------------------------------------------------------------------


async def test_a_hiccup_before_the_freeze_is_no_loss(world: HostWorld) -> None:
    guest = await noticed(world)
    await hiccup(world, guest)
    freeze(guest)
    await world.sleep(60)
    thawed = now()
    thaw(guest)
    await world.sleep(5)
    assert later(world) == [
        (8.5, "heartbeating", "back after pause"),
        (11.5, "stopped", "no answer for 3 s, pause is in progress"),
        (thawed, "heartbeating", "back after pause"),
    ]


async def test_every_api_calls_it_heartbeating(world: HostWorld) -> None:
    guest = await noticed(world)
    assert world.host.heartbeating == 0
    await hiccup(world, guest)
    channel = world.channel(guest)
    status = instance_status(world.host, channel, now())
    assert (status.state, status.heartbeating) == ("heartbeating", True)
    assert status.health == "healthy"
    assert host_status(world.host, now()).heartbeating == 1
    told = instance_of(channel)
    assert (told.state, told.heartbeating, told.why) == ("heartbeating", True, "")
    world.vote(guest, Event.STOP)
    await world.settle()
    assert later(world)[-1][1:] == ("vote", "stop", "accept", "")


# -- the action's own command -------------------------------------------------------------------


async def test_paused_by_a_command_after_a_hiccup_it_is_no_loss() -> None:
    async with host_world(runs={"pause": FakeRun(delay_s=6.0)}) as world:
        guest = await world.heartbeating()
        await world.at(NOTICED)
        await world.act(guest, ActionName.PAUSE, "pause")
        await hiccup(world, guest)
        await world.at(NOTICED + 6.0 - 0.001)
        freeze(guest)  # as its command ends
        await world.at(700)
        channel = world.channel(guest)
        assert channel.heartbeat.state is HeartbeatState.SUSPENDED
        thaw(guest)
        await world.sleep(1)
        assert channel.heartbeat.state is HeartbeatState.HEARTBEATING
        freeze(guest)
        await world.sleep(10)
        kinds = [one[1] for one in world.reports(since=NOTICED)][2:]
        assert kinds == ["stopped", "heartbeating", "stopped", "heartbeating", "loss"]


async def test_that_of_a_command_that_goes_on_running_is_final() -> None:
    async with host_world(runs={"snapshot": FakeRun(delay_s=6.0)}) as world:
        guest = await world.heartbeating()
        await world.at(NOTICED)
        await world.act(guest, ActionName.PAUSE, "snapshot")
        await hiccup(world, guest)
        await world.at(12)
        assert world.channel(guest).heartbeat.state is HeartbeatState.HEARTBEATING


# -- unwatched ----------------------------------------------------------------------------------


async def test_silent_again_at_the_call_off_time_it_is_an_alarm_and_no_action(
    caplog: pytest.LogCaptureFixture,
) -> None:
    commands = CorrectiveCommands(reboot=("reset",), log=("log",))
    async with host_world(runs={}, corrective_commands=commands) as world:
        guest = await noticed(world)
        await hiccup(world, guest)
        changes: list[str] = []
        freeze(guest)
        await world.at(CALLED_OFF - 0.001)
        world.host.on_change(changes.append)
        assert "ALARM" not in caplog.text
        await world.at(CALLED_OFF)
        why = "silent again after pause, which should be over by now"
        alarms = [one for one in caplog.records if "ALARM" in one.getMessage()]
        assert [one.getMessage() for one in alarms] == [f"{guest.uuid} ALARM: unwatched: {why}"]
        assert alarms[0].levelname == "CRITICAL"
        assert changes == [guest.uuid]
        channel = world.channel(guest)
        status = instance_status(world.host, channel, now())
        assert (status.state, status.heartbeating, status.why) == ("unwatched", False, why)
        told = instance_of(channel)
        assert (told.state, told.heartbeating, told.why) == ("unwatched", False, why)
        with pytest.raises(NotHeartbeating, match=why):
            world.vote(guest, Event.STOP)
        await world.at(CALLED_OFF + 1000)
        assert world.processes.started == []
        assert [one[1] for one in later(world)] == ["heartbeating", "stopped", "unwatched"]
        thaw(guest)
        await world.sleep(5)
        assert later(world)[-1][1:] == ("heartbeating", "back after pause")
        assert channel.heartbeat.state is HeartbeatState.HEARTBEATING
        assert world.host.heartbeating == 1
        assert len([one for one in caplog.records if "ALARM" in one.getMessage()]) == 1


async def test_without_a_connection_it_is_an_alarm_too(
    caplog: pytest.LogCaptureFixture, world: HostWorld
) -> None:
    guest = await noticed(world)
    await hiccup(world, guest)
    world.dialer.forget(guest.path)
    guest.peer.close()
    await world.at(CALLED_OFF)
    assert "ALARM: unwatched" in caplog.text
    assert world.channel(guest).heartbeat.state is HeartbeatState.UNWATCHED


async def test_one_that_stays_paused_is_none(
    caplog: pytest.LogCaptureFixture, world: HostWorld
) -> None:
    guest = await noticed(world)
    freeze(guest)
    await world.at(2000)
    assert world.channel(guest).heartbeat.state is HeartbeatState.SUSPENDED
    assert "ALARM" not in caplog.text
    assert later(world) == []
