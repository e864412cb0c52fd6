"""An operator has the agent forget a host that is no more: API and `hbtrio ctl`."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import attrs
import httpx
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from hbtrio.errors import ExitStatus, UserError
from hbtrio.store.records import HostRecord, InstanceRecord
from support.agent_world import AgentWorld, agent_world, operators_api
from support.control_socket import call, served
from support.fleet_world import TOKEN, fleet_api
from support.host_world import host_world
from support.scripted_host import (
    HOST_UUID,
    HOSTNAME,
    INSTANCE,
    OTHER_HOST_UUID,
    OTHER_VM,
    ScriptedHost,
)

VMS = [f"{n:08x}-1111-4111-8111-111111111111" for n in range(3)]

LEFT = (
    {OTHER_HOST_UUID: HostRecord(OTHER_HOST_UUID, "compute-1", True)},
    {OTHER_VM: InstanceRecord(OTHER_VM, "compute-1", True)},
)


@asynccontextmanager
async def fleet(folder: Path) -> AsyncIterator[tuple[AgentWorld, ScriptedHost, str]]:
    """Two hosts with instances, and the path of their agent's operator API."""
    async with agent_world(folder) as world:
        host = ScriptedHost(instances=tuple(attrs.evolve(INSTANCE, uuid=uuid) for uuid in VMS))
        await world.bound_host(host=host)
        other = attrs.evolve(INSTANCE, uuid=OTHER_VM)
        await world.bound_host(host=ScriptedHost("compute-1", OTHER_HOST_UUID, "b", (other,)))
        async with operators_api(world) as path:
            yield world, host, path


async def forget(path: str, name: str) -> tuple[int, object]:
    transport = httpx.AsyncHTTPTransport(uds=path, verify=False)
    async with httpx.AsyncClient(
        transport=transport, base_url="http://agent", timeout=None, trust_env=False
    ) as http:
        answer = await http.post(f"/v1/hosts/{name}/forget")
        return answer.status_code, answer.json()


async def inventory(world: AgentWorld) -> None:
    """The one that was not meant is left, in the store too."""
    assert (world.agent.fleet.hosts, world.agent.fleet.instances) == LEFT
    assert await world.store.inventory.hosts() == tuple(LEFT[0].values())
    assert await world.store.inventory.instances() == tuple(LEFT[1].values())


