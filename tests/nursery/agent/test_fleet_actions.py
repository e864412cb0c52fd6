"""Actions through the agent: what is kept of each, whatever becomes of it, and who asked for it."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from hbtrio.nursery.agent.action_history import ActionHistory
from hbtrio.nursery.agent.fleet_actions import AgentActions, FleetAction, FleetActionRefused
from hbtrio.nursery.agent.later_truths import LaterTruths
from hbtrio.nursery.agent.unasked_rounds import CantAsk
from hbtrio.policy.begin_by import REPLY_S
from hbtrio.wire.link_messages import ActCommand, RoundCommand
from hbtrio.wire.vocabulary import ActionName, Event
from support.agent_world import AgentWorld, agent_world
from support.inline_store import wall_clock
from support.lines import members
from support.scripted_host import VM, ScriptedHost

pytestmark = pytest.mark.usefixtures("autojump_clock")

ALICE = "operator CN=alice"
GONE = "the link to compute-0 is gone"
UNKNOWN = "reboot: the outcome is unknown: "


def actions_of(world: AgentWorld) -> AgentActions:
    """What operators have the agent's hosts do."""
    ids = itertools.count(1)
    agent = world.agent
    return AgentActions(
        world.nursery,
        agent.fleet,
        ActionHistory(agent.store, agent.history, wall_clock),
        LaterTruths(world.nursery, agent.store, agent.history, agent.rounds),
        agent.groups,
        agent.holds,
        new_command_id=lambda: f"act-{next(ids)}",
    )


async def reboot(actions: AgentActions, *command: str, force: bool = False) -> FleetAction:
    return await actions.begin(VM, ActionName.REBOOT, command, force=force, who=ALICE)


async def lines_of(action: FleetAction) -> list[dict[str, Any]]:
    """All that a watcher is told."""
    return [members(line) async for line in action.lines.watch()]


async def kept(world: AgentWorld) -> list[str]:
    """What was recorded of actions, the oldest first."""
    found = [record.entry for record in reversed(await world.store.history())]
    assert {(one.uuid, one.hostname, one.who) for one in found if one.kind == "action"} <= {
        (VM, "compute-0", ALICE)
    }
    return [one.reason for one in found if one.kind == "action"]


@pytest.mark.parametrize("cuts", [False, True], ids=["it is silent", "its link is cut"])
async def test_a_host_that_acts_and_does_not_answer_is_no_consent(
    world: AgentWorld, cuts: bool
) -> None:
    """The instance does not heartbeat, perhaps because of the action: the VIM must not act, too."""
    host = await world.bound_host()
    await host.send_instance(heartbeating=False)
    await host.settle()
    progress: list[ActCommand] = []

    async def begins(command: ActCommand) -> None:
        progress.append(command)
        await host.begins(command, {"step": "command", "argv": ["virsh"], "seconds": 60})

    async def ignore(_: RoundCommand) -> None:
        if cuts:
            await host.cut()

    host.on_act, host.on_round = begins, ignore
    action = await reboot(actions_of(world))
    with pytest.raises(CantAsk, match=r"^the outcome is unknown: "):
        await world.ask(Event.STOP, vote=True)
    # What it is told changes no owner; and what is over is nobody's.
    if not cuts:
        assert (await world.ask(Event.STOP, vote=False)).seconds == 0
        await host.ends(progress[0])
        await lines_of(action)
        assert (await world.ask(Event.STOP, vote=True)).seconds == 0
    assert world.vim.verdicts == []


async def test_it_is_on_record_before_the_host_hears_of_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "hbtrio.agent")
    async with agent_world(tmp_path) as world:
        host = await world.bound_host()
        actions = actions_of(world)
        before: list[str] = []

        async def performs(command: ActCommand) -> None:
            before.extend(await kept(world))
            await host.performs(command)

        host.on_act = performs
        with world.agent.history.follow() as news:
            action = await reboot(actions)
            assert [line and line["step"] for line in await lines_of(action)][-1] == "end"
            await wait_all_tasks_blocked()
            told = [news.receive_nowait().reason for _ in range(2)]
        assert before == ["reboot: asked"]
        assert await kept(world) == told == ["reboot: asked", "reboot: done"]
        assert actions.in_progress == {}
    assert [one.getMessage() for one in caplog.records if ALICE in one.getMessage()] == [
        f"{VM}: action {what} by {ALICE}" for what in told
    ]


