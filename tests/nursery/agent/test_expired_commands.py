"""Commands that come too late, and what is learned of a command after its requester was told."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from hbtrio.nursery.agent.fleet_actions import FleetActionRefused
from hbtrio.nursery.agent.later_truths import LaterTruths
from hbtrio.nursery.agent.rounds import PATIENCE_S
from hbtrio.nursery.agent.unasked_rounds import CantAsk, OutcomeUnknown
from hbtrio.policy.begin_by import BEGIN_S, DRIFT, REPLY_S
from hbtrio.store.records import HistoryEntry
from hbtrio.store.worker import StoreFault
from hbtrio.wire.link_messages import (
    ActCommand,
    ActionProgress,
    Reply,
    RoundCommand,
)
from hbtrio.wire.vocabulary import ActionName, Event, VoteResult
from support.agent_world import AgentWorld, agent_world
from support.rounds_cases import history
from support.run_order import ORDERS, folders, in_every_order
from support.scripted_host import VM, ScriptedHost

#: How far the host's boot clock is ahead of the agent's.
AHEAD_S = 1000.0

UNKNOWN = "the outcome is unknown: compute-0 did not reply"
LATE = "expired 84.0 s ago: nothing was done"

WITHIN_S = BEGIN_S + PATIENCE_S

#: How long an agent is stopped.
STALL_S = 89.0


def host_with_clock() -> ScriptedHost:
    host = ScriptedHost()
    host.boot_clock = lambda: AHEAD_S + trio.current_time()
    return host


async def ignore(_: RoundCommand | ActCommand) -> None:
    """Reads a command and says nothing of it."""


async def act(world: AgentWorld) -> list[dict[str, object]]:
    action = await world.agent.actions.begin(VM, ActionName.REBOOT, (), force=True, who="op")
    return [
        {"step": line.step, "reason": line.reason}
        async for line in action.lines.watch()
        if line is not None
    ]


async def action_entries(world: AgentWorld) -> list[tuple[str, str]]:
    found = [record.entry for record in reversed(await world.store.history())]
    return [(one.reason, one.note) for one in found if one.kind == "action"]


# -- the moment that a command carries -----------------------------------------------------------


async def test_a_command_carries_its_moment_on_the_hosts_clock(world: AgentWorld) -> None:
    host = await world.bound_host(host=host_with_clock())
    await trio.sleep(1)
    before = trio.current_time()
    await world.ask(Event.STOP, vote=True)
    [command] = host.commands
    assert command.boot_id == host.hello.boot_id
    assert command.begin_by_s is not None
    exactly = AHEAD_S + before + WITHIN_S
    assert exactly - DRIFT * (1 + WITHIN_S) - 1e-6 <= command.begin_by_s <= exactly
    await act(world)
    [action] = host.acts
    assert (action.boot_id, action.begin_by_s) == (command.boot_id, command.begin_by_s)


async def test_a_host_that_is_too_old_gets_no_moment(world: AgentWorld) -> None:
    host = await world.bound_host()
    await world.ask(Event.STOP, vote=True)
    [command] = host.commands
    assert (command.begin_by_s, command.boot_id) == (None, "")


async def test_a_hello_that_came_late_counts_only_until_the_first_pong(world: AgentWorld) -> None:
    host = host_with_clock()
    host.boot_clock = iter([AHEAD_S - 50.0, AHEAD_S]).__next__  # its hello waited for 50 s
    await world.bound_host(host=host)
    await world.ask(Event.STOP, vote=True)
    assert host.commands[0].begin_by_s == pytest.approx(AHEAD_S + WITHIN_S * (1 - DRIFT))


async def test_a_pong_that_came_late_changes_little(
    world: AgentWorld, autojump_clock: MockClock
) -> None:
    """The agent was stopped, with a pong in its socket: its commands are as good as before."""
    host = await world.bound_host(host=host_with_clock())
    session = world.agent.fleet.sessions["compute-0"]
    await trio.sleep(1)
    session.link.peer_clock.read(AHEAD_S + trio.current_time() - 9, trio.current_time())
    await world.ask(Event.STOP, vote=True)
    begin_by_s = host.commands[0].begin_by_s
    assert begin_by_s is not None
    assert begin_by_s - AHEAD_S - trio.current_time() > BEGIN_S


# -- an agent that is stopped itself -------------------------------------------------------------


async def stop_soon(clock: MockClock) -> None:
    await trio.sleep(0.005)
    clock.jump(STALL_S)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["notice", "act"])
def test_an_agent_that_was_stopped_before_it_sent_a_command(kind: str, tmp_path: Path) -> None:
    """Its store was at work. Whoever asked has hung up, and must not find it done."""
    paths = folders(tmp_path)

    async def scenario(clock: MockClock) -> tuple[str, int]:
        async with agent_world(next(paths)) as world, trio.open_nursery() as nursery:
            host = await world.bound_host(host=host_with_clock())
            world.worker.slow_s = 0.01
            nursery.start_soon(stop_soon, clock)
            refusal = ""
            try:
                if kind == "act":
                    await act(world)
                else:
                    await world.ask(Event.STOP, vote=False)
            except (CantAsk, FleetActionRefused) as refused:
                refusal = str(refused)
            await trio.sleep(100)
            return refusal, len(host.commands) + len(host.acts)

    assert in_every_order(scenario) == [(LATE, 0)] * ORDERS


@pytest.mark.slow
def test_a_reply_that_came_while_the_agent_was_stopped(tmp_path: Path) -> None:
    """It says ``expired``, and counts, or is a note: the requester is never told twice."""
    paths = folders(tmp_path)

    async def scenario(clock: MockClock) -> tuple[int, int, int]:
        async with agent_world(next(paths)) as world:
            host = await world.bound_host(host=host_with_clock())

            async def expire(command: RoundCommand | ActCommand) -> None:
                await trio.sleep(0.5)
                clock.jump(STALL_S)
                await host.send(Reply(command.command_id, False, LATE))

            host.on_round = expire
            with pytest.raises(CantAsk) as told:
                await world.ask(Event.STOP, vote=True)
            await trio.sleep(1)
            [entry] = await history(world)
            noted = f"{UNKNOWN} [compute-0 replied later: {LATE}]"
            assert (str(told.value), entry[3]) in [(LATE, LATE), (UNKNOWN, noted)]
            return (
                len(await world.store.history()),
                len(world.vim.verdicts),
                len(world.agent.rounds),
            )

    assert in_every_order(scenario) == [(1, 0, 0)] * ORDERS


# -- what is learned later is a note -------------------------------------------------------------


@pytest.mark.parametrize("vote", [True, False])
async def test_a_host_that_expires_a_command_after_its_requester_was_told(
    vote: bool, world: AgentWorld
) -> None:
    host = await world.bound_host()
    host.on_round = ignore
    with pytest.raises(OutcomeUnknown, match=f"^{UNKNOWN}$"):
        await world.ask(Event.STOP, vote=vote)
    assert trio.current_time() == REPLY_S + PATIENCE_S
    await wait_all_tasks_blocked()
    with world.agent.history.follow() as published:
        await host.send(Reply(host.commands[0].command_id, False, LATE))
        await host.send(Reply(host.commands[0].command_id, False, "and again"))
        await host.settle()
        noted = published.receive_nowait()
        with pytest.raises(trio.WouldBlock):
            published.receive_nowait()
    kind = "vote" if vote else "notice"
    told = f"{UNKNOWN} [compute-0 replied later: {LATE}]"
    assert await history(world) == [(kind, "stop", "error", told)]
    assert (noted.reason, noted.note) == (UNKNOWN, f"compute-0 replied later: {LATE}")


async def test_an_action_that_was_carried_out_after_all(world: AgentWorld) -> None:
    host = await world.bound_host()
    host.on_act = ignore
    lines = await act(world)
    assert lines == [{"step": "lost", "reason": "compute-0 did not reply"}]
    await host.performs(host.acts[0])
    await host.settle()
    assert (await action_entries(world))[1:] == [
        (f"reboot: {UNKNOWN}", "compute-0 reported later: done")
    ]


@pytest.mark.parametrize("begun", [True, False], ids=["its lines", "its reply"])
async def test_what_is_still_read_of_a_link_that_was_replaced_finds_nobody(
    begun: bool, world: AgentWorld
) -> None:
    """Its waits have ended, and until it is cancelled its reader goes on. So it is for a note."""
    host = await world.bound_host()
    found: list[bool] = []

    async def replaced(command: ActCommand) -> None:
        if begun:
            await host.begins(command, {"step": "command", "seconds": 60})
            await host.settle()
        session, number = world.agent.fleet.sessions["compute-0"], command.command_id
        session.end()
        if begun:
            found.append(session.progressed(ActionProgress(number, "{}", last=False)))
            found.append(session.progressed(ActionProgress(number, "{}", last=True)))
        else:
            found.append(session.replied(Reply(number, False, LATE)))

    host.on_act = replaced
    gone = "the link to compute-0 is gone"
    assert (await act(world))[-1] == {"step": "lost", "reason": gone}
    assert not any(found)
    await wait_all_tasks_blocked()
    assert (await action_entries(world))[1:] == [(f"reboot: the outcome is unknown: {gone}", "")]


async def test_a_note_that_is_lost_names_its_instance(
    world: AgentWorld, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As long as its outcome is not stored; after that only the store knows it."""

    async def fails(*_: str) -> HistoryEntry | None:
        raise StoreFault("disk is full")

    monkeypatch.setattr(world.store, "note", fails)
    agent = world.agent
    later = LaterTruths(world.nursery, agent.store, agent.history, agent.rounds.ends)
    with later.action("c1", VM):
        await later.replied("compute-0", Reply("c1", False, LATE))
    await wait_all_tasks_blocked()
    await later.replied("compute-0", Reply("c1", False, LATE))
    lost = f"note on c1 lost: store: disk is full: compute-0 replied later: {LATE}"
    assert caplog.messages == [f"{VM}: {lost}", f"an instance: {lost}"]


