"""The audit on the fake clock: who is asked about when, and what is said of a VIM in trouble."""

from __future__ import annotations

import json

import attrs
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from hbtrio.store.records import HostRecord, InstanceRecord
from hbtrio.wire.vim_result import (
    Delivered,
    ErrorStatus,
    MissingAnswer,
    NotSent,
    SendResult,
    Unconfirmed,
)
from support.agent_world import AgentWorld
from support.audit_world import CLOSED, begin, instances, said, state
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

DOWN = NotSent("no connection to http://vim: connection refused")


async def test_a_host_is_asked_about_soon_and_then_at_each_audit(world: AgentWorld) -> None:
    vim = begin(world)
    vim.instances = instances(VM)
    await world.at(3)
    host = await world.host()
    assert vim.asked == []
    assert host.reporting == {"": False, VM: False}
    await world.at(35)
    assert vim.times == [4.0, 10.0, 20.0, 30.0]
    assert vim.asked[:2] == [(4.0, HOST_UUID), (4.0, f"instances of {HOST_UUID}")]
    assert host.reporting == {"": True, VM: True}
    assert world.agent.fleet.hosts == {HOST_UUID: HostRecord(HOST_UUID, HOSTNAME, True)}
    assert world.agent.fleet.instances == {VM: InstanceRecord(VM, HOSTNAME, True)}
    # The VIM changes its mind, and an instance has moved.
    vim.state, vim.instances = state("disabled"), instances(VM, hostname="compute-9")
    await world.at(45)
    assert host.reporting == {"": False, VM: False}
    assert world.agent.fleet.instances == {VM: InstanceRecord(VM, "compute-9", True)}


async def test_until_its_state_is_known_a_host_is_asked_about_again(world: AgentWorld) -> None:
    """An older VIM answers none of it: it is not asked ever more often than at each audit."""
    vim = begin(world, every_s=30)
    vim.state = CLOSED
    host = await world.host()
    await world.at(125)
    assert vim.times == [2.0, 4.0, 8.0, 16.0, 30.0, 60.0, 90.0, 120.0]
    vim.state = state()
    await world.at(155)
    assert host.reporting == {"": True, VM: False}
    assert vim.times[8:] == [150.0]


async def test_a_vim_that_is_down_is_tried_often_with_one_request_and_told_of_once(
    caplog: pytest.LogCaptureFixture, world: AgentWorld
) -> None:
    caplog.set_level("INFO")
    vim = begin(world)
    vim.state = vim.instances = DOWN
    host = await world.host()
    await world.host(ScriptedHost("compute-1", OTHER_HOST_UUID, "b", ()))
    await world.at(99)
    assert vim.times == [2.0 * n for n in range(1, 50)]
    assert host.reporting == {"": False, VM: False}
    lost = f"audit: the VIM can't be reached: {DOWN.reason}"
    assert said(caplog) == [lost]
    vim.state, vim.instances = state(), instances()
    await world.at(101)
    assert host.reporting == {"": True, VM: False}
    assert said(caplog) == [lost, "audit: the VIM can be reached again"]
    # Now they are known: a VIM that is down is tried at each audit.
    vim.state = DOWN
    seen = len(vim.times)
    await world.at(131)
    assert vim.times[seen:] == [110.0, 120.0, 130.0]
    assert said(caplog)[2:] == [lost]
    assert host.reporting == {"": True, VM: False}


@pytest.mark.parametrize(
    ("delivery", "words"),
    [
        (CLOSED, "closed without an answer"),
        (Unconfirmed(MissingAnswer.RESET), "reset"),
        (Unconfirmed(MissingAnswer.STALLED), "no answer in time"),
        (Unconfirmed(MissingAnswer.GARBLED), "an answer that is not HTTP"),
        (ErrorStatus(404), "the VIM answered with status 404"),
        (Delivered(200, b"", "cut short"), "the answer can't be used: cut short"),
        (Delivered(200, b""), "not understood: Input data was truncated"),
        (Delivered(200, b"[]"), "not understood: Expected `object`, got `array`"),
    ],
)
async def test_each_fault_in_words_once_and_its_end(
    caplog: pytest.LogCaptureFixture, delivery: SendResult, words: str, world: AgentWorld
) -> None:
    caplog.set_level("INFO")
    over = f"audit: {HOSTNAME}: the VIM's answers are accepted again"
    vim = begin(world)
    await world.host()
    await world.at(5)
    for what in ("its state", "its instances"):
        good = vim.state, vim.instances
        if what == "its state":
            vim.state = delivery
        else:
            vim.instances = delivery
        await trio.sleep(100)
        assert said(caplog) == [f"audit: {HOSTNAME}: the VIM was asked for {what}: {words}"]
        vim.state, vim.instances = good
        await trio.sleep(100)
        assert said(caplog)[1:] == [over]
        caplog.clear()


