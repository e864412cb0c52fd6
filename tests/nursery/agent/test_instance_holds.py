"""Holds at an agent: alarms stay until the end, then the present state decides; hosts know."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from hbtrio.nursery.agent.fleet_actions import FleetActionRefused
from hbtrio.policy.instance_hold import HoldRefused
from hbtrio.store.records import InstanceRecord
from hbtrio.store.worker import StoreFault
from hbtrio.wire.vim_result import NotSent
from hbtrio.wire.vocabulary import ActionName
from support.agent_world import AgentWorld, agent_world
from support.failing_host import FailingHost, alarmed, names
from support.fleet_world import FleetWorld, fleet_world
from support.run_order import ORDERS, folders, in_every_order

WHO = "operator"
BEFORE_S = 0.05

on_fake_clock = pytest.mark.usefixtures("autojump_clock")


async def held(world: AgentWorld, uuid: str, seconds: float = 60) -> None:
    await world.agent.holds.hold(uuid, seconds, "disk swap", WHO)


async def entries(world: AgentWorld, *kinds: str) -> list[tuple[str, str, str]]:
    return [
        (one.entry.kind, one.entry.who, one.entry.reason)
        for one in reversed(await world.store.history())
        if one.entry.kind in kinds
    ]


async def losing(world: AgentWorld, count: int = 4) -> FailingHost:
    """A host whose first instance is put on hold for a minute, and lost at 10 s."""
    host = await world.bound_host(host=FailingHost(count))
    await held(world, names(count)[0])
    await world.at(10)
    await host.loses_at_once(names(count)[0])
    return host


@on_fake_clock
@pytest.mark.parametrize("count", [1, 4])  # exempt from the mass failure guard, and not
async def test_the_alarm_stays_until_the_hold_is_over(count: int, world: AgentWorld) -> None:
    await losing(world, count)
    assert len(world.vim.received("service")) > 0  # states go on
    await world.at(59.9)
    assert alarmed(world) == []
    await world.at(70)
    assert alarmed(world) == [(60.0, names(count)[0])]
    hold, over = await entries(world, "hold", "hold-over")
    assert hold[:2] == ("hold", WHO)
    assert hold[2].endswith(f"by {WHO}: disk swap")
    assert over == ("hold-over", "", "its time is over: disk swap")


@on_fake_clock
async def test_an_operator_ends_it(world: AgentWorld) -> None:
    await losing(world)
    await world.at(30)
    await world.agent.holds.unhold(names(4)[0], "other")
    await world.at(31)
    assert alarmed(world) == [(30.0, names(4)[0])]
    assert (await entries(world, "hold-over")) == [
        ("hold-over", "other", "other has ended it: disk swap")
    ]
    with pytest.raises(HoldRefused):
        await world.agent.holds.unhold(names(4)[0], "other")


@on_fake_clock
async def test_one_that_has_recovered_is_not_alarmed(world: AgentWorld) -> None:
    host = await losing(world)
    await world.at(30)
    await host.report_heartbeating(names(4)[0])
    await world.at(100)
    assert alarmed(world) == []


@on_fake_clock
async def test_a_hold_also_holds_an_alarm_that_waits_for_the_vim(world: AgentWorld) -> None:
    host = await world.bound_host(host=FailingHost(1))
    await world.at(10)
    world.vim.next = [NotSent("connection refused")] * 3
    await host.loses_at_once(names(1)[0])
    await held(world, names(1)[0])
    await world.at(69)
    assert alarmed(world) == []
    await world.at(80)
    assert alarmed(world) == [(70.0, names(1)[0])]


@on_fake_clock
async def test_others_are_alarmed_as_ever(world: AgentWorld) -> None:
    host = await losing(world)
    await world.at(20)
    await host.loses_at_once(names(4)[1])
    await world.at(30)
    assert [uuid for _, uuid in alarmed(world)] == [names(4)[1]]


@on_fake_clock
async def test_the_release_of_a_host_leaves_it_on_hold(world: AgentWorld) -> None:
    host = await world.bound_host(host=FailingHost(4))
    await held(world, names(4)[0])
    await world.at(10)
    await host.loses_at_once(*names(4))
    await world.at(20)
    assert alarmed(world) == []
    released = await world.agent.mass_failure_guard.release(host.hello.hostname, WHO, send=True)
    assert (released.sent, released.withdrawn) == (3, 0)
    await world.at(59)
    assert sorted(uuid for _, uuid in alarmed(world)) == names(4)[1:]
    await world.at(70)
    assert alarmed(world)[-1] == (60.0, names(4)[0])


@on_fake_clock
async def test_the_end_of_a_hold_leaves_it_to_the_hold_of_its_host(world: AgentWorld) -> None:
    host = await world.bound_host(host=FailingHost(4))
    await held(world, names(4)[0], 30)
    await world.at(10)
    await host.loses_at_once(*names(4))
    await world.at(100)
    assert alarmed(world) == []


@on_fake_clock
async def test_an_alarm_of_one_that_has_moved_is_withdrawn_and_the_hold_goes_with_it(
    world: AgentWorld,
) -> None:
    await losing(world)
    first = names(4)[0]
    await world.at(20)
    await world.agent.inventory.put_instance(InstanceRecord(first, "compute-1", True))
    await world.at(100)
    assert alarmed(world) == []
    hold, over = await entries(world, "hold", "hold-over")
    assert (hold[0], over[0]) == ("hold", "hold-over")


@on_fake_clock
@pytest.mark.parametrize("away_s", [10, 100])
async def test_it_outlives_a_restart_of_the_agent(tmp_path: Path, away_s: float) -> None:
    async with agent_world(tmp_path) as world:
        host = await losing(world)
        await world.at(20)
        assert alarmed(world) == []
    await trio.sleep(away_s)
    async with agent_world(tmp_path, number=1) as world:
        again = FailingHost(4)
        again.instances = host.instances
        await world.host(again)
        if away_s < 40:
            await world.at(59)
            hold = world.agent.holds.of(names(4)[0])
            assert hold is not None
            assert (hold.who, hold.reason) == (WHO, "disk swap")
            assert alarmed(world) == []
        await world.sleep(10)
        assert [uuid for _, uuid in alarmed(world)] == [names(4)[0]]
        assert [kind for kind, *_ in await entries(world, "hold", "hold-over")] == [
            "hold",
            "hold-over",
        ]


@on_fake_clock
async def test_a_store_that_fails_changes_nothing(world: AgentWorld) -> None:
    await world.bound_host(host=FailingHost(1))
    first = names(1)[0]
    world.worker.fault = "disk full"
    with pytest.raises(StoreFault):
        await held(world, first)
    assert world.agent.holds.of(first) is None
    world.worker.fault = ""
    await held(world, first)
    world.worker.fault = "disk full"
    with pytest.raises(StoreFault):
        await world.agent.holds.unhold(first, WHO)
    assert world.agent.holds.of(first) is not None
    world.worker.fault = ""


@pytest.mark.slow
@pytest.mark.parametrize("stall_s", [0.1, 0.6, 12.0])
def test_a_return_that_has_arrived_beats_the_end_of_the_hold(
    stall_s: float, tmp_path: Path
) -> None:
    folder = folders(tmp_path)

    async def scenario(clock: MockClock) -> list[tuple[float, str]]:
        async with agent_world(next(folder)) as world:
            host = await losing(world)
            await world.at(60 - BEFORE_S)
            world.worker.slow_s = 0.004
            for _ in range(6):
                await host.report_heartbeating(names(4)[3])
            await host.report_heartbeating(names(4)[0])
            clock.jump(stall_s)
            await world.sleep(20)
            return alarmed(world)

    assert in_every_order(scenario) == [[]] * ORDERS


# -- hosts and their agent --------------------------------------------------------------------


async def one_vm(world: FleetWorld) -> str:
    guest = await world.host.heartbeating()
    await world.host.settle()
    return guest.uuid


@on_fake_clock
async def test_a_hold_set_at_the_agent_is_in_force_at_the_host(tmp_path: Path) -> None:
    async with fleet_world(tmp_path) as world:
        uuid = await one_vm(world)
        await world.agent.holds.hold(uuid, 60, "disk swap", WHO)
        await world.host.settle()
        hold = world.host.host.holds.of(uuid)
        assert hold is not None
        assert (hold.who, hold.reason) == (WHO, "disk swap")
        await world.agent.holds.unhold(uuid, WHO)
        await world.host.settle()
        assert world.host.host.holds.of(uuid) is None


@on_fake_clock
async def test_a_hold_set_at_the_host_is_in_force_at_the_agent(tmp_path: Path) -> None:
    async with fleet_world(tmp_path) as world:
        uuid = await one_vm(world)
        await world.host.host.holds.hold(uuid, 60, "disk swap", WHO)
        await world.host.settle()
        hold = world.agent.holds.of(uuid)
        assert hold is not None
        assert (hold.who, hold.reason) == (WHO, "disk swap")
        await world.host.host.holds.unhold(uuid, WHO)
        await world.host.settle()
        assert world.agent.holds.of(uuid) is None
        kinds = [one.entry.kind for one in await world.agent.store.history()]
        assert (kinds.count("hold"), kinds.count("hold-over")) == (1, 1)


@on_fake_clock
async def test_what_was_said_without_a_link_is_told_with_the_next_one(tmp_path: Path) -> None:
    async with fleet_world(tmp_path) as world:
        uuid = await one_vm(world)
        other = await one_vm(world)
        await world.agent.holds.hold(uuid, 600, "disk swap", WHO)
        await world.host.settle()
        await world.cut()
        await world.host.host.holds.unhold(uuid, "other")
        await world.agent.holds.hold(other, 600, "memory dump", WHO)
        world.reachable = True
        await world.host.sleep(60)
        assert world.agent.holds.of(uuid) is None
        assert world.host.host.holds.of(other) is not None


@on_fake_clock
async def test_both_ends_end_it_at_its_time_and_each_says_so_once(tmp_path: Path) -> None:
    async with fleet_world(tmp_path) as world:
        uuid = await one_vm(world)
        await world.agent.holds.hold(uuid, 60, "disk swap", WHO)
        await world.host.sleep(61)
        assert world.agent.holds.of(uuid) is None
        assert world.host.host.holds.of(uuid) is None
        kinds = [one.entry.kind for one in await world.agent.store.history()]
        assert (kinds.count("hold"), kinds.count("hold-over")) == (1, 1)
        reports = [report.kind for report in world.host.host.reports.recent]
        assert (reports.count("hold"), reports.count("hold-over")) == (1, 1)


@on_fake_clock
async def test_an_action_through_the_agent_is_refused_unless_it_is_ignored(tmp_path: Path) -> None:
    async with fleet_world(tmp_path) as world:
        uuid = await one_vm(world)
        await world.agent.holds.hold(uuid, 60, "disk swap", WHO)
        await world.host.settle()
        begin = world.agent.actions.begin
        with pytest.raises(FleetActionRefused, match=r"on hold until .* by operator: disk swap"):
            await begin(uuid, ActionName.REBOOT, ("x",), force=True, who=WHO)
        action = await begin(uuid, ActionName.REBOOT, ("x",), force=True, who=WHO, ignore_hold=True)
        assert action.uuid == uuid
        reasons = [one.entry.reason for one in await world.agent.store.history()]
        assert "reboot: asked, without its vote, on hold or not, with x" in reasons
