"""The brake: closed by a mass failure, released once few are silent, or by an operator."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest

from hbtrio.config.host import BrakeSettings, CorrectiveCommands
from hbtrio.nursery.host.memory import HostMemory
from support.fake_processes import FakeRun
from support.host_world import HostWorld, ScriptedGuest, host_world
from support.memory_store import MemoryStore, memory_store

pytestmark = pytest.mark.usefixtures("autojump_clock")


def braked_world(memory: HostMemory | None = None) -> AbstractAsyncContextManager[HostWorld]:
    return host_world(
        memory=memory,
        corrective_commands=CorrectiveCommands(reboot=("reset", "{uuid}")),
        brake=BrakeSettings(),
        runs=lambda _: FakeRun(),
    )


async def failing(world: HostWorld, total: int, silent: int) -> list[ScriptedGuest]:
    """Of ``total`` guests so many fall silent at once."""
    guests = await world.all_heartbeating(total)
    await world.at(4.5)
    for guest in guests[:silent]:
        guest.answers_after_s, guest.sends_init = None, False
    await world.at(30)
    return guests


def comes_back(guest: ScriptedGuest) -> None:
    guest.answers_after_s, guest.sends_init = 0.0, True
    guest.send_init()


def rebooted(world: HostWorld) -> list[str]:
    return [moment.argv[1] for moment in world.processes.started]


async def test_while_it_is_closed_nothing_is_run_and_each_has_its_event() -> None:
    async with braked_world() as world:
        guests = await failing(world, 10, 6)
        assert world.host.corrective.brake.closed
        await world.at(1000)
        assert rebooted(world) == []
        held = [one.uuid for one in world.host.reports.recent if one.cause == "brake"]
        assert sorted(held) == sorted(guest.uuid for guest in guests[:6])


async def test_once_at_most_the_share_is_silent_the_rest_is_acted_upon(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "hbtrio.corrective")
    async with braked_world() as world:
        guests = await failing(world, 10, 6)
        for guest in guests[:2]:
            comes_back(guest)
        await world.at(40)
        assert world.host.corrective.brake.closed
        comes_back(guests[2])
        await world.at(46)
        assert not world.host.corrective.brake.closed
        text = "the brake is released: of 6 instances that failed together 3 are silent"
        assert text in caplog.messages
        assert rebooted(world) == []  # each has to stay silent under fresh challenges first
        await world.at(60)
        assert sorted(rebooted(world)) == sorted(guest.uuid for guest in guests[3:6])


async def test_an_operator_releases_it_for_all_that_stay_silent() -> None:
    async with braked_world() as world:
        guests = await failing(world, 10, 6)
        assert world.host.corrective.brake.release()
        assert not world.host.corrective.brake.release()
        guests[0].answers_after_s = 0.0
        await world.at(60)
        assert sorted(rebooted(world)) == sorted(guest.uuid for guest in guests[1:6])


# -- over a restart of the host -----------------------------------------------------------------


@pytest.fixture
def store(tmp_path: Path) -> Iterator[MemoryStore]:
    with memory_store(tmp_path) as made:
        yield made


async def test_a_restart_releases_nothing_and_forgets_nobody(store: MemoryStore) -> None:
    async with braked_world(store.memory()) as world:
        guests = await failing(world, 10, 6)
        await world.restart_host(store.memory())
        await world.sleep(200)
        assert world.host.corrective.brake.closed
        assert rebooted(world) == []
        assert world.host.corrective.brake.release()
        await world.sleep(60)
        assert sorted(rebooted(world)) == sorted(guest.uuid for guest in guests[:6])
        # It is released for the next run, too.
        await world.restart_host(store.memory())
        await world.sleep(1)
        assert not world.host.corrective.brake.closed
        assert (await store.recall()).holds == ()


async def test_after_a_restart_it_is_released_once_few_are_silent(store: MemoryStore) -> None:
    async with braked_world(store.memory()) as world:
        guests = await failing(world, 10, 6)
        await world.restart_host(store.memory())
        await world.sleep(10)
        for guest in guests[:2]:
            comes_back(guest)
        await world.sleep(2)
        assert world.host.corrective.brake.closed
        comes_back(guests[2])
        await world.sleep(2)
        assert not world.host.corrective.brake.closed
