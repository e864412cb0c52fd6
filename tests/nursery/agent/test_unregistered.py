"""VMs that hosts tell of and the VIM does not: they are counted, and mislead no name."""

from __future__ import annotations

from pathlib import Path

import attrs
import pytest
from trio.testing import wait_all_tasks_blocked

from hbtrio.errors import ExitStatus, UserError
from hbtrio.store.records import HostRecord, InstanceRecord
from hbtrio.wire.link_messages import Gone
from support.agent_world import AgentWorld, agent_world, operators_api
from support.control_socket import call
from support.scripted_host import (
    HOST_UUID,
    HOSTNAME,
    INSTANCE,
    OTHER_HOST_UUID,
    OTHER_VM,
    VM,
    ScriptedHost,
)
from support.status import status_of

pytestmark = pytest.mark.usefixtures("autojump_clock")

THIRD_VM = "55555555-5555-4555-8555-555555555555"

WEB = attrs.evolve(INSTANCE, name="web")
OTHER_WEB = attrs.evolve(WEB, uuid=OTHER_VM)
DB = attrs.evolve(INSTANCE, uuid=THIRD_VM, name="db")


async def half_known(world: AgentWorld) -> ScriptedHost:
    """A host with three instances of which the VIM has told one."""
    await world.agent.inventory.put_host(HostRecord(HOST_UUID, HOSTNAME, True))
    await world.agent.inventory.put_instance(InstanceRecord(VM, HOSTNAME, True))
    return await world.host(ScriptedHost(instances=(WEB, OTHER_WEB, DB)))


async def unregistered(path: str) -> tuple[list[tuple[str, int]], list[dict[str, str]]]:
    status = await status_of(path)
    counts = [(one["hostname"], one["unregistered"]) for one in status["hosts"]]
    return counts, status["unregistered"]


async def test_status_counts_what_the_vim_has_not_registered(world: AgentWorld) -> None:
    async with operators_api(world) as path:
        host = await half_known(world)
        await world.host(ScriptedHost("compute-1", OTHER_HOST_UUID, "b", (OTHER_WEB,)))
        web = {"uuid": OTHER_VM, "name": "web", "hostname": HOSTNAME, "domain": ""}
        db = {"uuid": THIRD_VM, "name": "db", "hostname": HOSTNAME, "domain": ""}
        moving = web | {"hostname": "compute-1"}
        assert await unregistered(path) == (
            [(HOSTNAME, 2), ("compute-1", 1)],
            [web, db, moving],
        )
        text = (await call(path, "status")).text
        assert "2 unknown to the VIM" in text
        assert "1 unknown to the VIM" in text
        # On two hosts while it moves, and registered on one: it is known.
        await world.agent.inventory.put_instance(InstanceRecord(OTHER_VM, "compute-1", True))
        assert await unregistered(path) == ([(HOSTNAME, 1), ("compute-1", 0)], [db])
        await host.send(Gone(THIRD_VM, "removed"))
        await wait_all_tasks_blocked()
        assert await unregistered(path) == ([(HOSTNAME, 0), ("compute-1", 0)], [])
        assert "unknown to the VIM" not in (await call(path, "status")).text


async def test_a_host_without_a_link_tells_of_none(world: AgentWorld) -> None:
    async with operators_api(world) as path:
        host = await half_known(world)
        await host.cut()
        await wait_all_tasks_blocked()
        assert await unregistered(path) == ([(HOSTNAME, 0)], [])


async def test_without_a_vim_there_is_nobody_to_register_any(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hbtrio.nursery.agent.inventory._INSTANCES", 1)
    async with agent_world(tmp_path, vim=False) as world, operators_api(world) as path:
        await world.host(ScriptedHost(instances=(WEB, OTHER_WEB)))
        assert set(world.agent.fleet.instances) == {VM}
        assert await unregistered(path) == ([(HOSTNAME, 0)], [])


async def test_a_name_of_two_is_ambiguous_though_the_vim_knows_one(world: AgentWorld) -> None:
    async with operators_api(world) as path:
        host = await half_known(world)
        with pytest.raises(UserError) as caught:
            await call(path, "vote", "web", "stop")
        assert str(caught.value) == f"web is ambiguous: {VM} (web), {OTHER_VM} (web)"
        assert caught.value.status is ExitStatus.USAGE
        assert host.commands == []
        assert (await call(path, "vote", VM[:8], "stop")).status == 0
        assert [one.uuid for one in host.commands] == [VM]


@pytest.mark.parametrize("word", ["db", THIRD_VM, THIRD_VM.upper(), THIRD_VM[:8]])
@pytest.mark.parametrize("command", [("vote", "stop"), ("notify", "stop"), ("act", "reboot")])
async def test_what_only_its_host_knows_is_refused_for_that(
    command: tuple[str, str], word: str, world: AgentWorld
) -> None:
    async with operators_api(world) as path:
        host = await half_known(world)
        with pytest.raises(UserError) as caught:
            await call(path, command[0], word, command[1])
        text = f"{THIRD_VM} is not registered by the VIM; {HOSTNAME} reports it"
        assert str(caught.value) == text
        assert caught.value.status is ExitStatus.FAILED
        assert host.commands == []


async def test_the_history_of_what_only_its_host_knows(world: AgentWorld) -> None:
    async with operators_api(world) as path:
        host = await half_known(world)
        await host.report("loss", uuid=THIRD_VM)
        await wait_all_tasks_blocked()
        text = (await call(path, "history", "db")).text
        assert THIRD_VM[:8] in text
        assert "loss" in text
