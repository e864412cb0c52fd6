"""The agent's numbers, as Prometheus reads them."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import attrs
import pytest
from prometheus_client.parser import text_string_to_metric_families
from trio.testing import MockClock

import hbtrio
from hbtrio.api.fleet_metrics import agent_metrics
from hbtrio.api.metrics import METRICS_TYPE
from hbtrio.net.tls_files import server_files
from hbtrio.nursery.store_watch import LOOK_S
from hbtrio.policy.more_time import Extension
from hbtrio.store.records import HostRecord, InstanceRecord
from hbtrio.store.worker import StoreFault
from hbtrio.wire.vim_result import NotSent
from hbtrio.wire.vocabulary import EVENT_TABLE, Event, Health
from support.agent_world import AgentWorld, agent_world
from support.certificates import HERE, pair
from support.fleet_world import fleet_api
from support.scripted_host import HOSTNAME, INSTANCE, OTHER_HOST_UUID, VM, ScriptedHost


def numbers(world: AgentWorld, now: float) -> dict[str, float]:
    """Every sample: its name, with its labels' values, and its number."""
    text = agent_metrics(world.agent, now).decode()
    return {
        " ".join([sample.name.removeprefix("hbtrio_agent_"), *sample.labels.values()]): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


QUIET = {
    **{f"extended_seconds_total {event}": 0 for event in EVENT_TABLE},
    **{f"overridden_rejects_total {event}": 0 for event, rule in EVENT_TABLE.items() if rule.voted},
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
    "child_restarts_total task": 0,
    "store_failing": 0,
    "store_files_lost": 0,
    "instances_on_hold": 0,
    "hold_of_failed_ends_timestamp_seconds": 0,
    "links_refused_total": 0,
    "renewed_files_failing": 0,
    "planned_actions": 0,
    "planned_actions_ended_total done": 0,
    "planned_actions_ended_total skipped": 0,
    "planned_actions_ended_total failed": 0,
    "planned_actions_ended_total cancelled": 0,
}
DELIVERY = {
    "vim_reachable": 1,
    "outbox_waiting": 0,
    "deliveries_total delivered": 0,
    "deliveries_total unconfirmed": 0,
    "deliveries_total undelivered": 0,
    "delivery_retries_total": 0,
}


async def test_an_agent_without_hosts(world: AgentWorld) -> None:
    assert numbers(world, 0.0) == QUIET | DELIVERY


async def test_without_a_vim_there_is_no_delivery(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with agent_world(tmp_path, vim=False) as world:
        assert numbers(world, 0.0) == QUIET


async def test_hosts_by_their_links(world: AgentWorld) -> None:
    vms = [f"{n:08x}-1111-4111-8111-111111111111" for n in range(4)]
    host = ScriptedHost(instances=tuple(attrs.evolve(INSTANCE, uuid=vm) for vm in vms))
    await world.bound_host(host=host)
    await world.agent.inventory.put_host(HostRecord("h-9", 'compute-9"\\\n', True))
    await world.agent.inventory.put_instance(InstanceRecord(VM, "compute-8", True))
    found = numbers(world, 0.0)
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
    await world.at(10)
    await host.cut()
    await world.at(12)
    found = numbers(world, 12.0)
    assert (found["hosts up"], found["hosts down"], found["hosts lost"]) == (0, 1, 0)
    assert found[f"link_down_seconds {HOSTNAME}"] == 2
    # The link dropped with four instances on it.
    assert (found[f"alarms_held_back {HOSTNAME}"], found["host_alarms_total"]) == (1, 1)
    await world.at(41)
    found = numbers(world, 41.0)
    assert (found["hosts up"], found["hosts down"], found["hosts lost"]) == (0, 0, 1)
    assert found["instances yes"] == 0


async def test_what_events_say_of_vetoes_and_more_time_is_counted_once(world: AgentWorld) -> None:
    host = await world.bound_host()
    await world.at(1)
    by = {"event": Event.STOP}
    await host.report("overridden", reason="overridden after 3 rejects in 3600 s: busy", **by)
    await host.report(
        "extended", reason=f"the vote on stop was {Extension(30, 'orders').words}", **by
    )
    await host.report("extended", reason=Extension(12, "").words, **by)
    await host.report("extended", reason="extended by much")
    await host.report("vote", reason="extended by 7 s", **by)
    await host.cut()  # what is not acknowledged yet comes again
    await world.bound_host(host=host)
    await world.at(5)
    found = numbers(world, 5.0)
    assert found["overridden_rejects_total stop"] == 1
    assert found["extended_seconds_total stop"] == 42
    assert found["overridden_rejects_total reboot"] == 0


async def test_rounds_and_deliveries(world: AgentWorld) -> None:
    host = await world.bound_host()
    await world.at(1)
    before = numbers(world, 1.0)
    host.silent()
    await world.ask(Event.STOP, vote=True)
    assert numbers(world, 1.0)["rounds_open"] == 1
    await world.at(30)
    after = numbers(world, 30.0)
    name = "deliveries_total unconfirmed"
    assert (after["rounds_open"], after[name] - before[name]) == (0, 1)
    world.vim.next = [NotSent("connection refused")]
    await host.report_lost()
    await world.at(30.5)
    found = numbers(world, 30.5)
    assert (found["vim_reachable"], found["outbox_waiting"]) == (0, 2)
    await world.at(60)
    found = numbers(world, 60.0)
    assert (found["vim_reachable"], found["outbox_waiting"]) == (1, 0)
    assert found["delivery_retries_total"] == 1


async def test_the_next_end_of_a_hold_of_a_failed_instance(world: AgentWorld) -> None:
    host, holds, name = await world.bound_host(), world.agent.holds, "hold_of_failed_ends"
    await holds.hold(VM, 600.0, "disk swap", "operator")
    assert numbers(world, 0.0)[f"{name}_timestamp_seconds"] == 0
    await host.report_lost()
    await world.settle()
    held = holds.of(VM)
    assert held is not None
    assert numbers(world, 0.0)[f"{name}_timestamp_seconds"] == held.until.timestamp()
    await host.send_instance(VM, heartbeating=True, state="heartbeating", health=Health.UNHEALTHY)
    await world.settle()
    assert numbers(world, 0.0)[f"{name}_timestamp_seconds"] == held.until.timestamp()
    await host.send_instance(VM, heartbeating=True, state="heartbeating", health=Health.HEALTHY)
    await world.settle()
    assert numbers(world, 0.0)[f"{name}_timestamp_seconds"] == 0


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
    async with agent_world(tmp_path) as world:
        await world.bound_host(host=back)
        await world.bound_host(host=gone)
        await back.report("heartbeating", VM, "init answered")
        await gone.report("heartbeating", "elsewhere", "init answered")
        await world.agent.inventory.put_host(HostRecord("h-9", "compute-9", True))
        await world.at(1)
    async with agent_world(tmp_path, number=1) as world:
        await world.host(back)
        await world.at(29)
        found = numbers(world, 29.0)
        assert [found[f"hosts {link}"] for link in ("up", "down", "lost", "never")] == [1, 1, 0, 1]
        await world.at(31)
        found = numbers(world, 31.0)
        assert [found[f"hosts {link}"] for link in ("up", "down", "lost", "never")] == [1, 0, 1, 1]
        newest = (await world.store.history())[0].entry
        assert (newest.kind, newest.hostname, newest.reason) == (
            "host-unreachable",
            "compute-1",
            "no link for 30 s",
        )


async def test_a_host_that_nobody_knows_any_more_is_not_missed(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    host = ScriptedHost()
    async with agent_world(tmp_path) as world:
        await world.bound_host(host=host)
        await host.report("heartbeating", VM, "init answered")
        await world.at(1)
        await world.agent.inventory.delete_instance(VM)
        await world.agent.inventory.delete_host(host.hello.host_uuid)
    async with agent_world(tmp_path, number=1) as world:
        await world.at(60)
        assert numbers(world, 60.0) == QUIET | DELIVERY


async def test_a_host_that_is_deleted_is_not_missed(world: AgentWorld) -> None:
    host = ScriptedHost(instances=())
    await world.bound_host(host=host)
    await host.cut()
    await world.at(60)
    assert numbers(world, 60.0)["hosts lost"] == 1
    await world.agent.inventory.delete_host(host.hello.host_uuid)
    assert numbers(world, 60.0)["hosts lost"] == 0


async def test_files_of_the_store_that_are_gone(world: AgentWorld) -> None:
    world.worker.fault_of_files = "agent.db was deleted or moved"
    await world.sleep(LOOK_S)
    assert numbers(world, 0.0)["store_files_lost"] == 1


async def test_refused_links(world: AgentWorld) -> None:
    world.agent.links.refused.log("tcp:10.0.0.5:1", "expired", 0.0)
    assert numbers(world, 0.0)["links_refused_total"] == 1


async def test_certificates(world: AgentWorld, tmp_path: Path) -> None:
    files = world.agent.files
    key = tmp_path / "own.key"
    key.write_bytes((HERE / "agent.key").read_bytes())
    tls = server_files("link", pair("agent")[0], str(key), keys="link.")
    files.add_tls("link", tls)
    files.note_peer("compute-0", datetime(2026, 1, 1, tzinfo=UTC))
    key.write_text("")
    tls.check()
    tls.check()
    found = numbers(world, 0.0)
    in_2120 = datetime(2120, 1, 1, tzinfo=UTC).timestamp()
    assert found["certificate_expires_timestamp_seconds link.certificate"] == in_2120
    assert found["peer_certificate_expires_timestamp_seconds compute-0"] == 1767225600
    assert found["renewed_files_failing"] == 1


async def test_a_store_that_fails(world: AgentWorld) -> None:
    """Until something was written again, which nothing that only reads can tell."""
    world.worker.fault = "database or disk is full"
    with pytest.raises(StoreFault):
        await world.agent.inventory.put_host(HostRecord("h-9", "compute-9", True))
    assert world.store.fault == "database or disk is full"
    assert numbers(world, 0.0)["store_failing"] == 1
    world.worker.fault = ""
    await world.store.history()
    assert numbers(world, 0.0)["store_failing"] == 1
    await world.agent.inventory.put_host(HostRecord("h-9", "compute-9", True))
    assert (world.store.fault, numbers(world, 0.0)["store_failing"]) == ("", 0)
