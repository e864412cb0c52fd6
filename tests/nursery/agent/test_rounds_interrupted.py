"""Votes and notices when the link is cut or a daemon is restarted: still one verdict each."""

from __future__ import annotations

import logging
import sqlite3
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from hbtrio.fsm.delivery import OutboxState
from hbtrio.fsm.fleet_round import ENDED_EARLY
from hbtrio.nursery.agent.unasked_rounds import CantAsk
from hbtrio.wire.link_messages import RoundCommand
from hbtrio.wire.vim_result import NotSent
from hbtrio.wire.vocabulary import Event, VoteResult
from support.agent_world import AgentWorld, agent_world
from support.inline_store import EPOCH
from support.rounds_cases import AGREES_S, ENDS_S, STOP_NOTICE_S, VOTE_S, agrees_s, history
from support.scripted_host import VM, ScriptedHost

pytestmark = pytest.mark.usefixtures("autojump_clock")

DOWN = NotSent("connection refused")


# -- the link is cut at every step ---------------------------------------------------------------


@pytest.mark.parametrize("vote", [True, False])
@pytest.mark.parametrize(
    "step", ["before the reply", "after the reply", "after the outcome", "after it is acknowledged"]
)
async def test_the_link_is_cut(step: str, vote: bool, world: AgentWorld) -> None:
    host = await world.bound_host()
    seen: list[RoundCommand] = []

    async def on_round(command: RoundCommand) -> None:
        seen.append(command)
        if step == "before the reply":
            await host.cut()
            # The round was opened all the same; this outcome is kept for the next link.
        await host.opens(command)
        if step == "after the reply":
            await host.cut()
        await host.outcome(command, VoteResult.REJECT, "no")
        if step == "after the outcome":
            await host.cut()

    host.on_round = on_round
    if step == "before the reply":
        with pytest.raises(CantAsk, match="the link to compute-0 is gone"):
            await world.ask(Event.STOP, vote=vote)
    else:
        await world.ask(Event.STOP, vote=vote)
    await wait_all_tasks_blocked()
    if step == "after it is acknowledged":
        await host.until(lambda: host.waiting == {})
        await host.cut()
    await trio.sleep(2)
    await host.dial(world.agent.links, world.nursery)
    await trio.sleep(100)
    if step == "before the reply":
        assert world.vim.verdicts == []
    else:
        response = "reject" if vote else "proceed"
        [(_, *verdict)] = world.vim.verdicts
        assert verdict == ["stop", response, "no"]
    assert host.waiting == {}
    assert len(seen) == 1
    kept = [one[3] for one in await history(world)]
    unknown = "the outcome is unknown: the link to compute-0 is gone"
    noted = f"{unknown} [compute-0 reported later: reject: no]"
    assert kept == [noted if step == "before the reply" else "no"]


async def test_the_link_stays_cut(world: AgentWorld) -> None:
    host = await world.bound_host()
    host.silent()
    await world.ask(Event.STOP, vote=True)
    await host.cut()
    await host.outcome(host.commands[0], VoteResult.REJECT, "too late")
    await world.at(20)
    assert world.vim.verdicts == [(AGREES_S, "stop", "allow", f"no answer within {VOTE_S} s")]
    await host.dial(world.agent.links, world.nursery)
    await trio.sleep(100)
    assert len(world.vim.verdicts) == 1
    assert host.waiting == {}


async def test_a_link_that_is_cut_while_the_outcome_is_being_kept(world: AgentWorld) -> None:
    """Whoever the report was taken by is gone; the verdict is sent at once all the same."""
    host = await world.bound_host()
    host.silent()
    asked = await world.ask(Event.STOP, vote=True)
    await wait_all_tasks_blocked()
    session = world.agent.fleet.sessions["compute-0"]
    real = world.worker.run

    async def run_and_cut(work):  # type: ignore[no-untyped-def]
        world.worker.run = real  # type: ignore[method-assign]
        session.scope.cancel()
        with trio.CancelScope(shield=True):
            result = await real(work)
        await trio.lowlevel.checkpoint()  # cancelled: the store has it, nobody hears of it
        return result

    world.worker.run = run_and_cut  # type: ignore[method-assign]
    await trio.sleep(1)
    await host.outcome(host.commands[0], VoteResult.REJECT, "no")
    await trio.sleep(0.001)
    assert world.vim.verdicts == [(1.0, "stop", "reject", "no")]
    await host.dial(world.agent.links, world.nursery)
    await trio.sleep(100)
    assert len(world.vim.verdicts) == 1
    # Whoever waits for its end is told that one, too.
    assert asked.outcome is not None
    ended = await asked.outcome.wait()
    assert (ended.result, ended.reason) == (VoteResult.REJECT, "no")
    assert len(world.agent.rounds) == 0


