"""The brake: closed by a mass failure, released once few are silent, or by an operator."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest

from hbtrio.config.host import BrakeSettings, CorrectiveCommands, LibvirtSettings
from hbtrio.config.instances import InstanceSettings
from hbtrio.nursery.host.memory import HostMemory
from support.fake_processes import FakeRun
from support.host_world import HostWorld, ScriptedGuest, host_world, uuid_of
from support.memory_store import MemoryStore, memory_store

pytestmark = pytest.mark.usefixtures("autojump_clock")


#: The RESTART window of the guests.
RESTART_S = 121


def braked_world(
    memory: HostMemory | None = None, **config: Any
) -> AbstractAsyncContextManager[HostWorld]:
    return host_world(
        memory=memory,
        corrective_commands=CorrectiveCommands(reboot=("reset", "{uuid}")),
        brake=BrakeSettings(),
        runs=lambda _: FakeRun(),
        **config,
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


async def test_one_that_is_destroyed_is_not_silent_any_more() -> None:
    """Its socket stays as a file, and the connection to it as long."""
    async with braked_world(libvirt=LibvirtSettings(enabled="on")) as world:
        for number in range(1, 11):
            domain = world.libvirt.define(uuid_of(number), f"vm-{number}")
            await world.libvirt.start(domain)
        guests = await failing(world, 10, 6)
        for guest in guests[:3]:
            assert world.host.corrective.brake.closed
            await world.libvirt.destroy(world.libvirt.domains[guest.uuid])
            await world.sleep(1)
            assert world.channel(guest).heartbeat.state.shown == "stopped"
        assert not world.host.corrective.brake.closed


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


async def away_since_the_restart(
    world: HostWorld, store: MemoryStore, vanished: int, boot_id: str = "boot", **config: Any
) -> list[ScriptedGuest]:
    """Of ten guests six have failed, and the sockets of so many go while no host runs."""
    guests = await failing(world, 10, 6)
    await world.stop_host()
    for guest in guests[:vanished]:
        guest.vanish()
    store.boot_id = boot_id
    await world.restart_host(store.memory(), **config)
    return guests


@pytest.mark.parametrize("boot_id", ["boot", "another"])
async def test_one_whose_socket_does_not_return_is_silent_until_it_is_absent(
    store: MemoryStore, boot_id: str
) -> None:
    async with braked_world(store.memory()) as world:
        guests = await away_since_the_restart(world, store, 1, boot_id)
        await world.sleep(10)
        for guest in guests[1:3]:
            comes_back(guest)
        await world.sleep(RESTART_S - 7)
        assert world.host.corrective.brake.closed
        await world.sleep(2)
        assert not world.host.corrective.brake.closed
        await world.sleep(60)
        # After another boot nobody is missed.
        there = [guest.uuid for guest in guests[3:6]] if boot_id == "boot" else []
        assert sorted(rebooted(world)) == sorted(there)


async def test_those_that_are_silent_may_still_be_too_many(store: MemoryStore) -> None:
    async with braked_world(store.memory()) as world:
        guests = await away_since_the_restart(world, store, 2)
        await world.sleep(1000)
        assert world.host.corrective.brake.closed
        # Whoever was given up is not waited for again.
        await world.restart_host(store.memory())
        await world.sleep(5)
        assert world.host.corrective.brake.closed
        comes_back(guests[2])
        await world.sleep(2)
        assert not world.host.corrective.brake.closed


async def test_one_whose_socket_returns_in_time_counts_on(store: MemoryStore) -> None:
    async with braked_world(store.memory()) as world:
        guests = await away_since_the_restart(world, store, 3)
        await world.sleep(RESTART_S - 1)
        guests[0].appear()
        await world.sleep(1000)
        assert world.host.corrective.brake.closed


async def test_one_that_is_not_watched_any_more_does_not_count(store: MemoryStore) -> None:
    async with braked_world(store.memory()) as world:
        unwatched = {uuid_of(number): InstanceSettings(watch=False) for number in (1, 2, 3)}
        await away_since_the_restart(world, store, 0, instances=unwatched)
        await world.sleep(1)
        assert not world.host.corrective.brake.closed


async def test_those_that_were_forgotten_keep_it_closed_for_nobody(store: MemoryStore) -> None:
    async with braked_world(store.memory()) as world:
        guests = await away_since_the_restart(world, store, 6)
        await world.stop_host()
        # As if this run had ended between the last of them and the release.
        for guest in guests[:6]:
            await store.forget(guest.uuid)
        await world.restart_host(store.memory())
        await world.sleep(1)
        assert not world.host.corrective.brake.closed
