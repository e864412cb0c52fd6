"""Members of an agent's groups that no host reports: also after a restart of the agent."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

import attrs
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from hbtrio.config.groups import GroupSettings
from hbtrio.store.group_members import GroupMember
from hbtrio.store.records import InstanceRecord
from hbtrio.store.worker import StoreFault
from hbtrio.wire.link_messages import Gone
from hbtrio.wire.vocabulary import Event
from support.agent_world import AgentWorld, agent_world
from support.scripted_host import INSTANCE, OTHER_HOST_UUID, OTHER_VM, VM, ScriptedHost

pytestmark = pytest.mark.usefixtures("autojump_clock")

GROUPS = {"db": GroupSettings(members=("db-*",), max_unavailable=1)}
THIRD_VM = "55555555-5555-4555-8555-555555555555"

DB_1 = attrs.evolve(INSTANCE, domain="db-1")
DB_2 = attrs.evolve(INSTANCE, uuid=OTHER_VM, domain="db-2")
DB_3 = attrs.evolve(INSTANCE, uuid=THIRD_VM, domain="db-3")


async def fleet(world: AgentWorld, *first: object) -> tuple[ScriptedHost, ScriptedHost]:
    """Two hosts: the first with these instances, the second with db-3."""
    zero = ScriptedHost(instances=first)  # type: ignore[arg-type]
    one = ScriptedHost("compute-1", OTHER_HOST_UUID, instances=(DB_3,))
    if world.agent.fleet.has_vim and not world.agent.fleet.instances:
        return await world.bound_host(host=zero), await world.bound_host(host=one)
    return await world.host(zero), await world.host(one)


def refusal(world: AgentWorld, uuid: str = THIRD_VM) -> str:
    """Why an instance must not be stopped now."""
    return world.agent.groups.refusal(uuid, Event.STOP)


async def shut_off(host: ScriptedHost, uuid: str = VM) -> None:
    """A VM is shut off: its channel is gone, and its domain is not."""
    del host.instances[uuid]
    await host.send(Gone(uuid, "its channel was removed"))
    await host.settle()


@pytest.mark.parametrize(("vim", "state"), [(False, "is gone"), (True, "is not reported by")])
async def test_one_that_is_shut_off_is_a_member_after_a_restart(
    tmp_path: Path, vim: bool, state: str
) -> None:
    async with agent_world(tmp_path, groups=GROUPS, vim=vim) as world:
        zero, _ = await fleet(world, DB_1, DB_2)
        assert refusal(world) == ""
        await shut_off(zero)
        before = refusal(world)
        assert before.startswith(f"group db: db-1 {state}")
        assert before.endswith("at most 1 of 3 may be unavailable")
    async with agent_world(tmp_path, groups=GROUPS, vim=vim, number=1) as world:
        await fleet(world, DB_2)
        assert refusal(world) == before


@pytest.mark.parametrize("vim", [False, True])
async def test_one_whose_host_is_away_at_the_restart_is_a_member(tmp_path: Path, vim: bool) -> None:
    async with agent_world(tmp_path, groups=GROUPS, vim=vim) as world:
        await fleet(world, DB_1, DB_2)
    async with agent_world(tmp_path, groups=GROUPS, vim=vim, number=1) as world:
        await world.host(ScriptedHost("compute-1", OTHER_HOST_UUID, instances=(DB_3,)))
        await trio.sleep(60)  # its grace time is over
        away = "db-1 is not reported by compute-0, db-2 is not reported by compute-0"
        assert refusal(world) == f"group db: {away}, at most 1 of 3 may be unavailable"


async def test_one_that_is_seen_at_another_host_has_moved(tmp_path: Path) -> None:
    async with agent_world(tmp_path, groups=GROUPS, vim=False) as world:
        zero, one = await fleet(world, DB_1, DB_2)
        await shut_off(zero)
        assert refusal(world).startswith("group db: db-1 is gone")
        one.instances[VM] = DB_1
        await one.send(DB_1)
        await one.settle()
        assert refusal(world) == ""
        assert (await world.store.members.all())[0] == GroupMember(VM, "db-1", "compute-1")
    async with agent_world(tmp_path, groups=GROUPS, vim=False, number=1) as world:
        zero = await world.host(ScriptedHost(instances=(DB_2,)))
        one = ScriptedHost("compute-1", OTHER_HOST_UUID, instances=(DB_1, DB_3))
        await world.host(one)
        assert refusal(world) == ""
        # Its first host is forgotten, and it is not.
        await zero.cut()
        await wait_all_tasks_blocked()
        await shut_off(one)
        await world.agent.inventory.forget("compute-0", "operator")
        assert refusal(world) == "group db: db-1 is gone, at most 1 of 2 may be unavailable"


async def test_one_that_is_forgotten_stays_forgotten(tmp_path: Path) -> None:
    async with agent_world(tmp_path, groups=GROUPS, vim=False) as world:
        zero, _ = await fleet(world, DB_1, DB_2)
        await shut_off(zero)
        assert await world.agent.actions.forget_member(VM, "operator")
        assert not await world.agent.actions.forget_member(VM, "operator")
        assert refusal(world) == ""
    async with agent_world(tmp_path, groups=GROUPS, vim=False, number=1) as world:
        await fleet(world, DB_2)
        assert refusal(world) == ""
        assert [one.name for one in await world.store.members.all()] == ["db-2", "db-3"]


async def test_with_their_host_its_last_members_are_forgotten(tmp_path: Path) -> None:
    async with agent_world(tmp_path, groups=GROUPS, vim=False) as world:
        zero, _ = await fleet(world, DB_1, DB_2)
        await shut_off(zero)
        await zero.cut()
        await wait_all_tasks_blocked()
        assert "db-1 is gone, db-2 is not reported" in refusal(world)
        await world.agent.inventory.forget("compute-0", "operator")
        assert refusal(world) == ""
        assert [one.name for one in await world.store.members.all()] == ["db-3"]


async def transactions_of(world: AgentWorld, do: Callable[[], Awaitable[object]]) -> int:
    """How many transactions of the store something takes that change it."""
    changes: list[int] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(world.worker, "on_commit", lambda db: changes.append(db.total_changes))
        await world.store.members.all()  # changes nothing
        await do()
        await wait_all_tasks_blocked()
    return len(set(changes)) - 1


async def test_a_member_is_forgotten_in_one_transaction_or_not_at_all(tmp_path: Path) -> None:
    async with agent_world(tmp_path, groups=GROUPS, vim=False) as world:
        zero, _ = await fleet(world, DB_1, DB_2)
        await shut_off(zero)
        world.worker.fault = "full"
        with pytest.raises(StoreFault, match="full"):
            await world.agent.actions.forget_member(VM, "operator")
        world.worker.fault = ""
        assert refusal(world).startswith("group db: db-1 is gone")
        assert len(await world.store.members.all()) == 3
        forget = partial(world.agent.actions.forget_member, VM, "operator")
        assert await transactions_of(world, forget) == 1
        assert [one.name for one in await world.store.members.all()] == ["db-2", "db-3"]
        (entry,) = await world.store.history(1)
        assert entry.entry.reason == "forget: no member of groups any more"


async def test_a_host_and_its_last_members_are_forgotten_in_one_transaction(
    tmp_path: Path,
) -> None:
    async with agent_world(tmp_path, groups=GROUPS, vim=False) as world:
        zero, _ = await fleet(world, DB_1, DB_2)
        await shut_off(zero)
        await zero.cut()
        await wait_all_tasks_blocked()
        forget = partial(world.agent.inventory.forget, "compute-0", "operator")
        world.worker.fault = "full"
        with pytest.raises(StoreFault, match="full"):
            await forget()
        world.worker.fault = ""
        assert "db-1 is gone, db-2 is not reported" in refusal(world)
        assert len(await world.store.members.all()) == 3
        assert await transactions_of(world, forget) == 1
        assert [one.name for one in await world.store.members.all()] == ["db-3"]
        assert (await world.store.history(1))[0].entry.kind == "host-forgotten"


async def test_one_that_comes_while_it_is_forgotten_is_a_member(tmp_path: Path) -> None:
    async with agent_world(tmp_path, groups=GROUPS, vim=False) as world:
        zero, one = await fleet(world, DB_1, DB_2)
        await shut_off(zero)
        world.worker.slow_s = 2.0
        async with trio.open_nursery() as nursery:
            nursery.start_soon(world.agent.actions.forget_member, VM, "operator")
            await trio.sleep(1)
            one.instances[VM] = DB_1
            await one.send(DB_1)
        await trio.sleep(10)
        world.worker.slow_s = 0.0
        assert (await world.store.members.all())[0] == GroupMember(VM, "db-1", "compute-1")
        assert VM in world.agent.groups.rule.members


async def test_one_that_the_vim_deletes_is_forgotten(tmp_path: Path) -> None:
    async with agent_world(tmp_path, groups=GROUPS) as world:
        zero, _ = await fleet(world, DB_1, DB_2)
        await shut_off(zero)
        await world.agent.inventory.delete_instance(VM)
        assert [one.name for one in await world.store.members.all()] == ["db-2", "db-3"]
    async with agent_world(tmp_path, groups=GROUPS, number=1) as world:
        await fleet(world, DB_2)
        assert refusal(world) == ""


async def test_one_that_is_renamed_out_of_its_group_is_no_member(tmp_path: Path) -> None:
    async with agent_world(tmp_path, groups=GROUPS, vim=False) as world:
        zero, _ = await fleet(world, DB_1, DB_2)
        await zero.send_instance(domain="web-1")
        await zero.settle()
        assert [one.name for one in await world.store.members.all()] == ["db-2", "db-3"]


async def test_a_group_that_is_changed_meanwhile_has_others(tmp_path: Path) -> None:
    async with agent_world(tmp_path, groups=GROUPS, vim=False) as world:
        await fleet(world, DB_1, DB_2)
    async with agent_world(tmp_path, vim=False, number=1) as world:
        assert await world.store.members.all() == ()
    only = {"db": GroupSettings(members=("db-3",), max_unavailable=0)}
    async with agent_world(tmp_path, groups=only, vim=False, number=2) as world:
        await fleet(world, DB_2)
        assert [one.name for one in await world.store.members.all()] == ["db-3"]


async def test_while_the_store_fails_members_are_stored_later(tmp_path: Path) -> None:
    async with agent_world(tmp_path, groups=GROUPS) as world:
        record = InstanceRecord(VM, "compute-0", True)
        await world.agent.inventory.put_instance(record)
        zero = await world.host(ScriptedHost(instances=(DB_1,)))
        world.worker.fault = "disk full"
        await zero.send_instance(domain="db-9")
        await wait_all_tasks_blocked()
        world.worker.fault = ""
        assert [one.name for one in await world.store.members.all()] == ["db-1"]
        await world.agent.groups.changed(VM)
        assert [one.name for one in await world.store.members.all()] == ["db-9"]