# -- restarts ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("vote", "response"), [(True, "allow"), (False, "proceed")])
async def test_the_host_is_restarted(vote: bool, response: str, world: AgentWorld) -> None:
    host = await world.bound_host()
    host.silent()
    await world.ask(Event.STOP, vote=vote)
    await host.cut()
    await world.at(3)
    assert world.vim.verdicts == []
    await world.host(ScriptedHost(boot_id="boot-2"))
    assert world.vim.verdicts == [(3.0, "stop", response, "the host daemon was restarted")]
    await trio.sleep(100)
    assert len(world.vim.verdicts) == 1


async def test_another_host_is_restarted(world: AgentWorld) -> None:
    host = await world.bound_host()
    host.silent()
    await world.ask(Event.STOP, vote=True)
    for boot in ("a", "b"):
        other = ScriptedHost("compute-1", "", boot, ())
        await world.host(other)
        await other.cut()
    await host.outcome(host.commands[0], VoteResult.REJECT, "no")
    await trio.sleep(100)
    assert world.vim.verdicts == [(0.0, "stop", "reject", "no")]


@pytest.mark.parametrize("vote", [True, False])
@pytest.mark.parametrize("step", ["before", "while down", "never"])
async def test_the_agent_is_restarted(tmp_path: Path, step: str, vote: bool) -> None:
    """The outcome comes before the agent ends, while it is away, or not at all."""
    host = ScriptedHost()
    host.silent()
    async with agent_world(tmp_path) as world:
        await world.bound_host(host=host)
        world.vim.next = [NotSent("connection refused")] * 2
        await world.ask(Event.STOP, vote=vote)
        if step == "before":
            await host.outcome(host.commands[0], VoteResult.REJECT, "no")
            await host.until(lambda: host.waiting == {})
        assert world.vim.verdicts == []
    host.up = False
    if step == "while down":
        await host.outcome(host.commands[0], VoteResult.REJECT, "no")
    await trio.sleep_until(2)
    async with agent_world(tmp_path, number=1) as world:
        await host.dial(world.agent.links, world.nursery)
        await trio.sleep(100)
        window_s = VOTE_S if vote else STOP_NOTICE_S
        if step == "never":
            response = "allow" if vote else "proceed"
            reason = f"no answer within {window_s} s"
            assert world.vim.verdicts == [(agrees_s(window_s), "stop", response, reason)]
        else:
            response = "reject" if vote else "proceed"
            assert world.vim.verdicts == [(2.0, "stop", response, "no")]
        assert host.waiting == {}


@pytest.mark.parametrize(("vote", "response"), [(True, "allow"), (False, "proceed")])
async def test_the_agent_and_the_host_are_restarted(
    tmp_path: Path, vote: bool, response: str
) -> None:
    """The host that comes is not the process that was asked: nobody is going to answer."""
    host = ScriptedHost()
    host.silent()
    async with agent_world(tmp_path) as world:
        await world.bound_host(host=host)
        await world.ask(Event.STOP, vote=vote)
    await trio.sleep_until(2)
    async with agent_world(tmp_path, number=1) as world:
        assert world.vim.verdicts == []
        await world.host(ScriptedHost(boot_id="boot-2"))
        assert world.vim.verdicts == [(2.0, "stop", response, "the host daemon was restarted")]
        await trio.sleep(100)
        assert len(world.vim.verdicts) == 1


@pytest.mark.parametrize(("back_s", "verdicts"), [(1.5, 1), (2.5, 0), (300, 0)])
async def test_the_clock_is_set_back_while_the_agent_is_down(
    tmp_path: Path,
    back_s: float,
    verdicts: int,
) -> None:
    """However old it is by that clock: no verdict later than the VIM may still want it."""
    host = ScriptedHost()
    host.silent()
    async with agent_world(tmp_path) as world:
        await world.bound_host(host=host)
        await world.ask(Event.STOP, vote=True)
    await trio.sleep_until(2)

    with closing(sqlite3.connect(tmp_path / "agent.db")) as db, db:
        db.execute("UPDATE rounds SET asked_at = asked_at + ?", (back_s,))
    async with agent_world(tmp_path, number=1) as world:
        await world.at(AGREES_S + 0.25 + back_s)
        reason = f"no answer within {VOTE_S} s"
        answered_at = AGREES_S + back_s
        assert world.vim.verdicts == [(answered_at, "stop", "allow", reason)][:verdicts]
        # Its host's word does not bring it back.
        await host.outcome(host.commands[0], VoteResult.REJECT, "no")
        await host.dial(world.agent.links, world.nursery)
        await trio.sleep(1000)
        assert len(world.vim.verdicts) == verdicts
        if not verdicts:
            why = "the clock was set back: the VIM may no longer wait"
            told = f"{why} [compute-0 reported later: reject: no]"
            assert await history(world) == [("vote", "stop", "error", told)]


