"""`hbtrio ctl wait`: what ends it, how soon, and that it ends."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio

from hbtrio.cli.ctl.arguments import _GOALS
from hbtrio.cli.ctl.waiting import GOALS, LOOK_S
from hbtrio.errors import ExitStatus
from hbtrio.http.server import HttpLimits
from hbtrio.wire.vocabulary import Health
from support.control_socket import Ctl, Served, call
from support.ctl_cases import fault_of, serving
from support.fleet_world import fleet_world
from support.host_world import HostWorld, ScriptedGuest, uuid_of

pytestmark = pytest.mark.usefixtures("autojump_clock")


def falls_silent(guest: ScriptedGuest) -> None:
    guest.answers_after_s, guest.sends_init = None, False


def is_well(guest: ScriptedGuest) -> None:
    guest.health = Health.HEALTHY


def test_the_goals_are_those_of_the_command_line() -> None:
    assert tuple(GOALS) == _GOALS


@pytest.mark.parametrize("goal", ["heartbeating", "healthy"])
async def test_what_is_the_case_already_takes_no_time(goal: str) -> None:
    async with serving() as (world, api):
        await world.heartbeating(name="web-1")
        called = await call(api.path, "wait", "web-1", "--for", goal)
        assert called.lines == [f"web-1: {goal} after 0.0 s"]
        assert called.status == ExitStatus.DONE


@pytest.mark.parametrize(
    ("goal", "change", "within_s"),
    [
        ("lost", falls_silent, 6.0),
        ("gone", ScriptedGuest.vanish, LOOK_S + 5.0),
        ("healthy", is_well, LOOK_S + 1.5),
    ],
)
async def test_a_change_ends_it(
    goal: str, change: Callable[[ScriptedGuest], Any], within_s: float
) -> None:
    async with serving() as (world, api), trio.open_nursery() as nursery:
        guest = await world.heartbeating(name="web-1")
        guest.health = Health.UNHEALTHY
        await world.at(10)
        called = Ctl()
        nursery.start_soon(called.run, api.path, "wait", guest.uuid, "--for", goal, "--json")
        await world.at(20)
        assert called.status is None
        change(guest)
        await world.at(60)
        assert called.status == ExitStatus.DONE
        outcome = json.loads(called.text)
        assert (outcome["uuid"], outcome["for"], outcome["reached"]) == (guest.uuid, goal, True)
        assert 10 <= outcome["seconds"] <= 10 + within_s


async def test_a_loss_that_is_over_before_anybody_looks_counts() -> None:
    async with serving() as (world, api), trio.open_nursery() as nursery:
        guest = await world.heartbeating()
        called = Ctl()
        nursery.start_soon(called.run, api.path, "wait", guest.uuid, "--for", "lost")
        await world.at(3.5)
        guest.answers_after_s = None
        while not any(one.kind == "loss" for one in world.host.reports.recent):  # noqa: ASYNC110
            await trio.sleep(0.01)
        guest.answers_after_s = 0
        guest.send_init()
        await world.at(12)
        assert called.status == ExitStatus.DONE


async def test_one_that_comes_later_is_found() -> None:
    async with serving() as (world, api), trio.open_nursery() as nursery:
        called = Ctl()
        nursery.start_soon(called.run, api.path, "wait", "web-1", "--for", "heartbeating")
        await world.at(30)
        world.guest(name="web-1").appear()
        await world.at(35)
        assert called.status == ExitStatus.DONE


async def test_a_mistyped_name_is_not_gone() -> None:
    async with serving() as (_, api):
        fault = ("no instance web-1 on this host", ExitStatus.FAILED)
        assert await fault_of(api.path, "wait", "web-1", "--for", "gone") == fault
        called = await call(api.path, "wait", uuid_of(7), "--for", "gone")
        assert called.status == ExitStatus.DONE


async def test_it_gives_up_in_time() -> None:
    async with serving() as (world, api):
        await world.heartbeating(name="web-1")
        began = trio.current_time()
        words = ("wait", "web-1", "--for", "lost", "--timeout", "7")
        assert await fault_of(api.path, *words) == (
            "web-1 is not lost within 7 s: heartbeating (answers challenges)",
            ExitStatus.FAILED,
        )
        assert trio.current_time() - began == 7
        called = await call(api.path, *words, "--json")
        assert called.status == ExitStatus.FAILED
        assert json.loads(called.text)["reached"] is False
        missing = ("wait", "web-2", "--for", "healthy", "--timeout", "7")
        assert (await fault_of(api.path, *missing))[0] == (
            "web-2 is not healthy within 7 s: not there"
        )


async def serve_again(world: HostWorld, api: Served, nursery: trio.Nursery) -> None:
    api.scope = trio.CancelScope()
    await nursery.start(api.run, world.host, HttpLimits())


async def test_it_survives_a_restart_of_the_daemon() -> None:
    async with serving() as (world, api), trio.open_nursery() as nursery:
        guest = await world.heartbeating()
        called = Ctl()
        nursery.start_soon(called.run, api.path, "wait", guest.uuid, "--for", "lost")
        await world.at(5)
        api.scope.cancel()
        await world.at(10)
        falls_silent(guest)
        await world.at(30)
        assert called.status is None
        await serve_again(world, api, nursery)
        await world.at(36)
        assert called.status == ExitStatus.DONE
        nursery.cancel_scope.cancel()


async def test_a_daemon_that_stays_away_is_unreachable_in_the_end() -> None:
    async with serving() as (world, api):
        guest = await world.heartbeating()
        world.after(5, api.scope.cancel)
        words = ("wait", guest.uuid, "--for", "lost", "--timeout", "60")
        assert (await fault_of(api.path, *words))[1] == ExitStatus.UNREACHABLE
        # At the very first it is told at once.
        began = trio.current_time()
        assert (await fault_of(api.path, *words))[1] == ExitStatus.UNREACHABLE
        assert trio.current_time() == began


async def test_the_time_left_counts_down_on_a_terminal() -> None:
    async with serving() as (world, api), trio.open_nursery() as nursery:
        guest = await world.heartbeating(name="web-1")
        called = Ctl()

        async def run() -> None:
            await called.run(api.path, "wait", "web-1", "--for", "lost", terminal=True, columns=80)

        nursery.start_soon(run)
        await world.at(4)
        falls_silent(guest)
        await world.at(20)
        text = "waiting until web-1 is lost, 298 s left: heartbeating (answers challenges)"
        assert text in called.text
        assert called.text.endswith(" s\n")
        assert "\r\x1b[Kweb-1: lost after" in called.text


async def test_at_an_agent(tmp_path: Path) -> None:
    async with fleet_world(tmp_path) as world, trio.open_nursery() as nursery:
        guest = await world.host.heartbeating(name="web-1")
        await world.host.settle()
        called = Ctl()
        nursery.start_soon(called.run, world.api.path, "wait", "web-1", "--for", "lost")
        await world.host.at(10)
        falls_silent(guest)
        await world.host.at(20)
        assert called.status == ExitStatus.DONE
