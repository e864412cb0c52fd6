"""Instances that today's VIM has dropped, of which it never says so: the audit misses them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import attrs
import pytest
from trio.testing import wait_all_tasks_blocked

from hbtrio.store.records import InstanceRecord
from hbtrio.wire.vim_result import Delivered, ErrorStatus, NotSent, SendResult
from support.agent_world import AgentWorld, agent_world
from support.audit_world import CLOSED, AuditedVim, begin, instances, said
from support.scripted_host import HOSTNAME, INSTANCE, OTHER_VM, VM, ScriptedHost

pytestmark = pytest.mark.usefixtures("autojump_clock")

OTHER = attrs.evolve(INSTANCE, uuid=OTHER_VM)

REMOVED = f"audit: {HOSTNAME}: {OTHER_VM} removed: the VIM no longer lists it"


@asynccontextmanager
async def audited(folder: Path) -> AsyncIterator[tuple[AgentWorld, AuditedVim, ScriptedHost]]:
    """A host with two instances, audited at 0 s and then each 10 s; later the VIM lists one."""
    async with agent_world(folder) as world:
        host = await world.bound_host(host=ScriptedHost(instances=(INSTANCE, OTHER)))
        vim = begin(world)
        vim.instances = instances(VM, OTHER_VM)
        await world.at(5)
        vim.instances = instances(VM)
        yield world, vim, host


async def test_an_instance_that_is_not_listed_twice_is_removed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with audited(tmp_path) as (world, _, host):
        await world.at(15)
        assert set(world.agent.fleet.instances) == {VM, OTHER_VM}
        assert host.reporting == {"": True, VM: True, OTHER_VM: True}
        await world.at(25)
        assert world.agent.fleet.instances == {VM: InstanceRecord(VM, HOSTNAME, True)}
        assert await world.store.inventory.instances() == (InstanceRecord(VM, HOSTNAME, True),)
        assert host.reporting == {"": True, VM: True, OTHER_VM: False}
        assert said(caplog) == [REMOVED]
        # Its host goes on telling of it, and the VIM is told nothing.
        since = len(world.vim.got)
        await host.report_lost(OTHER_VM)
        await world.at(95)
        assert world.vim.got[since:] == []
        assert said(caplog) == [REMOVED]


async def test_the_last_one_of_a_host(tmp_path: Path) -> None:
    async with audited(tmp_path) as (world, vim, _):
        vim.instances = instances()
        await world.at(15)
        assert set(world.agent.fleet.instances) == {VM, OTHER_VM}
        await world.at(25)
        assert world.agent.fleet.instances == {}


async def test_once_is_not_enough(tmp_path: Path) -> None:
    async with audited(tmp_path) as (world, vim, _):
        for second in range(15, 155, 10):
            await world.at(second)
            vim.instances = instances(VM, *[OTHER_VM] * (second // 10 % 2))
        assert set(world.agent.fleet.instances) == {VM, OTHER_VM}


FAULTY = [
    NotSent("no connection to http://vim: connection refused"),
    CLOSED,
    ErrorStatus(500),
    Delivered(200, instances(VM).body, "cut short"),
    Delivered(200, b'{"instances": ['),
    Delivered(200, b"{}"),
]


@pytest.mark.parametrize("delivery", FAULTY)
@pytest.mark.parametrize("what", ["state", "instances"])
async def test_an_answer_that_is_no_good_removes_nothing(
    tmp_path: Path, delivery: SendResult, what: str
) -> None:
    """Nor do two that are good, with one between them that is not."""
    async with audited(tmp_path) as (world, vim, _):
        await world.at(15)
        good = getattr(vim, what)
        setattr(vim, what, delivery)
        await world.at(55)
        setattr(vim, what, good)
        assert set(world.agent.fleet.instances) == {VM, OTHER_VM}
        await world.at(65)
        assert set(world.agent.fleet.instances) == {VM, OTHER_VM}
        await world.at(75)
        assert set(world.agent.fleet.instances) == {VM}


async def test_an_answer_that_was_overtaken_removes_nothing(tmp_path: Path) -> None:
    async with audited(tmp_path) as (world, vim, _):
        await world.at(15)

        async def tell() -> None:
            vim.meanwhile = None
            await world.agent.inventory.put_instance(InstanceRecord(OTHER_VM, HOSTNAME, False))

        vim.meanwhile = tell
        await world.at(21)
        assert world.agent.fleet.instances[OTHER_VM] == InstanceRecord(OTHER_VM, HOSTNAME, False)
        # From there on it takes two again: that one is asked again after 2 s.
        await world.at(25)
        assert OTHER_VM in world.agent.fleet.instances
        await world.at(35)
        assert OTHER_VM not in world.agent.fleet.instances


async def test_an_instance_that_has_moved_is_left_alone(tmp_path: Path) -> None:
    async with audited(tmp_path) as (world, _, _):
        await world.at(15)
        moved = InstanceRecord(OTHER_VM, "compute-9", True)
        await world.agent.inventory.put_instance(moved)
        await world.at(95)
        assert world.agent.fleet.instances[OTHER_VM] == moved


async def test_instances_of_another_host_say_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The host says a wrong uuid: what is listed is not what is on it."""
    async with audited(tmp_path) as (world, vim, _):
        vim.instances = instances("55555555-1111-4111-8111-111111111111", hostname="compute-9")
        await world.at(95)
        assert {VM, OTHER_VM} <= set(world.agent.fleet.instances)
        assert said(caplog) == [
            f'audit: {HOSTNAME}: for its uuid the VIM lists only instances of "compute-9"'
        ]


async def test_between_two_links_it_is_counted_anew(tmp_path: Path) -> None:
    async with audited(tmp_path) as (world, _, host):
        await world.at(11)
        await host.cut()
        await world.at(15)
        await world.host(host)
        await world.at(17)
        assert set(world.agent.fleet.instances) == {VM, OTHER_VM}
        await world.at(21)
        assert set(world.agent.fleet.instances) == {VM}


async def test_a_full_disk_removes_nothing_and_then_it_takes_two(tmp_path: Path) -> None:
    async with audited(tmp_path) as (world, _, _):
        await world.at(15)
        world.worker.fault = "database or disk is full"
        await world.at(25)
        world.worker.fault = ""
        assert set(world.agent.fleet.instances) == {VM, OTHER_VM}
        await world.at(35)
        assert set(world.agent.fleet.instances) == {VM, OTHER_VM}
        await world.at(45)
        assert set(world.agent.fleet.instances) == {VM}


async def test_without_a_vim_it_is_the_host_who_says(tmp_path: Path) -> None:
    async with agent_world(tmp_path, vim=False) as world:
        await world.host(ScriptedHost(instances=(INSTANCE, OTHER)))
        await world.at(600)
        await wait_all_tasks_blocked()
        assert set(world.agent.fleet.instances) == {VM, OTHER_VM}