@pytest.mark.parametrize("back_s", [-7200, 7200])
@pytest.mark.parametrize("is_queued", [True, False])
async def test_the_clock_is_set_after_the_agent_was_restarted(
    tmp_path: Path, is_queued: bool, back_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the earlier agent left, an open vote or its verdict, lapses by the new one's clock."""
    host = ScriptedHost()
    host.silent()
    async with agent_world(tmp_path, vim_next=[DOWN] * 100) as world:
        await world.bound_host(host=host)
        await world.ask(Event.STOP, vote=True)
        if is_queued:
            await host.outcome(host.commands[0], VoteResult.REJECT, "no")
            await host.until(lambda: host.waiting == {})
    await trio.sleep_until(2)
    async with agent_world(tmp_path, number=1, vim_next=[DOWN] * 100) as world:
        await host.dial(world.agent.links, world.nursery)
        await trio.sleep(0.5)
        monkeypatch.setattr("support.inline_store.EPOCH", EPOCH - timedelta(seconds=back_s))
        if not is_queued:
            await host.outcome(host.commands[0], VoteResult.REJECT, "no")
        for at_s, state in ((ENDS_S - 0.1, "queued"), (ENDS_S + 0.1, "undelivered")):
            await world.at(at_s)
            outbox = await world.store.outbox()
            assert [entry.state for entry in outbox if entry.command_id] == [state]
        world.vim.next = []
        await trio.sleep(1000)
        assert world.vim.verdicts == []


async def test_the_agent_is_restarted_before_it_has_replied(tmp_path: Path) -> None:
    """Nobody can know whether the VIM has the reply: a verdict might answer another step."""
    host = ScriptedHost()
    host.silent()
    async with agent_world(tmp_path) as world:
        await world.bound_host(host=host)
        await world.agent.rounds.ask(VM, Event.STOP, vote=True, who="vim")
    await host.outcome(host.commands[0], VoteResult.REJECT, "no")
    async with agent_world(tmp_path, number=1) as world:
        await host.dial(world.agent.links, world.nursery)
        await trio.sleep(100)
        assert world.vim.verdicts == []
        assert await history(world) == [
            (
                "vote",
                "stop",
                "error",
                "the agent was restarted before its reply [compute-0 reported later: reject: no]",
            ),
        ]


async def test_the_agent_ends_while_it_waits_for_the_hosts_reply(tmp_path: Path) -> None:
    async with agent_world(tmp_path) as world:
        host = await world.bound_host()

        async def never(_: RoundCommand) -> None:
            await trio.sleep_forever()

        host.on_round = never

        async def ask() -> None:
            await world.agent.rounds.ask(VM, Event.STOP, vote=True, who="vim")

        world.nursery.start_soon(ask)
        await world.at(0.5)
        assert len(host.commands) == 1
    async with agent_world(tmp_path, number=1) as world:
        await world.at(100)
        assert world.vim.verdicts == []
        assert await history(world) == [("vote", "stop", "error", ENDED_EARLY)]


@pytest.mark.parametrize("vote", [True, False])
@pytest.mark.parametrize("stored", [True, False])
async def test_a_request_that_ends_before_the_hosts_reply_leaves_nothing_open(
    vote: bool, stored: bool, world: AgentWorld
) -> None:
    """The host never reports anything; and the next request is not refused because of that."""
    host = await world.bound_host()

    async def never(_: RoundCommand) -> None:
        await trio.sleep_forever()

    host.on_round = never
    world.worker.slow_s = 0.0 if stored else 1.0
    with trio.move_on_after(0.5):
        await world.agent.rounds.ask(VM, Event.STOP, vote=vote, who="vim")
    world.worker.slow_s = 0.0
    await world.settle()
    assert len(world.agent.rounds) == 0
    await world.at(5)
    assert await world.store.open_rounds() == ()
    kind = "vote" if vote else "notice"
    assert await history(world) == [(kind, "stop", "error", ENDED_EARLY)]
    host.answering(VoteResult.REJECT if vote else VoteResult.COMPLETE, "no")
    asked = await world.ask(Event.STOP, vote=vote)
    assert asked.seconds
    await world.at(10)
    assert [verdict[1:3] for verdict in world.vim.verdicts] == [
        ("stop", "reject" if vote else "proceed")
    ]


async def test_a_verdict_whose_window_was_over_when_the_agent_came_back(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "hbtrio.vim")
    host = ScriptedHost()
    async with agent_world(tmp_path) as world:
        world.vim.next = [NotSent("connection refused")] * 10
        await world.bound_host(host=host)
        host.answering(VoteResult.REJECT, "no")
        await world.ask(Event.STOP, vote=True)
        await wait_all_tasks_blocked()
    await trio.sleep(ENDS_S + 1)
    async with agent_world(tmp_path, number=1) as world:
        await trio.sleep(100)
        assert world.vim.verdicts == []
        assert await history(world) == [
            ("vote", "stop", "reject", "no"),
            (
                "undelivered",
                "stop",
                "reject",
                "action: its window was over before it could be sent",
            ),
        ]
        [entry] = [one for one in await world.store.outbox() if one.kind == "action"]
        assert entry.state is OutboxState.UNDELIVERED
    assert "not delivered: action: its window was over before it could be sent" in caplog.text
