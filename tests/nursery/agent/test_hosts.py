"""Hosts that come and go: which are known, which are missed, and what they are told on connect."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import attrs
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from hbtrio.api.fleet_status import link_of
from hbtrio.store.records import HostRecord, InstanceRecord, NewEntry
from hbtrio.store.store import Store
from hbtrio.wire.vocabulary import Event
from support.agent_world import AgentWorld, agent_world
from support.failing_host import FailingHost, names
from support.scripted_host import (
    HOST_UUID,
    HOSTNAME,
    INSTANCE,
    OTHER_HOST_UUID,
    OTHER_VM,
    VM,
    ScriptedHost,
)

pytestmark = pytest.mark.usefixtures("autojump_clock")

LETTERS = "abcdef00-2222-4222-8222-222222222222"


# -- what a host says it is -----------------------------------------------------------------


async def test_a_uuid_has_one_spelling(world: AgentWorld) -> None:
    await world.host(ScriptedHost(host_uuid=LETTERS.upper()))
    assert world.agent.fleet.hosts == {LETTERS: HostRecord(LETTERS, HOSTNAME, False)}
    await world.agent.inventory.put_host(HostRecord(LETTERS, HOSTNAME, True))
    assert world.agent.fleet.hosts == {LETTERS: HostRecord(LETTERS, HOSTNAME, True)}
    await world.agent.inventory.delete_host(LETTERS)
    assert (world.agent.fleet.hosts, await world.store.inventory.hosts()) == ({}, ())


@pytest.mark.parametrize(
    "said", ["junk", HOST_UUID[:-1], HOST_UUID + "0", HOST_UUID.replace("-", ""), "ü" * 36, " "]
)
async def test_what_is_no_uuid_is_refused(said: str, world: AgentWorld) -> None:
    host = await world.host(ScriptedHost(host_uuid=said))
    assert host.goodbyes == [f"unusable message: host_uuid {said[:40]!r} is not a uuid"]
    assert world.agent.fleet.sessions == {}
    assert world.agent.fleet.hosts == {}


@pytest.mark.parametrize("vim", [True, False])
async def test_a_host_that_says_many_uuids_is_one_host(tmp_path: Path, vim: bool) -> None:
    async with agent_world(tmp_path, vim=vim) as world:
        said = [f"{n:08x}-2222-4222-8222-222222222222" for n in range(20)]
        for uuid in said:
            host = await world.host(ScriptedHost(HOSTNAME, uuid))
            await host.cut()
            await wait_all_tasks_blocked()
        # With a VIM the first one, until the VIM says another.
        known = HostRecord(said[0 if vim else -1], HOSTNAME, not vim)
        assert world.agent.fleet.hosts == {known.uuid: known}
        assert await world.store.inventory.hosts() == (known,)


async def test_a_host_that_is_known_does_not_become_another_by_its_word(world: AgentWorld) -> None:
    host = await world.bound_host()
    await host.cut()
    host = await world.host(ScriptedHost(HOSTNAME, OTHER_HOST_UUID, "b"))
    assert world.agent.fleet.hosts == {HOST_UUID: HostRecord(HOST_UUID, HOSTNAME, True)}
    assert host.reporting == {"": True, VM: True}


# -- which are missed -----------------------------------------------------------------------


async def unreachable(world: AgentWorld) -> list[tuple[float, str]]:
    """When which hosts were found to be so."""
    found = [record.entry for record in reversed(await world.store.history())]
    return [
        (one.time.timestamp() % 86400, one.hostname)
        for one in found
        if one.kind == "host-unreachable"
    ]


async def test_a_host_that_had_a_link_and_never_reported_is_missed_after_a_restart(
    tmp_path: Path,
) -> None:
    async with agent_world(tmp_path) as world:
        await world.bound_host()
        await world.agent.inventory.put_host(HostRecord(OTHER_HOST_UUID, "compute-1", True))
    async with agent_world(tmp_path, number=1) as world:
        start = trio.current_time()
        await trio.sleep(10)
        assert link_of(world.agent, HOSTNAME, start + 10) == ("down", 10.0)
        await trio.sleep(30)
        assert link_of(world.agent, HOSTNAME, start + 40) == ("lost", 40.0)
        assert link_of(world.agent, "compute-1", start + 40) == ("never", None)
        assert await unreachable(world) == [(30.0, HOSTNAME)]


async def test_a_host_that_is_deleted_before_it_is_missed_is_not_waited_for(tmp_path: Path) -> None:
    async with agent_world(tmp_path) as world:
        await world.bound_host(host=ScriptedHost(instances=()))
    async with agent_world(tmp_path, number=1) as world:
        inventory = world.agent.inventory
        assert world.agent.fleet.awaited == {HOSTNAME}
        await world.at(1)
        await inventory.delete_host(HOST_UUID)
        assert (world.agent.fleet.awaited, world.agent.fleet.down) == (set(), {})
        await world.at(1000)
        # There is nobody to be asked, which is not the same as that nobody knows.
        await inventory.put_instance(InstanceRecord(VM, HOSTNAME, True))
        assert (await world.ask(Event.STOP, vote=True)).seconds == 0


async def test_a_link_that_comes_and_goes_leaves_one_task(tmp_path: Path) -> None:
    async with agent_world(tmp_path, grace_s=1000) as world:
        before = trio.lowlevel.current_statistics().tasks_living
        for second in range(50):
            host = await world.host()
            await world.at(second)
            await host.cut()
            await wait_all_tasks_blocked()
        assert trio.lowlevel.current_statistics().tasks_living == before + 1
        # It is missed from the last time on.
        await world.at(1048)
        assert await unreachable(world) == []
        await world.at(5000)
        assert await unreachable(world) == [(1049.0, HOSTNAME)]
        assert trio.lowlevel.current_statistics().tasks_living == before
        # And anew.
        host = await world.host()
        await host.cut()
        await world.at(7000)
        assert await unreachable(world) == [(1049.0, HOSTNAME), (6000.0, HOSTNAME)]


async def test_a_link_that_comes_and_goes_while_its_absence_is_being_stored(tmp_path: Path) -> None:
    async with agent_world(tmp_path, grace_s=10) as world:
        host = await world.bound_host()
        await host.cut()
        await world.at(5)
        world.worker.slow_s = 20.0
        await world.at(12)
        world.worker.slow_s = 0.0
        host = await world.host()
        await host.cut()
        await world.at(100)
        assert await unreachable(world) == [(10.0, HOSTNAME), (30.0, HOSTNAME)]


# -- what they are told ---------------------------------------------------------------------


@pytest.mark.parametrize("moved", [True, False])
async def test_what_was_deleted_or_has_moved_while_the_link_was_down(
    moved: bool, world: AgentWorld
) -> None:
    other = attrs.evolve(INSTANCE, uuid=OTHER_VM)
    host = await world.bound_host(host=ScriptedHost(instances=(INSTANCE, other)))
    assert host.reporting == {"": True, VM: True, OTHER_VM: True}
    await host.cut()
    await wait_all_tasks_blocked()
    if moved:
        await world.agent.inventory.put_instance(InstanceRecord(VM, "compute-1", True))
    else:
        await world.agent.inventory.delete_instance(VM)
    await world.host(host)
    assert host.reporting == {"": True, VM: False, OTHER_VM: True}
    await world.agent.inventory.put_instance(InstanceRecord(VM, HOSTNAME, True))
    await wait_all_tasks_blocked()
    assert host.reporting == {"": True, VM: True, OTHER_VM: True}


# -- a VOTE that is too long for the VIM ----------------------------------------------------

LONG = attrs.evolve(INSTANCE, vote_s=41)
WARNING = f"{VM} advertises a VOTE of 41 s; the VIM decides without it after 45 s"


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [line for line in caplog.messages if "VOTE" in line]


async def test_a_long_vote_of_an_instance_that_the_vim_tells_of_later(
    caplog: pytest.LogCaptureFixture, world: AgentWorld
) -> None:
    host = await world.host(ScriptedHost(instances=(LONG,)))
    assert warnings(caplog) == []
    await world.agent.inventory.put_instance(InstanceRecord(VM, HOSTNAME, False))
    assert warnings(caplog) == [WARNING]
    await world.agent.inventory.put_instance(InstanceRecord(VM, HOSTNAME, True))
    await host.send_instance(health=INSTANCE.health)
    await host.settle()
    assert warnings(caplog) == [WARNING]


async def test_a_long_vote_of_an_instance_that_moves(
    caplog: pytest.LogCaptureFixture, world: AgentWorld
) -> None:
    await world.bound_host()
    await world.host(ScriptedHost("compute-1", OTHER_HOST_UUID, "b", (LONG,)))
    assert warnings(caplog) == []
    await world.agent.inventory.put_instance(InstanceRecord(VM, "compute-1", True))
    assert warnings(caplog) == [WARNING]


async def test_without_a_vim_no_vote_is_too_long(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with agent_world(tmp_path, vim=False) as world:
        await world.host(ScriptedHost(instances=(LONG,)))
        assert list(world.agent.fleet.instances) == [VM]
        assert warnings(caplog) == []


# -- many instances --------------------------------------------------------------------------------


async def test_the_states_of_a_large_host_are_stored_in_slices(
    monkeypatch: pytest.MonkeyPatch, world: AgentWorld
) -> None:
    """Votes are stored between them, and what the VIM has deleted meanwhile is not told."""
    host = FailingHost(600)
    last = names(600)[-1]
    kept: list[int] = []
    queue = Store.queue

    async def counted(self: Store, entries: Sequence[NewEntry]) -> None:
        kept.append(len(entries))
        if len(kept) == 1:
            await world.agent.inventory.delete_instance(last)
        await queue(self, entries)

    monkeypatch.setattr(Store, "queue", counted)
    await world.bound_host(host=host)
    assert kept == [250, 250, 99]
    assert {body["uuid"] for _, body in world.vim.got} == set(names(600)[:-1])
