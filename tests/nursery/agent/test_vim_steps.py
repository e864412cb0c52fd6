"""What the VIM is told between a notice's ``proceed`` and its own next step, on the fake clock."""

from __future__ import annotations

import pytest
from trio.testing import wait_all_tasks_blocked

from hbtrio.nursery.agent.vim_steps import STEP_S
from hbtrio.store.records import InstanceRecord
from hbtrio.wire.link_messages import Reporting
from hbtrio.wire.vocabulary import CorrectiveAction, Event, VoteResult
from support.agent_world import AgentWorld
from support.scripted_host import VM, ScriptedHost

pytestmark = pytest.mark.usefixtures("autojump_clock")


def statuses(world: AgentWorld) -> list[tuple[float, str]]:
    """When the VIM was told whether the instance is heartbeating."""
    return [(time, service["status"]) for time, service in world.vim.received("service")]


async def noticed(world: AgentWorld, event: Event = Event.PAUSE) -> ScriptedHost:
    """Heartbeating, and its notice is over at 10 s; then it is expected to fall silent."""
    host = await world.bound_host()
    host.answering(VoteResult.COMPLETE)
    await world.at(10)
    world.vim.got.clear()
    await world.ask(event, vote=False)
    await wait_all_tasks_blocked()
    assert [verdict[:3] for verdict in world.vim.verdicts] == [(10.0, event, "proceed")]
    await host.report_stopped()
    return host


async def vim_sets(world: AgentWorld, host: ScriptedHost, *, reporting: bool) -> None:
    record = InstanceRecord(VM, host.hello.hostname, reporting)
    await world.agent.inventory.put_instance(record)
    await wait_all_tasks_blocked()


@pytest.mark.parametrize("event", [Event.PAUSE, Event.LIVE_MIGRATE_BEGIN, Event.STOP, Event.REBOOT])
async def test_nothing_comes_before_the_vims_own_step(world: AgentWorld, event: Event) -> None:
    host = await noticed(world, event)
    await world.at(12)
    assert statuses(world) == []
    await vim_sets(world, host, reporting=False)
    assert statuses(world) == [(12.0, "disabled")]
    await world.at(100)
    assert statuses(world) == [(12.0, "disabled")]


async def test_the_step_is_waited_for_30_s_at_most(world: AgentWorld) -> None:
    assert STEP_S == 30
    await noticed(world)
    await world.at(10 + STEP_S - 0.1)
    assert statuses(world) == []
    await world.at(10 + STEP_S + 0.1)
    assert statuses(world) == [(10 + STEP_S, "disabled")]


async def test_who_is_back_before_that_has_not_changed(world: AgentWorld) -> None:
    host = await noticed(world)
    await host.report_heartbeating()
    await world.at(100)
    assert statuses(world) == []


async def test_a_loss_is_told_at_once(world: AgentWorld) -> None:
    host = await noticed(world)
    await world.at(11)
    await host.report_lost()
    await wait_all_tasks_blocked()
    assert [time for time, _ in world.vim.received("alarm")] == [11.0]


async def test_ill_health_is_not_told_before_the_step(world: AgentWorld) -> None:
    """A host of this version keeps it back, too; an older one does not."""
    host = await noticed(world)
    await world.at(11)
    await host.report("unhealthy", VM, "load", corrective_action=CorrectiveAction.REBOOT)
    await world.at(10 + STEP_S + 0.1)
    assert world.vim.received("alarm") == []
    await host.report("unhealthy", VM, "load", corrective_action=CorrectiveAction.REBOOT)
    await wait_all_tasks_blocked()
    assert [alarm["state"] for _, alarm in world.vim.received("alarm")] == ["unhealthy"]


async def test_after_the_step_all_is_told_at_once(world: AgentWorld) -> None:
    host = await noticed(world)
    await vim_sets(world, host, reporting=False)
    await vim_sets(world, host, reporting=True)
    await world.at(20)
    await host.report_heartbeating()
    await wait_all_tasks_blocked()
    assert statuses(world) == [(10.0, "disabled"), (20.0, "enabled")]


async def test_an_end_notice_is_followed_by_no_step(world: AgentWorld) -> None:
    await noticed(world, Event.UNPAUSE)
    await wait_all_tasks_blocked()
    assert statuses(world) == [(10.0, "disabled")]


async def test_a_vote_is_followed_by_a_notice(world: AgentWorld) -> None:
    host = await world.bound_host()
    host.answering(VoteResult.ACCEPT)
    await world.ask(Event.PAUSE, vote=True)
    world.vim.got.clear()
    await host.report_stopped()
    await wait_all_tasks_blocked()
    assert statuses(world) == [(0.0, "disabled")]


async def test_one_that_is_disabled_already_has_no_step_to_wait_for(world: AgentWorld) -> None:
    host = await world.bound_host(reporting=False)
    host.answering(VoteResult.COMPLETE)
    await world.ask(Event.PAUSE, vote=False)
    world.vim.got.clear()
    await host.report_stopped()
    await wait_all_tasks_blocked()
    assert statuses(world) == [(0.0, "disabled")]


async def test_a_deleted_instance_is_waited_for_no_longer(world: AgentWorld) -> None:
    await noticed(world)
    await world.agent.inventory.delete_instance(VM)
    await world.at(100)
    assert statuses(world) == []


@pytest.mark.parametrize("steps", [[False, True], [False, True, False, True], [True, False, True]])
async def test_a_change_to_enabled_reaches_the_host_however_soon_it_comes(
    world: AgentWorld, steps: list[bool]
) -> None:
    """For the host it means that the VM runs again."""
    host = await world.bound_host()
    before = len(host.received)
    session = world.agent.fleet.sessions[host.hello.hostname]
    for enabled in steps:
        session.set_reporting(VM, enabled=enabled)
    await wait_all_tasks_blocked()
    said = [one.enabled for one in host.received[before:] if isinstance(one, Reporting)]
    assert said == [False, True]


async def test_of_other_changes_only_the_last_is_sent(world: AgentWorld) -> None:
    host = await world.bound_host()
    before = len(host.received)
    session = world.agent.fleet.sessions[host.hello.hostname]
    for enabled in (True, True, False, False):
        session.set_reporting(VM, enabled=enabled)
    await wait_all_tasks_blocked()
    said = [one.enabled for one in host.received[before:] if isinstance(one, Reporting)]
    assert said == [False]


async def test_a_change_to_enabled_without_a_link_reaches_the_host_on_the_next(
    world: AgentWorld,
) -> None:
    host = await world.bound_host()
    await host.cut()
    await vim_sets(world, host, reporting=False)
    await vim_sets(world, host, reporting=True)
    before = len(host.received)
    await world.host(host)
    said = [one for one in host.received[before:] if isinstance(one, Reporting)]
    assert [one.enabled for one in said if one.uuid == VM] == [False, True]
    # Once: the next link repeats the state and no more.
    await host.cut()
    before = len(host.received)
    await world.host(host)
    said = [one for one in host.received[before:] if isinstance(one, Reporting)]
    assert [one.enabled for one in said if one.uuid == VM] == [True]