@pytest.mark.parametrize(
    ("command", "force", "asked"),
    [
        ((), True, "reboot: asked, without its vote"),
        (("virsh", "--secret", "s3cr3t"), False, "reboot: asked, with virsh"),
        (("a\nb\u202e" + "c" * 200,), False, r"reboot: asked, with a\nb\u202e" + "c" * 90),
    ],
)
async def test_what_was_asked_for(
    command: tuple[str, ...], force: bool, asked: str, world: AgentWorld
) -> None:
    """A command's arguments are nobody else's business."""
    await world.bound_host()
    await lines_of(await reboot(actions_of(world), *command, force=force))
    await wait_all_tasks_blocked()
    assert await kept(world) == [asked, "reboot: done"]


async def cut_before_the_reply(host: ScriptedHost, _: ActCommand) -> None:
    await host.cut()


async def cut_before_the_first_line(host: ScriptedHost, command: ActCommand) -> None:
    await host.begins(command)
    await host.cut()


async def cut_later(host: ScriptedHost, command: ActCommand) -> None:
    await host.begins(command, {"step": "vote"})
    await host.cut()


async def end_without_an_outcome(host: ScriptedHost, command: ActCommand) -> None:
    await host.begins(command, {"step": "vote"})
    await host.ends(command)


async def end_without_a_line(host: ScriptedHost, command: ActCommand) -> None:
    await host.begins(command)
    await host.ends(command)


async def say_nothing(host: ScriptedHost, _: ActCommand) -> None:
    await host.settle()


NO_OUTCOME = "the host ended it without an outcome"
VOTE = [{"step": "vote"}]


@pytest.mark.parametrize(
    ("strike", "lines", "why", "after_s"),
    [
        (cut_before_the_reply, [], GONE, 0),
        (cut_before_the_first_line, [], GONE, 0),
        (cut_later, VOTE, GONE, 0),
        (end_without_an_outcome, VOTE, NO_OUTCOME, 0),
        (end_without_a_line, [], NO_OUTCOME, 0),
        (say_nothing, [], "compute-0 did not reply", REPLY_S + 1),
    ],
)
async def test_nobody_knows_the_outcome(
    strike: Callable[[ScriptedHost, ActCommand], Awaitable[None]],
    lines: list[dict[str, Any]],
    why: str,
    after_s: float,
    world: AgentWorld,
) -> None:
    """It may well be performed: neither is it refused, nor does its record end with its asking."""
    host = await world.bound_host()
    actions = actions_of(world)
    host.on_act = lambda command: strike(host, command)
    action = await reboot(actions)
    assert await lines_of(action) == [*lines, {"step": "lost", "reason": why}]
    await wait_all_tasks_blocked()
    assert trio.current_time() == after_s
    assert await kept(world) == ["reboot: asked", UNKNOWN + why]
    assert actions.in_progress == {}


async def test_a_host_that_refuses(world: AgentWorld) -> None:
    host = await world.bound_host()
    actions = actions_of(world)
    host.refusing("no command for reboot")
    with pytest.raises(FleetActionRefused, match="no command for reboot"):
        await reboot(actions)
    assert await kept(world) == ["reboot: asked", "reboot: refused: no command for reboot"]
    assert actions.in_progress == {}


async def test_a_command_that_is_too_long_for_the_link(world: AgentWorld) -> None:
    host = await world.bound_host()
    actions = actions_of(world)
    with pytest.raises(FleetActionRefused, match="is longer than"):
        await reboot(actions, "virsh", *["x" * 4096] * 60)
    assert host.acts == []
    [asked, refused] = await kept(world)
    assert asked == "reboot: asked, with virsh"
    assert refused.startswith("reboot: refused: ")


async def test_what_the_agent_refuses(monkeypatch: pytest.MonkeyPatch, world: AgentWorld) -> None:
    monkeypatch.setattr("hbtrio.nursery.agent.fleet_actions._ACTIONS", 0)
    host = await world.bound_host()
    actions = actions_of(world)
    with pytest.raises(
        FleetActionRefused, match="0 actions are in progress in this fleet, the maximum"
    ):
        await reboot(actions)
    await host.cut()
    await wait_all_tasks_blocked()
    with pytest.raises(FleetActionRefused, match="compute-0 has no link to this agent"):
        await reboot(actions)
    assert await kept(world) == [
        "reboot: refused: 0 actions are in progress in this fleet, the maximum",
        "reboot: refused: compute-0 has no link to this agent",
    ]


async def test_a_store_that_fails_holds_no_action_up(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "hbtrio.agent")
    async with agent_world(tmp_path) as world:
        host = await world.bound_host()
        actions = actions_of(world)
        world.worker.fault = "disk full"
        await lines_of(await reboot(actions))
        await wait_all_tasks_blocked()
        assert len(host.acts) == 1
    for what in ("asked", "done"):
        assert f"{VM}: action reboot: {what} by {ALICE}" in caplog.text
        assert f"store: disk full: history entry lost: {VM} reboot: {what}" in caplog.text
