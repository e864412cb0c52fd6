"""Groups at an agent, across its hosts: rejected before a host is asked."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from hbtrio.api.fleet_metrics import agent_metrics
from hbtrio.config.groups import GroupSettings
from hbtrio.fsm.heartbeat.outage import CALL_OFF_S
from hbtrio.fsm.ownership import NEXT_STEP_S
from hbtrio.wire.vocabulary import ActionName, Event, Health, VoteResult
from support.agent_world import AgentWorld, agent_world
from support.lines import members
from support.scripted_host import INSTANCE, OTHER_HOST_UUID, OTHER_VM, VM, ScriptedHost

pytestmark = pytest.mark.usefixtures("autojump_clock")

GROUPS = {"db": GroupSettings(members=("db-*",), max_unavailable=1)}

DB_1 = attrs.evolve(INSTANCE, domain="db-1")
DB_2 = attrs.evolve(INSTANCE, uuid=OTHER_VM, domain="db-2")


def blocked(state: str) -> str:
    return f"group db: db-1 {state}, at most 1 of 2 may be unavailable"


@pytest.fixture
async def world(tmp_path: Path, autojump_clock: MockClock) -> AsyncIterator[AgentWorld]:
    async with agent_world(tmp_path, groups=GROUPS) as world:
        yield world


async def two_hosts(world: AgentWorld) -> tuple[ScriptedHost, ScriptedHost]:
    """Two hosts with a member each."""
    first = await world.bound_host(host=ScriptedHost(instances=(DB_1,)))
    second = ScriptedHost("compute-1", OTHER_HOST_UUID, instances=(DB_2,))
    return first, await world.bound_host(host=second)


def refusal(world: AgentWorld, uuid: str = OTHER_VM) -> str:
    """Why an instance must not be stopped now."""
    groups = world.agent.groups
    assert groups.rule is not None  # looks at the fleet
    return groups.refusal(uuid, Event.STOP)


async def test_a_vote_that_would_break_the_rule_is_rejected_before_the_host_is_asked(
    world: AgentWorld,
) -> None:
    first, second = await two_hosts(world)
    await world.ask(Event.REBOOT, vote=True)
    await wait_all_tasks_blocked()
    asked = await world.ask(Event.STOP, vote=True, uuid=OTHER_VM)
    await wait_all_tasks_blocked()
    assert [command.event for command in first.commands] == [Event.REBOOT]
    assert second.commands == []
    assert asked.outcome is not None
    outcome = await asked.outcome.wait()
    assert (outcome.result, outcome.reason) == (VoteResult.REJECT, blocked("is restarting"))
    assert world.vim.verdicts == [
        (0.0, "reboot", "allow", "fine"),
        (0.0, "stop", "reject", blocked("is restarting")),
    ]
    history = await world.store.history(1)
    assert (history[0].entry.result, history[0].entry.reason) == ("reject", outcome.reason)


async def test_of_two_votes_at_one_moment_one_passes(world: AgentWorld) -> None:
    await two_hosts(world)
    async with trio.open_nursery() as nursery:
        for uuid in (VM, OTHER_VM):
            nursery.start_soon(lambda uuid=uuid: world.ask(Event.STOP, vote=True, uuid=uuid))
    await wait_all_tasks_blocked()
    assert sorted(response for _, _, response, _ in world.vim.verdicts) == ["allow", "reject"]


async def test_a_vote_that_the_guest_rejects_gives_its_place_back(world: AgentWorld) -> None:
    first, _ = await two_hosts(world)
    first.answering(VoteResult.REJECT, "no")
    await world.ask(Event.STOP, vote=True)
    await wait_all_tasks_blocked()
    assert refusal(world) == ""


async def test_an_operators_vote_takes_no_place(world: AgentWorld) -> None:
    await two_hosts(world)
    await world.agent.rounds.ask(VM, Event.STOP, vote=True, who="operator")
    await wait_all_tasks_blocked()
    assert refusal(world) == ""


async def test_the_place_lapses_without_the_next_step(world: AgentWorld) -> None:
    await two_hosts(world)
    await world.ask(Event.STOP, vote=True)
    await trio.sleep(NEXT_STEP_S - 0.1)
    assert refusal(world) == blocked("is stopping")
    await trio.sleep(0.2)
    assert refusal(world) == ""


async def test_a_notice_takes_the_place_until_its_end_notice_or_its_call_off(
    world: AgentWorld,
) -> None:
    await two_hosts(world)
    await world.ask(Event.PAUSE, vote=False)
    await trio.sleep(CALL_OFF_S - 0.1)
    assert refusal(world) == blocked("is being paused")
    await trio.sleep(0.2)
    assert refusal(world) == ""
    await world.ask(Event.PAUSE, vote=False)
    await trio.sleep(20)
    assert refusal(world) == blocked("is being paused")
    await world.ask(Event.UNPAUSE, vote=False)
    await wait_all_tasks_blocked()
    assert refusal(world) == ""


async def test_one_that_has_restarted_and_is_back_gives_its_place_back(world: AgentWorld) -> None:
    first, _ = await two_hosts(world)
    await world.ask(Event.REBOOT, vote=False)
    await trio.sleep(20)
    await first.send_instance(state="restarting", heartbeating=False)
    await wait_all_tasks_blocked()
    assert refusal(world) == blocked("is restarting")
    await first.send_instance(state="heartbeating", heartbeating=True)
    await wait_all_tasks_blocked()
    assert refusal(world) == ""


@pytest.mark.parametrize(
    ("change", "state"),
    [
        ({"state": "lost", "heartbeating": False}, "is lost"),
        ({"state": "stopped", "heartbeating": False}, "is stopped"),
        ({"health": Health.UNHEALTHY}, "is ill"),
    ],
)
async def test_a_member_that_is_not_well_is_unavailable(
    world: AgentWorld, change: dict[str, Any], state: str
) -> None:
    first, _ = await two_hosts(world)
    await first.send_instance(**change)
    await wait_all_tasks_blocked()
    assert refusal(world) == blocked(state)
    assert refusal(world, VM) == ""


async def test_a_member_on_a_host_without_a_link_is_unavailable(world: AgentWorld) -> None:
    first, _ = await two_hosts(world)
    assert refusal(world) == ""
    await first.cut()
    await wait_all_tasks_blocked()
    assert refusal(world) == blocked("is not reported by compute-0")


async def test_one_that_the_vim_has_deleted_is_no_member(world: AgentWorld) -> None:
    first, _ = await two_hosts(world)
    await first.send_instance(state="stopped", heartbeating=False)
    await wait_all_tasks_blocked()
    assert refusal(world) != ""
    await world.agent.inventory.delete_instance(VM)
    assert refusal(world) == ""


async def test_after_a_restart_names_are_awaited(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with agent_world(tmp_path, groups=GROUPS) as world:
        await two_hosts(world)
    async with agent_world(tmp_path, groups=GROUPS, number=1) as world:
        why = "the agent has just started, and waits for the instances of compute-0, compute-1"
        assert refusal(world) == f"groups: {why}"
        await two_hosts(world)
        assert refusal(world) == ""


async def test_an_action_is_rejected_before_the_host_is_asked(world: AgentWorld) -> None:
    _, second = await two_hosts(world)
    world.agent.groups.hold(VM, Event.STOP, "test")

    async def act(**options: bool) -> list[dict[str, Any]]:
        action = await world.agent.actions.begin(
            OTHER_VM, ActionName.STOP, (), force=True, who="operator", **options
        )
        return [members(line) async for line in action.lines.watch() if line is not None]

    reason = blocked("is stopping")
    assert await act() == [
        {"step": "group", "result": "reject", "reason": reason},
        {"step": "end", "outcome": "rejected", "reason": reason},
    ]
    assert second.acts == []
    history = await world.store.history(2)
    assert [one.entry.reason for one in reversed(history)] == [
        "stop: asked",
        f"stop: rejected: {reason}",
    ]
    assert (await act(ignore_group=True))[-1]["outcome"] == "done"
    assert [command.ignore_group for command in second.acts] == [True]
    # It has given its place back.
    assert world.agent.groups.rule.going_down == {VM}


async def test_groups_are_counted_in_metrics(world: AgentWorld) -> None:
    first, _ = await two_hosts(world)
    await first.send_instance(state="lost", heartbeating=False)
    await wait_all_tasks_blocked()
    lines = agent_metrics(world.agent, trio.current_time()).decode().splitlines()
    assert [line for line in lines if line.startswith("hbtrio_agent_group_")] == [
        'hbtrio_agent_group_members{group="db"} 2.0',
        'hbtrio_agent_group_available{group="db"} 1.0',
        'hbtrio_agent_group_max_unavailable{group="db"} 1.0',
    ]
