"""What has happened by a command's limit counts, if the host is stopped over it."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from trio.testing import MockClock

from hbtrio.config.host import ActionCommands, BrakeSettings, CorrectiveCommands
from hbtrio.fsm.heartbeat.table import HeartbeatState
from hbtrio.wire.vocabulary import ActionName, Event
from support.fake_processes import HANGS, FakeRun
from support.host_world import VOTE, HostWorld, ScriptedGuest, agree, host_world, now, stay_silent
from support.run_order import ORDERS, in_every_order

pytestmark = pytest.mark.slow

LIMIT_S = 30.0

#: Ends just before its limit.
LONG = FakeRun(delay_s=LIMIT_S - 0.05)

STALLS = pytest.mark.parametrize("stall_s", [0.6, 3.0])

REBOOT = CorrectiveCommands(reboot=("reset", "{uuid}"), timeout_s=LIMIT_S)


def world_of(run: FakeRun, **config: Any) -> Any:
    return host_world(runs=lambda _: run, **config)


def lines(told: list[tuple[float | str, ...]]) -> list[str]:
    return [str(line[1]) for line in told]


@STALLS
def test_an_action_s_command_that_has_ended(stall_s: float) -> None:
    async def scenario(clock: MockClock) -> tuple[str, str, bool]:
        async with world_of(LONG, actions=ActionCommands(timeout_s=LIMIT_S)) as world:
            guest = await world.heartbeating()
            acted = await world.act(guest, ActionName.REBOOT, "reset", force=True)
            await trio.sleep(LIMIT_S - 0.1)
            clock.jump(stall_s)
            await world.sleep(0.1)
            guest.send_init()
            await world.sleep(5)
            command = [line for line in acted.lines if line["step"] == "command"][-1]
            return command["result"], acted.lines[-1]["outcome"], bool(world.processes.cancelled)

    assert in_every_order(scenario) == [("done", "done", False)] * ORDERS


@STALLS
def test_an_action_s_command_that_hangs(stall_s: float) -> None:
    async def scenario(clock: MockClock) -> str:
        async with world_of(HANGS, actions=ActionCommands(timeout_s=LIMIT_S)) as world:
            guest = await world.heartbeating()
            acted = await world.act(guest, ActionName.REBOOT, "reset", force=True)
            await trio.sleep(LIMIT_S - 0.1)
            clock.jump(stall_s)
            await world.sleep(5)
            command = [line for line in acted.lines if line["step"] == "command"][-1]
            return str(command["reason"])

    assert in_every_order(scenario) == [f"timed out after {LIMIT_S:g} s"] * ORDERS


@STALLS
def test_a_corrective_command_that_has_ended(stall_s: float) -> None:
    """A reboot that worked is not called off."""

    async def scenario(clock: MockClock) -> tuple[int, HeartbeatState]:
        settings = {"corrective_commands": REBOOT, "brake": BrakeSettings(share=1.0)}
        async with world_of(LONG, **settings) as world:
            guest = await world.heartbeating()
            await world.at(4.5)
            guest.answers_after_s, guest.sends_init = None, False
            while not world.processes.started:
                await world.sleep(0.1)
            await world.at(world.processes.started[0].time_s + LIMIT_S - 0.1)
            clock.jump(stall_s)
            await world.sleep(5)
            return world.host.corrective.failed, world.channel(guest).heartbeat.state

    assert in_every_order(scenario) == [(0, HeartbeatState.RESTARTING)] * ORDERS


# -- the brake ----------------------------------------------------------------------------------


def falls_silent(*guests: ScriptedGuest) -> None:
    for guest in guests:
        guest.answers_after_s, guest.sends_init = None, False


@pytest.mark.parametrize("stalls_s", [(), (0.79, 0.79), (3.0,), (3.0, 3.0), (89.0,)])
def test_a_host_stopped_in_the_hold_waits_for_those_that_failed_with_the_first(
    stalls_s: tuple[float, ...],
) -> None:
    async def scenario(clock: MockClock) -> tuple[int, int]:
        async with world_of(FakeRun(), corrective_commands=REBOOT) as world:
            first = world.guest(heartbeat_interval_ms=1500).appear()
            guests = await world.all_heartbeating(20)
            await world.at(1.6)
            falls_silent(first)
            await world.at(3.5)
            falls_silent(*guests)
            await world.at(5.6)
            assert lines(world.reports(since=2)) == ["loss"]
            for stall_s in stalls_s:
                clock.jump(stall_s)
                await world.sleep(0.06)
            await world.sleep(30)
            return len(world.processes.started), world.host.mass_failures.alarms

    assert in_every_order(scenario) == [(0, 1)] * ORDERS


@pytest.mark.usefixtures("autojump_clock")
async def test_a_host_that_is_always_late_acts_at_last(autojump_clock: MockClock) -> None:
    settings = {"corrective_commands": REBOOT, "brake": BrakeSettings(share=1.0)}
    async with world_of(FakeRun(), **settings) as world:
        guest = await world.heartbeating()
        await world.at(4.5)
        falls_silent(guest)
        since = now()
        while not world.processes.started:
            await world.sleep(0.3)
            autojump_clock.jump(0.9)
            assert now() - since < 120


# -- RESTART ------------------------------------------------------------------------------------


@pytest.mark.parametrize("stall_s", [0.75, 3.0, 200.0])
def test_a_guest_that_stood_still_with_its_host_has_all_of_restart(stall_s: float) -> None:
    async def scenario(clock: MockClock) -> list[str]:
        async with host_world() as world:
            guest = await world.heartbeating(restart_secs=60)
            await world.at(4.5)
            world.channel(guest).outages.restarts("reboot")
            guest.answers_after_s, guest.sends_init = None, False
            guest.peer.close()
            await world.at(4.5 + 30)
            clock.jump(stall_s)
            await world.sleep(29.6)
            guest.send_init()
            guest.answers_after_s = 0.0
            await world.sleep(10)
            return lines(world.reports(guest, since=4.5))

    assert in_every_order(scenario) == [["stopped", "heartbeating"]] * ORDERS


@pytest.mark.usefixtures("autojump_clock")
@pytest.mark.parametrize("stall_s", [0.5, 0.9])
async def test_restart_ends_at_a_host_that_is_always_late(
    stall_s: float, autojump_clock: MockClock, world: HostWorld
) -> None:
    guest = await world.heartbeating(restart_secs=10)
    await world.at(4.5)
    world.channel(guest).outages.restarts("reboot")
    guest.answers_after_s, guest.sends_init = None, False
    guest.peer.close()
    ran_s = 0.0
    while world.channel(guest).heartbeat.state is HeartbeatState.RESTARTING:
        await world.sleep(0.3)
        autojump_clock.jump(stall_s)
        ran_s += 0.3
        assert ran_s < 20
    assert 5.0 < ran_s < 16.0
    assert lines(world.reports(guest, since=4.5)) == ["stopped", "restart-expired", "loss"]


# -- a round that another waits for -------------------------------------------------------------


@STALLS
def test_a_round_that_has_closed_by_the_end_of_the_patience_for_it(stall_s: float) -> None:
    async def scenario(clock: MockClock) -> bool:
        async with host_world() as world, trio.open_nursery() as nursery:
            guest = await world.heartbeating()
            guest.reply = stay_silent
            world.vote(guest)
            asked = guest.asked
            opened: list[Event] = []

            async def notify() -> None:
                soon = await world.host.rounds.open_soon(
                    guest.uuid,
                    Event.STOP,
                    VOTE,
                    command_id="1",
                    patience_s=3.0,
                    begin_by=world.host.clock.begin_by(None, ""),
                )
                opened.append(soon.event)

            nursery.start_soon(notify)
            await world.sleep(2.95)
            guest.answer_vote(asked, agree(asked))
            clock.jump(stall_s)
            await world.sleep(1)
            nursery.cancel_scope.cancel()
            return bool(opened)

    assert in_every_order(scenario) == [True] * ORDERS