async def test_faults_that_alternate_are_said_once_each_and_not_all(
    caplog: pytest.LogCaptureFixture, world: AgentWorld
) -> None:
    vim = begin(world)
    await world.host()
    for time in range(5, 205, 10):
        await world.at(time)
        vim.state = ErrorStatus(500 + time // 10 % 2)
    both = [
        f"audit: {HOSTNAME}: the VIM was asked for its state: the VIM answered with status {n}"
        for n in (500, 501)
    ]
    assert said(caplog) == both
    for time in range(205, 405, 10):
        await world.at(time)
        vim.state = ErrorStatus(400 + time // 10)
    assert len(said(caplog)) == 3
    # Of another host its own.
    await world.host(ScriptedHost("compute-1", OTHER_HOST_UUID, "b", ()))
    await world.at(406)
    assert len(said(caplog)) == 4
    assert said(caplog)[3].startswith("audit: compute-1: ")


async def test_a_full_disk(caplog: pytest.LogCaptureFixture, world: AgentWorld) -> None:
    vim = begin(world)
    vim.instances = instances(VM)
    await world.host()
    await world.at(5)
    vim.instances = instances(VM, OTHER_VM)
    world.worker.fault = "database or disk is full"
    await world.at(55)
    assert said(caplog) == [f"audit: {HOSTNAME}: store: database or disk is full"]
    assert list(world.agent.fleet.instances) == [VM]
    world.worker.fault = ""
    await world.at(65)
    assert list(world.agent.fleet.instances) == [VM, OTHER_VM]


async def test_an_answer_that_the_vims_own_word_has_overtaken(world: AgentWorld) -> None:
    """It was asked, the VIM deleted the instance, then came the answer that still had it."""
    await world.bound_host(host=ScriptedHost(instances=(INSTANCE,)))
    vim = begin(world)
    vim.instances = instances(VM, OTHER_VM)

    async def delete() -> None:
        vim.meanwhile = None
        await world.agent.inventory.delete_instance(VM)

    vim.meanwhile = delete
    await world.at(1)
    assert world.agent.fleet.instances == {}
    # It is asked again soon, and then the answer counts.
    await world.at(5)
    assert vim.times == [0.0, 2.0]
    assert set(world.agent.fleet.instances) == {VM, OTHER_VM}


async def test_an_answer_that_comes_while_the_vims_own_word_is_being_stored(
    world: AgentWorld,
) -> None:
    await world.bound_host(host=ScriptedHost(instances=(INSTANCE,)))
    vim = begin(world)
    vim.instances = instances(VM, OTHER_VM)

    async def delete() -> None:
        vim.meanwhile = None
        world.worker.slow_s = 0.5
        world.nursery.start_soon(world.agent.inventory.delete_instance, VM)
        await wait_all_tasks_blocked()
        world.worker.slow_s = 0.0

    vim.meanwhile = delete
    await world.at(1)
    assert world.agent.fleet.instances == {}
    await world.at(5)
    assert vim.times == [0.0, 2.0]
    assert set(world.agent.fleet.instances) == {VM, OTHER_VM}


async def test_hosts_without_a_uuid_or_a_link_are_not_asked_about(world: AgentWorld) -> None:
    vim = begin(world)
    nameless = ScriptedHost(instances=())
    nameless.hello = attrs.evolve(nameless.hello, host_uuid="")
    await world.host(nameless)
    host = await world.host(ScriptedHost("compute-1", OTHER_HOST_UUID.upper(), "b", ()))
    await world.at(15)
    assert vim.times == [2.0, 10.0]
    assert {what for _, what in vim.asked} == {
        OTHER_HOST_UUID,
        f"instances of {OTHER_HOST_UUID}",
    }
    await host.cut()
    await world.at(55)
    assert vim.times == [2.0, 10.0]


async def test_a_host_that_the_vim_knows_under_another_name(
    caplog: pytest.LogCaptureFixture, world: AgentWorld
) -> None:
    vim = begin(world)
    members = {"uuid": HOST_UUID, "hostname": "compute-0.example\n", "state": "enabled"}
    vim.state = Delivered(200, json.dumps(members).encode())
    vim.instances = instances(VM, hostname="compute-0.example")
    host = await world.host()
    await world.at(55)
    assert said(caplog) == [
        f'audit: {HOSTNAME}: the VIM\'s hostname for it is "compute-0.example\\n"'
    ]
    # Nothing of an answer about another host is taken over.
    assert host.reporting == {"": False, VM: False}
    assert world.agent.fleet.instances == {}


async def test_a_host_that_the_vim_knows_under_another_uuid(
    caplog: pytest.LogCaptureFixture, world: AgentWorld
) -> None:
    vim = begin(world)
    members = {"uuid": OTHER_HOST_UUID, "hostname": HOSTNAME, "state": "enabled"}
    vim.state = Delivered(200, json.dumps(members).encode())
    vim.instances = instances(VM)
    host = await world.host()
    await world.at(55)
    assert said(caplog) == [
        f'audit: {HOSTNAME}: the VIM\'s uuid for it is "{OTHER_HOST_UUID}", not {HOST_UUID}'
    ]
    assert host.reporting == {"": False, VM: False}
    assert world.agent.fleet.instances == {}
