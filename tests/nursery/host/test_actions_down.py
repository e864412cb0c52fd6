"""A stop is done when the VM is down, a pause when it stands still, a reboot when it has moved."""

from __future__ import annotations

import math
from typing import Any

import pytest

from hbtrio.config.host import LibvirtSettings
from hbtrio.fsm.heartbeat.table import HeartbeatState
from hbtrio.wire.vocabulary import ActionName
from support.actions_cases import (
    BEGUN,
    DOWN_S,
    ROWS,
    TAKES_S,
    Row,
    asked,
    downed,
    end,
    never_down,
    not_down,
    world_of,
)
from support.fake_libvirt import FakeDomain
from support.fake_processes import FakeRun
from support.host_world import Acted, HostWorld, ScriptedGuest

pytestmark = pytest.mark.usefixtures("autojump_clock")

ON = LibvirtSettings(enabled="on")

GOING_DOWN = [row for row in ROWS if row.name in DOWN_S]
STILL = [row for row in GOING_DOWN if row.name is not ActionName.STOP]
STOP = ROWS[0]

EACH = pytest.mark.parametrize("row", GOING_DOWN, ids=lambda row: row.name.value)


async def machine(world: HostWorld) -> tuple[ScriptedGuest, FakeDomain]:
    guest = world.guest()
    domain = world.libvirt.define(guest.uuid, "web-1", (guest.path,))
    await world.libvirt.start(domain)
    guest.appear()
    await world.at(BEGUN)
    return guest, domain


async def acting(world: HostWorld, guest: ScriptedGuest, row: Row) -> Acted:
    acted = await world.act(guest, row.name, "cmd", "{uuid}", force=True)
    await world.at(BEGUN + TAKES_S)
    return acted


async def ends(world: HostWorld, domain: FakeDomain, row: Row) -> None:
    if row is STOP:
        await world.libvirt.destroy(domain)
    else:
        await world.libvirt.suspend(domain)


def with_libvirt(**config: Any) -> Any:
    return world_of(libvirt=ON, **config)


@EACH
async def test_it_is_done_once_libvirt_says_so(row: Row) -> None:
    async with with_libvirt() as world:
        guest, domain = await machine(world)
        acted = await acting(world, guest, row)
        await world.at(20)
        assert not acted.ended
        await ends(world, domain, row)
        await world.sleep(1)
        assert acted.lines[-3:] == [*downed(row), end("done")]
        assert 20 < acted.times[-1] <= 20.6


@pytest.mark.parametrize("row", STILL, ids=lambda row: row.name.value)
async def test_one_that_hangs_and_runs_is_not_frozen(row: Row) -> None:
    async with with_libvirt() as world:
        guest, _ = await machine(world)
        guest.answers_after_s, guest.sends_init = None, False
        acted = await acting(world, guest, row)
        await world.at(200)
        assert acted.lines[-5:-3] == not_down(row)
        assert acted.lines[-1] == end("failed", never_down(row))
        assert acted.times[-1] == pytest.approx(BEGUN + TAKES_S + 121, abs=0.2)


async def test_a_suspended_vm_may_have_been_saved() -> None:
    async with with_libvirt() as world:
        guest, domain = await machine(world)
        acted = await acting(world, guest, ROWS[4])
        await world.libvirt.become(domain, 5, 5, "Stopped Saved")
        await world.sleep(1)
        assert acted.lines[-1] == end("done")


@EACH
async def test_one_that_was_down_before_its_command_ended(row: Row) -> None:
    """A pause of some seconds, for instance: it is not taken for one that never froze."""
    async with with_libvirt(run=FakeRun(delay_s=10)) as world:
        guest, domain = await machine(world)
        acted = await world.act(guest, row.name, "cmd", force=True)
        await world.sleep(1)
        await ends(world, domain, row)
        await world.sleep(2)
        await world.libvirt.resume(domain)
        await world.sleep(20)
        assert acted.lines[-3:] == [*downed(row), end("done")]
        assert acted.times[-1] == pytest.approx(BEGUN + 10, abs=0.1)


@EACH
async def test_one_that_runs_on_is_told_and_watched_again(row: Row) -> None:
    async with world_of() as world:
        guest = await world.heartbeating()
        await world.at(BEGUN)
        acted = await acting(world, guest, row)
        over_at = BEGUN + TAKES_S + DOWN_S[row.name]
        await world.at(math.floor(over_at) - 1)
        # For a stop it was called off before: it answered all the while.
        state = world.channel(guest).heartbeat.state
        assert state is (HeartbeatState.HEARTBEATING if row is STOP else HeartbeatState.SUSPENDED)
        await world.at(over_at + 1)
        assert acted.lines[-1] == end("failed", never_down(row))
        assert asked(guest)[-1] == (over_at, row.cancelled, "irrevocable")
        assert world.channel(guest).heartbeat.state is HeartbeatState.HEARTBEATING
        guest.answers_after_s = None
        await world.sleep(10)
        assert world.reports()[-1][1] == "loss"


@pytest.mark.parametrize("name", [ActionName.REBOOT, ActionName.RESIZE])
async def test_a_restart_of_a_vm_that_was_moved_is_over(name: ActionName) -> None:
    """It ends as soon as libvirt says so, and not with RESTART; its RESTART is no loss either."""
    async with with_libvirt() as world:
        guest, domain = await machine(world)
        guest.answers_after_s, guest.sends_init = None, False
        acted = await world.act(guest, name, "cmd", force=True)
        await world.at(20)
        assert not acted.ended
        await world.libvirt.become(domain, 5, 4, "Stopped Migrated")
        guest.vanish()
        await world.sleep(1)
        assert acted.lines[-1] == end("done", "it was migrated to another host")
        assert 20 < acted.times[-1] <= 20.6
        await world.sleep(300)
        assert not {one[1] for one in world.reports()} & {"loss", "restart-expired"}


async def test_a_host_without_descriptors_does_not_take_a_vm_for_stopped() -> None:
    async with world_of() as world:
        guest = await world.heartbeating()
        await world.at(BEGUN)
        acted = await acting(world, guest, STOP)
        world.dialer.is_spent = True
        guest.peer.close()
        await world.at(100)
        assert not acted.ended
        world.dialer.is_spent = False
        guest.vanish()
        await world.at(140)
        assert acted.lines[-1] == end("done")
