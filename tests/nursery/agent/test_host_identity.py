"""Whose a host_uuid is: hosts say one, TLS proves their names alone, and the VIM is asked."""

from __future__ import annotations

import logging
from pathlib import Path

import attrs
import pytest
from trio.testing import wait_all_tasks_blocked

from hbtrio.store.records import HostRecord, InstanceRecord
from support.agent_world import AgentWorld, agent_world
from support.audit_world import Cloud, ask, instances, said
from support.scripted_host import HOST_UUID, INSTANCE, OTHER_HOST_UUID, OTHER_VM, VM, ScriptedHost

pytestmark = pytest.mark.usefixtures("autojump_clock")

ONE, TWO = "compute-0", "compute-1"

OTHER = attrs.evolve(INSTANCE, uuid=OTHER_VM)

repeats = pytest.mark.parametrize("repeats", [True, False])


def cloud(*, repeats: bool) -> Cloud:
    """Two hosts with an instance each."""
    return Cloud({HOST_UUID: ONE, OTHER_HOST_UUID: TWO}, {VM: ONE, OTHER_VM: TWO}, repeats=repeats)


def errors(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What the audit has said loudly."""
    said(caplog)
    return [
        one.getMessage()
        for one in caplog.records
        if one.name == "hbtrio.audit" and one.levelno >= logging.ERROR
    ]


NOT_ITS_OWN = (
    f'audit: {TWO}: the host_uuid it reports, {HOST_UUID}, belongs to "{ONE}":'
    " the VIM's answers are ignored until it reports its own"
)

MINE = {HOST_UUID: HostRecord(HOST_UUID, ONE, True)}


async def alarmed(world: AgentWorld, host: ScriptedHost, uuid: str) -> list[str]:
    """The host loses an instance: which of them the VIM hears of."""
    since = len(world.vim.got)
    await host.report_lost(uuid)
    await host.settle()
    await wait_all_tasks_blocked()
    return [body["uuid"] for _, body in world.vim.got[since:] if body["event-type"] == "alarm"]


@repeats
async def test_a_host_that_says_anothers_uuid_changes_nothing_of_it(
    caplog: pytest.LogCaptureFixture, repeats: bool, world: AgentWorld
) -> None:
    ask(world, cloud(repeats=repeats))
    owner = await world.host(ScriptedHost(ONE, HOST_UUID))
    await world.at(15)
    assert owner.reporting == {"": True, VM: True}
    told = len(owner.received)
    liar = await world.host(ScriptedHost(TWO, HOST_UUID, "b", (OTHER,)))
    await world.at(95)
    assert world.agent.fleet.hosts == MINE
    assert len(owner.received) == told
    assert liar.reporting == {"": False, OTHER_VM: False}
    assert errors(caplog) == [NOT_ITS_OWN]
    assert await alarmed(world, liar, OTHER_VM) == []
    assert await alarmed(world, owner, VM) == [VM]
    # With its own it is as any other.
    await liar.cut()
    liar = await world.host(ScriptedHost(TWO, OTHER_HOST_UUID, "c", (OTHER,)))
    await world.at(115)
    assert world.agent.fleet.hosts == MINE | {
        OTHER_HOST_UUID: HostRecord(OTHER_HOST_UUID, TWO, True)
    }
    assert liar.reporting == {"": True, OTHER_VM: True}
    assert errors(caplog) == [NOT_ITS_OWN]


@repeats
async def test_the_first_that_says_a_uuid_has_to_give_it_to_its_owner(
    caplog: pytest.LogCaptureFixture, repeats: bool, world: AgentWorld
) -> None:
    ask(world, cloud(repeats=repeats))
    liar = await world.host(ScriptedHost(TWO, HOST_UUID, "b", (OTHER,)))
    await world.at(15)
    # One such host alone is told of, too.
    assert len(said(caplog)) == 1
    owner = await world.host(ScriptedHost(ONE, HOST_UUID))
    await world.at(45)
    assert world.agent.fleet.hosts == MINE
    assert owner.reporting == {"": True, VM: True}
    assert liar.reporting[""] is False
    assert errors(caplog) == [NOT_ITS_OWN]
    assert await alarmed(world, liar, OTHER_VM) == []
    assert await alarmed(world, owner, VM) == [VM]


@repeats
async def test_a_host_without_a_link_keeps_its_uuid(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, repeats: bool
) -> None:
    async with agent_world(tmp_path, grace_s=1000) as world:
        ask(world, cloud(repeats=repeats))
        owner = await world.host(ScriptedHost(ONE, HOST_UUID))
        await world.at(15)
        await owner.cut()
        liar = await world.host(ScriptedHost(TWO, HOST_UUID, "b", (OTHER,)))
        await world.at(55)
        assert world.agent.fleet.hosts == MINE
        assert liar.reporting == {"": False, OTHER_VM: False}
        assert len(said(caplog)) == 1


@pytest.mark.parametrize("listed", [True, False])
async def test_two_of_whom_the_vim_does_not_say_who_is_right(
    caplog: pytest.LogCaptureFixture, listed: bool, world: AgentWorld
) -> None:
    """It repeats what it is asked with, and lists no instance, or instances of both."""

    vim = Cloud({HOST_UUID: ONE, OTHER_HOST_UUID: TWO}, {}, repeats=True)
    vim.listed = instances(*([(VM, ONE), (OTHER_VM, TWO)] if listed else []))
    ask(world, vim)
    first = await world.host(ScriptedHost(ONE, HOST_UUID))
    await world.at(15)
    second = await world.host(ScriptedHost(TWO, HOST_UUID, "b", (OTHER,)))
    told = len(first.received)
    await world.at(95)
    assert world.agent.fleet.hosts == MINE
    assert len(first.received) == told
    assert second.reporting[""] is False
    assert errors(caplog) == [NOT_ITS_OWN]


@repeats
async def test_a_host_that_was_renamed(repeats: bool, world: AgentWorld) -> None:
    vim = cloud(repeats=repeats)
    ask(world, vim)
    host = await world.host(ScriptedHost(ONE, HOST_UUID))
    await world.at(15)
    await host.cut()
    vim.hosts[HOST_UUID] = vim.instances[VM] = "compute-9"
    host = await world.host(ScriptedHost("compute-9", HOST_UUID, "b"))
    await world.at(35)
    assert world.agent.fleet.hosts == {HOST_UUID: HostRecord(HOST_UUID, "compute-9", True)}
    assert world.agent.fleet.instances == {VM: InstanceRecord(VM, "compute-9", True)}
    assert host.reporting == {"": True, VM: True}


@repeats
async def test_a_host_that_was_deleted_and_added_again(repeats: bool, world: AgentWorld) -> None:
    """Its name has another uuid now; what was said of the former one counts no more."""
    vim = cloud(repeats=repeats)
    ask(world, vim)
    host = await world.host(ScriptedHost(ONE, HOST_UUID))
    await world.at(15)
    await host.cut()
    vim.hosts = {OTHER_HOST_UUID: ONE}
    vim.disabled.add(ONE)
    host = await world.host(ScriptedHost(ONE, OTHER_HOST_UUID, "b"))
    # By its own word alone it is not another one.
    assert world.agent.fleet.hosts == MINE
    await world.at(25)
    assert world.agent.fleet.hosts == {OTHER_HOST_UUID: HostRecord(OTHER_HOST_UUID, ONE, False)}
    assert await world.store.inventory.hosts() == (HostRecord(OTHER_HOST_UUID, ONE, False),)
    assert host.reporting == {"": False, VM: True}
    assert await alarmed(world, host, VM) == []


async def test_an_older_vim_that_adds_a_host_again(world: AgentWorld) -> None:
    host = await world.bound_host(reporting=True)
    await world.agent.inventory.put_host(HostRecord(OTHER_HOST_UUID, ONE, False))
    await wait_all_tasks_blocked()
    assert world.agent.fleet.hosts == {OTHER_HOST_UUID: HostRecord(OTHER_HOST_UUID, ONE, False)}
    assert host.reporting == {"": False, VM: True}
