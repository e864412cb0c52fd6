"""A host that does not run for a while loses nobody for it, in whatever order its tasks run."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from hbtrio.fsm.heartbeat.rules import EXCUSED
from hbtrio.fsm.heartbeat.table import HeartbeatState
from hbtrio.wire.vocabulary import Event, NotificationType, VoteResult
from support.host_world import HostWorld, Reply, host_world, now, stay_silent
from support.run_order import ORDERS, in_every_order

pytestmark = pytest.mark.slow

#: More than one read, and less than a host takes in before it judges.
FLOOD = (b"x" * 3999 + b"\n") * 4

#: Too short for the guard, and much longer than any loss takes.
STALLS = pytest.mark.parametrize("stall_s", [0.75, 89.0])


def losses(world: HostWorld) -> int:
    return sum(told[1] == "loss" for told in world.reports())


@STALLS
@pytest.mark.parametrize("flood", [b"", FLOOD])
def test_an_answer_in_the_channel_beats_a_miss(stall_s: float, flood: bytes) -> None:
    async def scenario(clock: MockClock) -> tuple[int, int, int]:
        async with host_world() as world:
            guest = await world.heartbeating()
            await world.at(4.5)
            guest.answers_after_s = None
            await world.at(6.95)
            guest.peer.send_bytes(flood, cut=4096)
            guest.answer_challenge()
            guest.answers_after_s = 0.0
            clock.jump(stall_s)
            await world.sleep(8)
            beat = world.channel(guest).heartbeat
            return losses(world), beat.missed, beat.late_answers

    assert in_every_order(scenario) == [(0, 1, 0)] * ORDERS


@STALLS
def test_the_end_of_a_connection_in_its_channel_beats_a_miss(stall_s: float) -> None:
    """A guest whose QEMU has ended has stopped, and is not lost."""

    async def scenario(clock: MockClock) -> list[str]:
        async with host_world() as world:
            guest = await world.heartbeating()
            await world.at(4.5)
            guest.answers_after_s = None
            await world.at(6.95)
            guest.peer.close()
            clock.jump(stall_s)
            guest.sends_init = False
            await world.sleep(8)
            return [str(told[1]) for told in world.reports(guest, since=2)]

    assert in_every_order(scenario) == [["stopped"]] * ORDERS


@STALLS
def test_a_guest_that_stood_still_with_its_host_has_its_time_to_answer(stall_s: float) -> None:
    """The whole machine stood still: nothing has arrived, and nobody has listened."""

    async def scenario(clock: MockClock) -> tuple[int, str]:
        async with host_world() as world:
            guest = await world.heartbeating()
            await world.at(4.5)
            guest.answers_after_s = None
            await world.at(6.55)
            clock.jump(stall_s)
            await world.sleep(0.2)
            guest.answer_challenge()
            guest.answers_after_s = 0.0
            await world.sleep(8)
            return losses(world), world.channel(guest).heartbeat.state.shown

    assert in_every_order(scenario) == [(0, "heartbeating")] * ORDERS


def test_a_host_frozen_again_and_again_keeps_those_that_answer() -> None:
    """3 s, 20 times in a row, with hardly any time between in which to listen."""

    async def scenario(clock: MockClock) -> tuple[int, int]:
        async with host_world() as world:
            guests = await world.all_heartbeating(3)
            for guest in guests[1:]:
                guest.answers_after_s = 0.3
            await world.at(4.5)
            for _ in range(20):
                clock.jump(3.0)
                await world.sleep(0.05)
            await world.sleep(8)
            return losses(world), world.host.heartbeating

    assert in_every_order(scenario) == [(0, 3)] * ORDERS


@pytest.mark.usefixtures("autojump_clock")
@pytest.mark.parametrize("stall_s", [0.5, 0.9, 1.5])
async def test_a_host_that_is_always_late_loses_the_dead_and_nobody_else(
    stall_s: float, autojump_clock: MockClock, world: HostWorld
) -> None:
    dead, live = await world.all_heartbeating(2)
    await world.at(4.5)
    dead.answers_after_s = None
    ran_s = 0.0
    while world.channel(dead).heartbeating:
        await world.sleep(0.3)
        autojump_clock.jump(stall_s)
        ran_s += 0.3
        assert ran_s < 60
    # Of each stall up to 0.22 s count as time in which the host ran.
    assert ran_s <= EXCUSED + 3
    assert losses(world) == 1
    assert world.channel(live).heartbeating
    assert world.channel(live).heartbeat.missed == 0


# -- what else means silence --------------------------------------------------------------------


@STALLS
def test_an_answer_in_the_channel_beats_the_end_of_the_wait_after_an_init(stall_s: float) -> None:
    """Two challenges after an init without an answer, and the init counts as a leftover."""

    async def scenario(clock: MockClock) -> tuple[str, int]:
        async with host_world() as world:
            guest = world.guest()
            guest.answers_after_s = None
            guest.appear()
            await world.at(2.95)
            assert world.channel(guest).heartbeat.missed == 1
            guest.answer_challenge()
            guest.answers_after_s = 0.0
            clock.jump(stall_s)
            await world.sleep(5)
            beat = world.channel(guest).heartbeat
            return beat.state.shown, beat.missed

    assert in_every_order(scenario) == [("heartbeating", 1)] * ORDERS


@STALLS
def test_an_answer_in_the_channel_beats_the_reconnect_of_one_that_returns(stall_s: float) -> None:
    """Five challenges after a pause without an answer, and the port counts as wedged."""

    async def scenario(clock: MockClock) -> tuple[int, str]:
        async with host_world() as world:
            guest = await world.heartbeating()
            notice = world.notice(guest, Event.PAUSE)
            await notice.done.wait()
            guest.answers_after_s = None
            await world.sleep(10)
            guest.sends_init = False
            world.channel(guest).outages.runs_again("enabled")
            await world.sleep(4.95)
            guest.answer_challenge()
            guest.answers_after_s = 0.0
            clock.jump(stall_s)
            await world.sleep(5)
            return guest.connections, world.channel(guest).heartbeat.state.shown

    assert in_every_order(scenario) == [(1, "heartbeating")] * ORDERS


@STALLS
def test_an_init_in_the_channel_beats_a_reconnect(stall_s: float) -> None:
    async def scenario(clock: MockClock) -> tuple[int, bool]:
        async with host_world() as world:
            guest = world.guest()
            guest.sends_init = False
            guest.appear()
            await world.at(120.95)
            guest.send_init()
            clock.jump(stall_s)
            await world.sleep(1)
            return guest.connections, world.channel(guest).heartbeating

    assert in_every_order(scenario) == [(1, True)] * ORDERS


def test_a_connection_is_not_silent_while_nobody_listens() -> None:
    async def scenario(clock: MockClock) -> tuple[int, int]:
        async with host_world() as world:
            guest = world.guest()
            guest.sends_init = False
            guest.appear()
            await world.at(60)
            clock.jump(89.0)
            await world.at(200)
            connections = guest.connections
            await world.at(220)
            return connections, guest.connections

    assert in_every_order(scenario) == [(1, 2)] * ORDERS


@STALLS
def test_a_paused_guest_is_not_called_off_by_a_stall_of_its_host(stall_s: float) -> None:
    """It answered before its VM was paused, and the host was to wait 300 s for the pause."""

    async def scenario(clock: MockClock) -> str:
        async with host_world() as world:
            guest = await world.heartbeating(heartbeat_interval_ms=3000)
            notice = world.notice(guest, Event.PAUSE)
            await notice.done.wait()
            assert world.channel(guest).heartbeat.state is HeartbeatState.SUSPENDED
            await world.at(now() + 296.0)
            guest.answers_after_s = None
            await world.sleep(3.7)
            guest.answer_challenge()
            clock.jump(stall_s)
            await world.sleep(15)
            return world.channel(guest).heartbeat.state.shown

    assert in_every_order(scenario) == ["suspended"] * ORDERS


@STALLS
def test_an_answer_in_the_channel_beats_the_alarm_about_an_unwatched_one(stall_s: float) -> None:
    async def scenario(clock: MockClock) -> str:
        async with host_world() as world:
            guest = await world.heartbeating()
            notice = world.notice(guest, Event.PAUSE)
            await notice.done.wait()
            suspended_at = now()
            guest.answers_after_s = None
            await world.sleep(10)
            guest.answer_challenge(guest.challenges[-1].heartbeat_challenge)  # late: back
            await world.settle()
            guest.answer_challenge()
            await world.settle()
            assert world.channel(guest).heartbeat.state is HeartbeatState.PROVISIONAL
            await world.at(suspended_at + 299.95)
            assert world.channel(guest).heartbeat.state is HeartbeatState.SUSPENDED
            guest.answer_challenge()  # the last probe, which was in its port
            guest.answers_after_s = 0.0
            clock.jump(stall_s)
            await world.sleep(5)
            return world.channel(guest).heartbeat.state.shown

    assert in_every_order(scenario) == ["heartbeating"] * ORDERS


@STALLS
@pytest.mark.parametrize("flood", [b"", FLOOD])
def test_a_reject_in_the_channel_beats_the_end_of_the_host(stall_s: float, flood: bytes) -> None:
    """A stopped host finds the signal and the reject at once; an aborted vote is consent."""

    async def scenario(clock: MockClock) -> VoteResult | None:
        async with host_world() as world:
            guest = await world.heartbeating()
            guest.reply = stay_silent
            vote = world.host.open_round(guest.uuid, Event.STOP, NotificationType.REVOCABLE)
            await world.sleep(1.0)
            guest.peer.send_bytes(flood, cut=4096)
            guest.answer_vote(guest.asked, Reply(VoteResult.REJECT, "busy"))
            clock.jump(stall_s)
            await world.host.stopping.run(60.0, trio.sleep_forever)
            return vote.outcome and vote.outcome.result

    assert in_every_order(scenario) == [VoteResult.REJECT] * ORDERS
