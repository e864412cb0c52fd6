"""Ill health that the VIM has not been told of when it is about to act, on the fake clock."""

from __future__ import annotations

import pytest
from trio.testing import wait_all_tasks_blocked

from hbtrio.store.outbox import ACTED_ON
from hbtrio.store.records import InstanceRecord
from hbtrio.wire.vim_result import MissingAnswer, NotSent, SendResult, Unconfirmed
from hbtrio.wire.vocabulary import CorrectiveAction, Event, Health, VoteResult
from support.agent_world import AgentWorld
from support.failing_host import FailingHost, alarmed, names
from support.scripted_host import HOSTNAME, VM, ScriptedHost

pytestmark = pytest.mark.usefixtures("autojump_clock")

STALLED = Unconfirmed(MissingAnswer.STALLED)
DOWN = NotSent("connection refused")


async def falls_ill(host: ScriptedHost, uuid: str = VM) -> None:
    await host.send_instance(uuid, health=Health.UNHEALTHY)
    await host.report("unhealthy", uuid, "load", corrective_action=CorrectiveAction.REBOOT)
    await wait_all_tasks_blocked()


async def undelivered(world: AgentWorld) -> list[str]:
    found = await world.store.history()
    return [one.entry.reason for one in found if one.entry.kind == "undelivered"]


@pytest.fixture
async def host(world: AgentWorld) -> ScriptedHost:
    """Its instance is heartbeating and agrees to all."""
    host = await world.bound_host()
    await world.at(10)
    world.vim.got.clear()
    return host


@pytest.mark.parametrize("fault", [STALLED, DOWN])
async def test_what_failed_to_be_sent_is_withdrawn(
    world: AgentWorld, host: ScriptedHost, fault: SendResult
) -> None:
    world.vim.next.append(fault)
    await falls_ill(host)
    host.answering(VoteResult.COMPLETE)
    await world.ask(Event.PAUSE, vote=False)
    await world.at(100)
    assert [response for *_, response, _ in world.vim.verdicts] == ["proceed"]
    assert alarmed(world) == []
    assert await undelivered(world) == [f"alarm: {ACTED_ON}"]


async def test_what_is_held_back_is_withdrawn(world: AgentWorld) -> None:
    """With several instances an alarm waits for an interval, which is longer than a notice."""
    host = await world.bound_host(host=FailingHost(4))
    ill, other = names(2)
    await world.at(10)
    for uuid in (ill, other):
        await falls_ill(host, uuid)
    host.answering(VoteResult.COMPLETE)
    await world.ask(Event.STOP, vote=False, uuid=ill)
    await world.at(100)
    assert alarmed(world) == [(11.0, other)]
    assert await undelivered(world) == [f"alarm: {ACTED_ON}"]


async def test_ill_health_that_lasts_is_sent_after_the_event(
    world: AgentWorld, host: ScriptedHost
) -> None:
    world.vim.next.append(STALLED)
    await falls_ill(host)
    host.answering(VoteResult.COMPLETE)
    await world.ask(Event.PAUSE, vote=False)
    await world.at(20)
    for reporting in (False, True):
        await world.agent.inventory.put_instance(InstanceRecord(VM, HOSTNAME, reporting))
    await world.at(80)
    await falls_ill(host)
    assert alarmed(world) == [(80.0, VM)]


@pytest.mark.parametrize(
    ("event", "vote", "result"),
    [
        (Event.PAUSE, True, VoteResult.ACCEPT),
        (Event.PAUSE, True, VoteResult.REJECT),
        (Event.UNPAUSE, False, VoteResult.COMPLETE),
    ],
    ids=["a vote alone", "a reject", "an end notice"],
)
async def test_other_verdicts_withdraw_nothing(
    world: AgentWorld, host: ScriptedHost, event: Event, vote: bool, result: VoteResult
) -> None:
    world.vim.next.append(STALLED)
    await falls_ill(host)
    host.answering(result)
    await world.ask(event, vote=vote)
    await world.at(100)
    assert len(world.vim.verdicts) == 1
    assert [uuid for _, uuid in alarmed(world)] == [VM]
    assert await undelivered(world) == []


async def test_a_loss_and_the_ill_health_of_others_are_not_withdrawn(world: AgentWorld) -> None:
    one, other, *_ = names(3)
    host = await world.bound_host(host=FailingHost(2))
    await world.at(10)
    world.vim.next += [STALLED, STALLED]
    await host.report_lost(one)
    await falls_ill(host, other)
    host.answering(VoteResult.COMPLETE)
    await world.ask(Event.PAUSE, vote=False, uuid=one)
    await world.at(100)
    assert sorted(uuid for _, uuid in alarmed(world)) == [one, other]
    assert await undelivered(world) == []
