"""The agent's numbers, as Prometheus reads them."""

from __future__ import annotations

from pathlib import Path

import attrs
import pytest
from prometheus_client.parser import text_string_to_metric_families
from trio.testing import MockClock

import hbtrio
from hbtrio.api.metrics import METRICS_TYPE, agent_metrics
from hbtrio.store.records import HostRecord, InstanceRecord
from hbtrio.store.worker import StoreFault
from hbtrio.wire.vim_result import NotSent
from hbtrio.wire.vocabulary import Event
from support.agent_world import MemoryAgent, memory_agent
from support.fleet_world import fleet_api
from support.scripted_host import HOSTNAME, INSTANCE, OTHER_HOST_UUID, VM, ScriptedHost


def numbers(on: MemoryAgent, now: float) -> dict[str, float]:
    """Every sample: its name, with its labels' values, and its number."""
    text = agent_metrics(on.agent, now).decode()
    return {
        " ".join([sample.name.removeprefix("hbtrio_agent_"), *sample.labels.values()]): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


QUIET = {
    f"info {hbtrio.__version__}": 1,
    "hosts up": 0,
    "hosts down": 0,
    "hosts lost": 0,
    "hosts never": 0,
    "instances yes": 0,
    "instances no": 0,
    "rounds_open": 0,
    "host_alarms_total": 0,
    "crashes_total": 0,
    "store_failing": 0,
}
DELIVERY = {
    "vim_reachable": 1,
    "outbox_waiting": 0,
    "deliveries_total delivered": 0,
    "deliveries_total unconfirmed": 0,
    "deliveries_total undelivered": 0,
    "delivery_retries_total": 0,
}


async def test_an_agent_without_hosts(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with memory_agent(tmp_path) as on:
        assert numbers(on, 0.0) == QUIET | DELIVERY


async def test_without_a_vim_there_is_no_delivery(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with memory_agent(tmp_path, vim=False) as on:
        assert numbers(on, 0.0) == QUIET


async def test_hosts_by_their_links(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with memory_agent(tmp_path) as on:
        vms = [f"{n:08x}-1111-4111-8111-111111111111" for n in range(4)]
        host = ScriptedHost(instances=tuple(attrs.evolve(INSTANCE, uuid=vm) for vm in vms))
        await on.known(host=host)
        await on.agent.inventory.put_host(HostRecord("h-9", 'compute-9"\\\n', True))
        await on.agent.inventory.put_instance(InstanceRecord(VM, "compute-8", True))
        found = numbers(on, 0.0)
        assert found | {"deliveries_total unconfirmed": 0} == QUIET | DELIVERY | {
            "hosts up": 1,
            "hosts never": 2,
            "instances yes": 4,
            "instances no": 1,
            f"link_down_seconds {HOSTNAME}": 0,
            f"alarms_held_back {HOSTNAME}": 0,
            'alarms_held_back compute-9"\\\n': 0,
            "alarms_held_back compute-8": 0,
        }
        await on.at(10)
        await host.cut()
        await on.at(12)
        found = numbers(on, 12.0)
        assert (found["hosts up"], found["hosts down"], found["hosts lost"]) == (0, 1, 0)
        assert found[f"link_down_seconds {HOSTNAME}"] == 2
        # The link dropped with four instances on it.
        assert (found[f"alarms_held_back {HOSTNAME}"], found["host_alarms_total"]) == (1, 1)
        await on.at(41)
        found = numbers(on, 41.0)
        assert (found["hosts up"], found["hosts down"], found["hosts lost"]) == (0, 0, 1)
        assert found["instances yes"] == 0


async def test_rounds_and_deliveries(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with memory_agent(tmp_path) as on:
        host = await on.known()
        await on.at(1)
        before = numbers(on, 1.0)
        host.silent()
        await on.ask(Event.STOP, vote=True)
        assert numbers(on, 1.0)["rounds_open"] == 1
        await on.at(30)
        after = numbers(on, 30.0)
        name = "deliveries_total unconfirmed"
        assert (after["rounds_open"], after[name] - before[name]) == (0, 1)
        on.vim.next = [NotSent("connection refused")]
        await host.loses()
        await on.at(30.5)
        found = numbers(on, 30.5)
        assert (found["vim_reachable"], found["outbox_waiting"]) == (0, 2)
        await on.at(60)
        found = numbers(on, 60.0)
        assert (found["vim_reachable"], found["outbox_waiting"]) == (1, 0)
        assert found["delivery_retries_total"] == 1


async def test_they_are_served(tmp_path: Path) -> None:
    async with fleet_api(tmp_path) as api, api.client() as http:
        answer = await http.get("/metrics")
        assert answer.status_code == 200
        assert answer.headers["content-type"] == METRICS_TYPE
        assert f'hbtrio_agent_info{{version="{hbtrio.__version__}"}} 1.0' in answer.text


async def test_a_host_that_is_missing_after_a_restart(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """One that had a link before is missed; one that never had is not; one that is back is well."""
    back, gone = ScriptedHost(), ScriptedHost("compute-1", OTHER_HOST_UUID, "boot-1")
    gone.instances = {}
    async with memory_agent(tmp_path) as on:
        await on.known(host=back)
        await on.known(host=gone)
        await back.report("heartbeating", VM, "init answered")
        await gone.report("heartbeating", "elsewhere", "init answered")
        await on.agent.inventory.put_host(HostRecord("h-9", "compute-9", True))
        await on.at(1)
    async with memory_agent(tmp_path, number=1) as on:
        await on.host(back)
        await on.at(29)
        found = numbers(on, 29.0)
        assert [found[f"hosts {link}"] for link in ("up", "down", "lost", "never")] == [1, 1, 0, 1]
        await on.at(31)
        found = numbers(on, 31.0)
        assert [found[f"hosts {link}"] for link in ("up", "down", "lost", "never")] == [1, 0, 1, 1]
        newest = (await on.store.history())[0].entry
        assert (newest.kind, newest.hostname, newest.reason) == (
            "host-unreachable",
            "compute-1",
            "no link for 30 s",
        )


async def test_a_host_that_nobody_knows_any_more_is_not_missed(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    host = ScriptedHost()
    async with memory_agent(tmp_path) as on:
        await on.known(host=host)
        await host.report("heartbeating", VM, "init answered")
        await on.at(1)
        await on.agent.inventory.delete_instance(VM)
        await on.agent.inventory.delete_host(host.hello.host_uuid)
    async with memory_agent(tmp_path, number=1) as on:
        await on.at(60)
        assert numbers(on, 60.0) == QUIET | DELIVERY


async def test_a_host_that_is_deleted_is_not_missed(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with memory_agent(tmp_path) as on:
        host = ScriptedHost(instances=())
        await on.known(host=host)
        await host.cut()
        await on.at(60)
        assert numbers(on, 60.0)["hosts lost"] == 1
        await on.agent.inventory.delete_host(host.hello.host_uuid)
        assert numbers(on, 60.0)["hosts lost"] == 0


async def test_a_store_that_fails(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Until something was written again, which nothing that only reads can tell."""
    async with memory_agent(tmp_path) as on:
        on.worker.fault = "database or disk is full"
        with pytest.raises(StoreFault):
            await on.agent.inventory.put_host(HostRecord("h-9", "compute-9", True))
        assert on.store.fault == "database or disk is full"
        assert numbers(on, 0.0)["store_failing"] == 1
        on.worker.fault = ""
        await on.store.history()
        assert numbers(on, 0.0)["store_failing"] == 1
        await on.agent.inventory.put_host(HostRecord("h-9", "compute-9", True))
        assert (on.store.fault, numbers(on, 0.0)["store_failing"]) == ("", 0)