async def test_a_host_is_forgotten_and_its_history_is_not(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with fleet(tmp_path) as (world, host, path):
        await host.report("heartbeating", VMS[0], "init answered")
        await host.cut()
        await world.at(40)
        called = await call(path, "forget", HOSTNAME)
        expected = ["compute-0: forgotten, with 3 instances"]
        assert (called.lines, called.status) == (expected, ExitStatus.DONE)
        await inventory(world)
        assert await world.store.links.linked() == {"compute-1"}
        assert world.agent.fleet.down == {}
        shown = (await call(path, "status")).text
        assert HOSTNAME not in shown
        assert "compute-1" in shown
        kept = [line.split(" compute-0 ")[1] for line in (await call(path, "history")).lines]
        assert [line.split()[0].rstrip(":") for line in kept] == [
            "heartbeating",
            "host-alarm",
            "host-unreachable",
            "host-forgotten",
            "host-alarm-over",
        ]
        who = f"operator uid {os.getuid()}"
        assert kept[3] == f"host-forgotten by {who}: instances that were on it: 3"
        status = {"status": "fail", "reason": "unknown host compute-0"}
        assert await forget(path, HOSTNAME) == (404, status)
    async with agent_world(tmp_path, number=1) as world:
        await trio.sleep(100)
        await inventory(world)
        assert set(world.agent.fleet.down) == {"compute-1"}


async def test_a_host_that_has_a_link_is_not_forgotten(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with fleet(tmp_path) as (world, host, path):
        with pytest.raises(UserError) as caught:
            await call(path, "forget", HOSTNAME)
        assert str(caught.value) == "compute-0 has a link to this agent"
        assert caught.value.status is ExitStatus.FAILED
        assert len(world.agent.fleet.hosts) == 2
        assert len(world.agent.fleet.instances) == 4
        await host.cut()
        await wait_all_tasks_blocked()
        # At once, without waiting for its grace time.
        assert await forget(path, HOSTNAME) == (200, {"hostname": HOSTNAME, "instances": 3})
        await world.at(100)
        await inventory(world)
        assert "host-unreachable" not in (await call(path, "history")).text


async def test_what_is_held_of_it_is_withdrawn(autojump_clock: MockClock, tmp_path: Path) -> None:
    async with fleet(tmp_path) as (world, host, path):
        for uuid in VMS:
            await host.report_lost(uuid)
        await world.at(2)
        assert world.agent.mass_failure_guard.hold(HOSTNAME) is not None
        await host.cut()
        await world.at(3)
        assert (await forget(path, HOSTNAME))[0] == 200
        await world.at(100)
        assert world.vim.received("alarm") == []
        assert world.agent.mass_failure_guard.hold(HOSTNAME) is None
        assert (await world.store.held.all()).holds == ()


async def test_an_alarm_that_is_held_to_see_whether_more_follow(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with fleet(tmp_path) as (world, host, path):
        await host.send_instance(VMS[0], interval_ms=60_000)
        await host.report_lost(VMS[0])
        await world.at(1)
        await host.cut()
        await world.at(2)
        assert (await world.store.held.all()).alarms == {HOSTNAME: frozenset({VMS[0]})}
        assert (await forget(path, HOSTNAME))[0] == 200
        await world.at(200)
        assert (await world.store.held.all()).alarms == {}
        assert world.vim.received("alarm") == []


async def test_a_host_that_comes_back_is_as_new(autojump_clock: MockClock, tmp_path: Path) -> None:
    async with fleet(tmp_path) as (world, host, path):
        await host.report("heartbeating", VMS[0], "init answered")
        await host.cut()
        await wait_all_tasks_blocked()
        assert (await forget(path, HOSTNAME))[0] == 200
        await world.host(host)
        assert world.agent.fleet.hosts[HOST_UUID] == HostRecord(HOST_UUID, HOSTNAME, False)
        assert host.reporting == {"": False} | dict.fromkeys(VMS, False)
        await host.report("heartbeating", VMS[0], "again")
        await host.settle()
        await world.at(1)
        assert host.waiting == {}
        assert "again" in (await call(path, "history")).text


@pytest.mark.parametrize("what", ["instances", "hosts"])
async def test_a_host_of_which_there_is_not_all(
    autojump_clock: MockClock, tmp_path: Path, what: str
) -> None:
    async with fleet(tmp_path) as (world, _, path):
        if what == "hosts":
            await world.agent.inventory.put_host(HostRecord("h-9", "compute-9", True))
        else:
            await world.agent.inventory.put_instance(InstanceRecord("vm-9", "compute-9", True))
        count = int(what == "instances")
        assert await forget(path, "compute-9") == (
            200,
            {"hostname": "compute-9", "instances": count},
        )
        assert not {"h-9", "vm-9"} & {*world.agent.fleet.hosts, *world.agent.fleet.instances}


async def test_a_disk_that_fails_forgets_nothing(autojump_clock: MockClock, tmp_path: Path) -> None:
    async with fleet(tmp_path) as (world, host, path):
        await host.cut()
        await wait_all_tasks_blocked()
        world.worker.fault = "database or disk is full"
        with pytest.raises(UserError) as caught:
            await call(path, "forget", HOSTNAME)
        assert str(caught.value) == "store: database or disk is full"
        assert len(world.agent.fleet.instances) == 4
        world.worker.fault = ""
        assert (await call(path, "forget", HOSTNAME)).status == ExitStatus.DONE
        await inventory(world)


@pytest.mark.parametrize("name", ["compute-9", "../status", "a/b", "x" * 300, "%00", "münchen"])
async def test_a_host_that_nobody_knows(
    autojump_clock: MockClock, tmp_path: Path, name: str
) -> None:
    async with fleet(tmp_path) as (world, _, path):
        with pytest.raises(UserError) as caught:
            await call(path, "forget", name)
        assert "\n" not in str(caught.value)
        assert (len(world.agent.fleet.hosts), len(world.agent.fleet.instances)) == (2, 4)


async def test_ctl_and_the_api_of_a_host(autojump_clock: MockClock) -> None:
    async with host_world() as world, served(world.host) as api:
        with pytest.raises(UserError) as caught:
            await call(api.path, "forget", HOSTNAME)
        assert str(caught.value) == "no member compute-0 of a group; an agent forgets hosts (--url)"
        assert caught.value.status is ExitStatus.FAILED


async def test_over_tcp_it_needs_the_token(tmp_path: Path) -> None:
    async with fleet_api(tmp_path) as api, api.client(tcp=True) as http:
        await api.agent.inventory.put_host(HostRecord("h-9", "compute-9", True))
        path = "/v1/hosts/compute-9/forget"
        assert (await http.post(path)).status_code == 401
        assert (await http.get(path)).status_code == 405
        assert len(api.agent.fleet.hosts) == 1
        headers = {"authorization": f"Bearer {TOKEN}"}
        assert (await http.post(path, headers=headers)).status_code == 200
        assert api.agent.fleet.hosts == {}


async def test_a_host_that_comes_back_in_the_middle_of_it(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with fleet(tmp_path) as (world, host, path):
        await host.cut()
        await wait_all_tasks_blocked()
        world.worker.slow_s = 5.0
        forgotten = trio.Event()

        async def ask() -> None:
            assert (await forget(path, HOSTNAME))[0] == 200
            forgotten.set()

        world.nursery.start_soon(ask)
        await trio.sleep(1)
        world.worker.slow_s = 0.0
        await world.host(host)
        assert host.reporting == {"": True} | dict.fromkeys(VMS, True)
        await forgotten.wait()
        await wait_all_tasks_blocked()
        await inventory(world)
        assert host.reporting == {"": False} | dict.fromkeys(VMS, False)
        # What it tells counts as soon as the VIM tells of it again.
        await world.agent.inventory.put_instance(InstanceRecord(VMS[0], HOSTNAME, True))
        live = world.agent.fleet.live(VMS[0])
        assert live is not None
        assert live.heartbeating


async def test_an_instance_that_is_being_bound_elsewhere_stays(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    moved = InstanceRecord(VMS[0], "compute-1", True)
    async with fleet(tmp_path) as (world, host, _):
        await host.cut()
        await wait_all_tasks_blocked()
        world.worker.slow_s = 1.0
        forgotten: list[int] = []

        async def forget() -> None:
            forgotten.append(await world.agent.inventory.forget(HOSTNAME, "operator"))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(world.agent.inventory.put_instance, moved)
            await trio.sleep(0.5)
            nursery.start_soon(forget)
        assert forgotten == [2]
        assert world.agent.fleet.hosts == LEFT[0]
        assert world.agent.fleet.instances == LEFT[1] | {VMS[0]: moved}
        assert set(await world.store.inventory.instances()) == {*LEFT[1].values(), moved}