async def test_an_action_that_expired(world: AgentWorld) -> None:
    host = await world.bound_host()
    host.on_act = ignore
    await act(world)
    await host.send(Reply(host.acts[0].command_id, False, LATE))
    await host.settle()
    assert (await action_entries(world))[1:] == [
        (f"reboot: {UNKNOWN}", f"compute-0 replied later: {LATE}")
    ]


@pytest.mark.parametrize("line", ["?", "[]", '{"step": "vote"}', "{}"])
async def test_lines_of_an_action_that_nobody_follows(line: str, world: AgentWorld) -> None:
    host = await world.bound_host()
    host.on_act = ignore
    await act(world)
    command_id = host.acts[0].command_id
    await host.send(ActionProgress(command_id, line, last=False))
    await host.send(ActionProgress(command_id, "{}", last=True))
    await host.settle()
    assert host.up
    assert [note for _, note in await action_entries(world)] == ["", ""]


async def test_another_host_can_t_note_on_a_command(world: AgentWorld) -> None:
    host = await world.bound_host()
    host.on_round = ignore
    with pytest.raises(OutcomeUnknown):
        await world.ask(Event.STOP, vote=True)
    other = await world.host(ScriptedHost("compute-1", "", "boot-9", instances=()))
    command_id = host.commands[0].command_id
    await other.send(Reply(command_id, False, "not me"))
    await other.send(ActionProgress(command_id, '{"step": "end", "outcome": "done"}', last=False))
    await other.report("vote", VM, "no", result=VoteResult.REJECT, command_id=command_id)
    await other.settle()
    entries = [record.entry for record in await world.store.history()]
    assert [one.note for one in entries if one.command_id] == [""]


async def test_a_note_that_can_t_be_stored_costs_only_the_note(world: AgentWorld) -> None:
    host = await world.bound_host()
    host.on_round = ignore
    with pytest.raises(OutcomeUnknown):
        await world.ask(Event.STOP, vote=True)
    await wait_all_tasks_blocked()
    world.worker.fault = "disk full"
    await host.send(Reply(host.commands[0].command_id, False, LATE))
    await host.settle()
    world.worker.fault = ""
    assert host.up
    assert await history(world) == [("vote", "stop", "error", UNKNOWN)]
