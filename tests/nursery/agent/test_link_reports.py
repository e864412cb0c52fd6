"""The agent's end of the links: reports that are kept once, commands, and no VIM."""

from __future__ import annotations

from pathlib import Path

import attrs
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from hbtrio.nursery.agent import inventory as agent_inventory
from hbtrio.nursery.agent.unasked_rounds import CantAsk
from hbtrio.store.records import HostRecord, InstanceRecord
from hbtrio.store.worker import StoreFault
from hbtrio.wire.link_messages import Ack, Gone, RoundCommand
from hbtrio.wire.vocabulary import Event
from support.agent_world import AgentWorld, agent_world
from support.link_cases import OTHER, alarms, history
from support.scripted_host import (
    HOST_UUID,
    HOSTNAME,
    INSTANCE,
    OTHER_VM,
    VM,
    ScriptedHost,
)

pytestmark = pytest.mark.usefixtures("autojump_clock")


# -- reports are kept once -------------------------------------------------------------------------


async def test_reports_are_acknowledged_and_not_taken_twice(world: AgentWorld) -> None:
    host = await world.bound_host()
    for number in range(5):
        await host.report("unhealthy", reason=f"r{number}", corrective_action=None)
    await host.until(lambda: host.waiting == {})
    assert [one for one in host.received if isinstance(one, Ack)] == [Ack(5)]  # with one sync
    assert len(alarms(world)) == 5
    await host.cut()
    await host.dial(world.agent.links, world.nursery)
    assert host.welcome is not None
    assert host.welcome.acknowledged == 5
    assert [reason for _, _, reason in await history(world)] == [f"r{n}" for n in range(5)]


async def test_reports_made_while_the_link_was_down_come_once(world: AgentWorld) -> None:
    host = await world.bound_host()
    await host.cut()
    for number in range(3):
        await host.report("loss", reason=f"r{number}")
    for _ in range(2):
        await host.dial(world.agent.links, world.nursery)
        await host.cut()
    await host.dial(world.agent.links, world.nursery)
    await wait_all_tasks_blocked()
    assert host.waiting == {}
    assert [reason for _, _, reason in await history(world)] == ["r0", "r1", "r2"]
    assert len(alarms(world)) == 3


async def test_a_report_that_is_said_again_changes_nothing(world: AgentWorld) -> None:
    host = await world.bound_host()
    await host.report_lost()
    again = host.waiting.copy()
    await host.settle()
    await host.report_heartbeating()
    await host.settle()
    await wait_all_tasks_blocked()
    told = len(world.vim.got)
    for report in again.values():
        await host.send(report)
    await host.settle()
    await wait_all_tasks_blocked()
    assert len(world.vim.got) == told
    assert [kind for kind, _, _ in await history(world)] == ["loss", "heartbeating"]


async def test_a_kind_that_the_agent_does_not_know_is_history_and_no_more(
    world: AgentWorld,
) -> None:
    host = await world.bound_host()
    told = len(world.vim.got)
    for kind in ("paused", "not-acted", "absent", "corrective", "of-a-newer-host"):
        await host.report(kind, reason="why", corrective_action=None)
    await host.until(lambda: host.waiting == {})
    await wait_all_tasks_blocked()
    assert len(world.vim.got) == told
    assert [kind for kind, _, _ in await history(world)] == [
        "paused",
        "not-acted",
        "absent",
        "corrective",
        "of-a-newer-host",
    ]


async def test_the_numbers_of_another_process_are_its_own(world: AgentWorld) -> None:
    host = await world.bound_host()
    await host.report("loss", reason="old")
    await host.settle()
    await host.cut()
    fresh = ScriptedHost(boot_id="boot-2")
    await fresh.dial(world.agent.links, world.nursery)
    assert fresh.welcome is not None
    assert fresh.welcome.acknowledged == 0
    await fresh.report("loss", reason="new")
    await fresh.settle()
    assert [reason for _, _, reason in await history(world)] == ["old", "new"]


async def test_an_acknowledgement_comes_after_the_sync(world: AgentWorld) -> None:
    host = await world.bound_host()
    synced = trio.Event()

    async def slow() -> None:
        await synced.wait()

    world.worker.sync = slow  # type: ignore[method-assign]
    await host.report_lost()
    await trio.sleep(3)
    # The VIM has it long since; the host keeps it until the disk has it.
    assert alarms(world) == [("failed", "reboot")]
    assert len(host.waiting) == 1
    synced.set()
    await wait_all_tasks_blocked()
    assert host.waiting == {}


