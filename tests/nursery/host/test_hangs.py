"""A guest that hangs when nobody looks: it is found, and acted upon as soon as that is allowed."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

import pytest

from hbtrio.config.host import BrakeSettings, CorrectiveCommands, LibvirtSettings
from hbtrio.fsm.heartbeat.table import HeartbeatState
from hbtrio.wire.vocabulary import ActionName, Event
from support.fake_processes import FakeRun
from support.host_world import HostWorld, ScriptedGuest, host_world

pytestmark = pytest.mark.usefixtures("autojump_clock")

#: What the guest advertises.
RESTART_S: Final = 121


def commands(argv: Sequence[str]) -> FakeRun:
    return FakeRun(delay_s=20.0) if argv[0] == "slow" else FakeRun()


@asynccontextmanager
async def world_of(*, per_hour: int = 3, **config: Any) -> AsyncIterator[HostWorld]:
    config = {"brake": BrakeSettings(share=1.0)} | config
    reboot = CorrectiveCommands(reboot=("reset", "{uuid}"), per_hour=per_hour)
    async with host_world(corrective_commands=reboot, runs=commands, **config) as world:
        yield world


def hangs(guest: ScriptedGuest) -> None:
    guest.answers_after_s, guest.sends_init = None, False


def comes_back(guest: ScriptedGuest) -> None:
    guest.answers_after_s, guest.sends_init = 0.0, True
    guest.send_init()


def losses(world: HostWorld) -> list[float | str]:
    return [report[0] for report in world.reports() if report[1] == "loss"]


def not_acted(world: HostWorld) -> list[str]:
    return [report.cause for report in world.host.reports.recent if report.cause]


def resets(world: HostWorld) -> list[float]:
    return [
        round(moment.time_s, 6) for moment in world.processes.started if moment.argv[0] == "reset"
    ]


@pytest.mark.parametrize("answers_once", [False, True])
async def test_right_after_a_thaw(answers_once: bool) -> None:
    """Paused behind our back, as by a backup; libvirt tells."""
    async with world_of(libvirt=LibvirtSettings(enabled="on")) as world:
        guest = world.guest()
        domain = world.libvirt.define(guest.uuid, "web-1", (guest.path,))
        await world.libvirt.start(domain)
        guest.appear()
        await world.at(10)
        await world.libvirt.suspend(domain)
        hangs(guest)
        await world.at(300)
        assert world.channel(guest).heartbeat.state is HeartbeatState.PAUSED
        assert losses(world) == resets(world) == []
        if answers_once:
            guest.answers_after_s = 0.0
        await world.libvirt.resume(domain)
        await world.at(300.5)
        if answers_once:
            assert world.channel(guest).heartbeating
            hangs(guest)
        found_within_s = 5 if answers_once else RESTART_S + 1
        await world.at(300 + found_within_s - 2)
        assert losses(world) == []
        await world.at(300 + found_within_s)
        assert len(losses(world)) == 1
        await world.at(300 + found_within_s + 3)
        assert len(resets(world)) == 1


@pytest.mark.parametrize("answers_once", [False, True])
async def test_right_after_an_end_notice(answers_once: bool) -> None:
    async with world_of() as world:
        guest = await world.heartbeating()
        await world.at(5)
        world.notice(guest, Event.PAUSE)
        await world.settle()
        hangs(guest)
        await world.at(250)
        if answers_once:
            guest.answers_after_s = 0.0
        world.notice(guest, Event.UNPAUSE)
        await world.settle()
        if answers_once:
            assert world.channel(guest).heartbeating
            hangs(guest)
        found_within_s = 4 if answers_once else RESTART_S
        await world.at(250 + found_within_s - 2)
        assert losses(world) == []
        await world.at(250 + found_within_s)
        assert len(losses(world)) == 1
        await world.at(250 + found_within_s + 2)
        assert len(resets(world)) == 1
        assert not_acted(world) == []


async def test_during_an_action() -> None:
    async with world_of() as world:
        guest = await world.heartbeating()
        await world.at(2)
        await world.act(guest, ActionName.UNPAUSE, "slow", force=True)
        await world.at(4.5)
        hangs(guest)
        await world.at(21)
        assert len(losses(world)) == 1
        assert (not_acted(world), resets(world)) == (["owner"], [])
        # After its command, at 22 s, the guest is told that it runs: it has RESTART to answer.
        await world.at(22 + RESTART_S - 1)
        assert resets(world) == []
        await world.at(22 + RESTART_S + 2)
        assert len(losses(world)) == 2
        assert len(resets(world)) == 1


async def test_under_a_closed_brake() -> None:
    async with world_of(brake=BrakeSettings()) as world:
        guests = await world.all_heartbeating(10)
        await world.at(4.5)
        for guest in guests[:6]:
            hangs(guest)
        await world.at(30)
        assert world.host.corrective.brake.closed
        hangs(guests[6])
        await world.at(60)
        assert len(losses(world)) == 7
        assert (not_acted(world), resets(world)) == (["brake"] * 7, [])
        for guest in guests[:3]:
            comes_back(guest)
        await world.at(120)
        assert world.host.corrective.brake.closed
        comes_back(guests[3])
        await world.at(180)
        # Few of those that failed are silent: all that hang are acted upon.
        silent = {guest.uuid for guest in guests[4:7]}
        assert {moment.argv[1] for moment in world.processes.started} == silent


@pytest.mark.slow
async def test_with_a_used_up_limit() -> None:
    async with world_of(per_hour=1) as world:
        guest = await world.heartbeating()
        await world.at(4.5)
        hangs(guest)
        await world.at(60)
        comes_back(guest)
        await world.at(200)
        (first,) = resets(world)
        hangs(guest)
        await world.at(first + 3599)
        assert len(losses(world)) == 2
        assert (not_acted(world), resets(world)) == (["limit"], [first])
        await world.at(first + 3620)
        assert len(resets(world)) == 2


async def test_two_mass_failures_share_one_brake() -> None:
    """Those of the first one are not forgotten when there is a second."""
    async with world_of(brake=BrakeSettings(minimum=3)) as world:
        guests = await world.all_heartbeating(10)
        await world.at(4.5)
        for guest in guests[:6]:
            hangs(guest)
        await world.at(60)
        for guest in guests[6:]:
            hangs(guest)
        await world.at(120)
        assert (not_acted(world), resets(world)) == (["brake"] * 10, [])
        assert world.host.mass_failures.alarms == 2
        for guest in guests[6:]:
            comes_back(guest)
        await world.at(180)
        assert resets(world) == []
        for guest in guests[:4]:
            comes_back(guest)
        await world.at(240)
        silent = {guest.uuid for guest in guests[4:6]}
        assert {moment.argv[1] for moment in world.processes.started} == silent