async def test_a_disk_that_fails_costs_the_acknowledgements_and_not_the_link(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with agent_world(tmp_path) as world:
        host = await world.bound_host()

        async def broken() -> None:
            raise StoreFault("input/output error")

        world.worker.sync = broken  # type: ignore[method-assign]
        await host.report_lost()
        await host.report("unhealthy")
        await trio.sleep(1)
        assert host.up
        assert len(host.waiting) == 2
        assert len(alarms(world)) == 2
    assert "input/output error: reports can't be acknowledged" in caplog.text


async def test_a_store_that_can_t_keep_a_report_ends_the_link_and_it_comes_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with agent_world(tmp_path) as world:
        host = await world.bound_host()
        await wait_all_tasks_blocked()
        world.worker.fault = "disk full"
        await host.report_lost()
        await wait_all_tasks_blocked()
        assert not host.up
        assert world.agent.fleet.sessions == {}
        world.worker.fault = ""
        await trio.sleep(61)  # the sender has had its share of the trouble
        await host.dial(world.agent.links, world.nursery)
        await host.until(lambda: host.waiting == {})
        assert alarms(world) == [("failed", "reboot")]
    assert "compute-0: link ended: store: disk full" in caplog.text
    assert "Traceback" not in caplog.text


@pytest.mark.parametrize(
    ("time", "kept"),
    [
        ("2024-12-31T23:00:00+00:00", "2024-12-31T23:00:00+00:00"),
        ("2025-01-01T02:00:00+02:00", "2025-01-01T00:00:00+00:00"),
        ("2025-01-01T00:00:00", None),
        ("yesterday", None),
        ("", None),
        ("0001-01-01T00:00:00+14:00", None),
        ("9999-12-31T23:59:59-14:00", None),
    ],
)
async def test_the_time_of_a_report(time: str, kept: str | None, world: AgentWorld) -> None:
    host = await world.bound_host()
    await trio.sleep(1)
    number = await host.report("loss")
    await host.send(attrs.evolve(host.waiting[number], number=number + 1, time=time))
    await host.settle()
    record, _ = await world.store.history()
    assert record.entry.time.isoformat() == (kept or "2025-01-01T00:00:01+00:00")


# -- commands --------------------------------------------------------------------------------------


async def test_who_waits_for_a_reply_is_let_go_with_the_link(world: AgentWorld) -> None:
    host = await world.bound_host()

    async def cut(_: RoundCommand) -> None:
        await trio.sleep(0.5)
        await host.cut()

    host.on_round = cut
    with pytest.raises(CantAsk, match="the link to compute-0 is gone"):
        await world.ask(Event.STOP, vote=True)
    assert trio.current_time() == 0.5


async def test_replies_that_nobody_waits_for(world: AgentWorld) -> None:
    host = await world.bound_host()
    command = RoundCommand("nobody", VM, Event.STOP, True, 1.0)
    for _ in range(3):
        await host.opens(command)

    async def twice(command: RoundCommand) -> None:
        for _ in range(3):
            await host.opens(command)

    host.on_round = twice
    assert (await world.ask(Event.STOP, vote=True)).seconds == 9
    await host.settle()
    assert host.up


async def test_a_host_that_is_one_too_many_is_served_all_the_same(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(agent_inventory, "_HOSTS", 0)
    async with agent_world(tmp_path) as world:
        host = await world.host()
        assert (host.up, world.agent.fleet.hosts) == (True, {})
    assert f"compute-0: {HOST_UUID} ignored: 0 hosts are known" in caplog.text


# -- without a VIM ---------------------------------------------------------------------------------


async def test_without_a_vim_the_hosts_word_is_the_inventory(tmp_path: Path) -> None:
    async with agent_world(tmp_path, vim=False) as world:
        host = await world.host()
        assert world.agent.fleet.instances == {VM: InstanceRecord(VM, HOSTNAME, True)}
        assert world.agent.fleet.hosts == {HOST_UUID: HostRecord(HOST_UUID, HOSTNAME, True)}
        await wait_all_tasks_blocked()
        assert host.reporting == {"": True, VM: True}
        host.instances[OTHER_VM] = OTHER
        await host.send(OTHER)
        await host.report_lost()
        await host.settle()
        assert set(world.agent.fleet.instances) == {VM, OTHER_VM}
        assert await history(world) == [("loss", VM, "no answer for 3 s")]
        assert await world.store.outbox() == ()
        await host.send(Gone(VM, "removed"))
        await host.settle()
        assert set(world.agent.fleet.instances) == {OTHER_VM}
        await host.cut()
        host.instances.clear()
        await host.dial(world.agent.links, world.nursery)
        assert world.agent.fleet.instances == {}


async def test_without_a_vim_an_instance_is_where_it_is_heartbeating(tmp_path: Path) -> None:
    async with agent_world(tmp_path, vim=False) as world:
        old = await world.host()
        waiting = attrs.evolve(INSTANCE, heartbeating=False, state="waiting")
        new = await world.host(ScriptedHost("compute-1", "", "b", (waiting,)))
        assert world.agent.fleet.instance(VM).hostname == HOSTNAME
        await new.report_heartbeating()
        await new.settle()
        await wait_all_tasks_blocked()
        assert world.agent.fleet.instance(VM).hostname == "compute-1"
        assert (old.reporting[VM], new.reporting[VM]) == (False, True)
        # The source goes when the migration is over.
        await old.send(Gone(VM, "removed"))
        await old.settle()
        assert world.agent.fleet.instance(VM).hostname == "compute-1"


async def test_without_a_vim_an_instance_that_is_one_too_many_is_left_out(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(agent_inventory, "_INSTANCES", 1)
    async with agent_world(tmp_path, vim=False) as world:
        host = await world.host(ScriptedHost(instances=(INSTANCE, OTHER)))
        assert (host.up, set(world.agent.fleet.instances)) == (True, {VM})
    assert f"compute-0: {OTHER_VM} ignored: 1 instances are known" in caplog.text
