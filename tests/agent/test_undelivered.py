"""What the VIM never heard of is what an operator hears of: in the history and in the events."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from hbtrio.nursery.store_outbox import ALARMS_PER_INSTANCE
from hbtrio.nursery.store_records import HistoryEntry, OutboxState
from hbtrio.nursery.vim_client import NotSent, Refused
from hbtrio.wire.vocabulary import CorrectiveAction, Event, VoteResult
from support.agent_world import MemoryAgent, memory_agent
from support.inline_store import EPOCH
from support.scripted_host import HOSTNAME, INSTANCE, VM

DOWN = NotSent("connection refused")


async def given_up(world: MemoryAgent) -> list[HistoryEntry]:
    """What was published of it, the oldest first, which is what the history keeps of it."""
    published = [one for one in world.agent.history.recent if one.kind == "undelivered"]
    kept = [one.entry for one in await world.store.history() if one.entry.kind == "undelivered"]
    assert published == kept[::-1]
    assert world.agent.sender is not None
    assert world.agent.sender.status.undelivered == len(published)
    return published


async def test_a_verdict_that_is_too_late(
    autojump_clock: MockClock, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "hbtrio.vim")
    async with memory_agent(tmp_path) as world:
        host = await world.known()
        host.answering(VoteResult.REJECT, "no")
        await wait_all_tasks_blocked()
        world.vim.next = [DOWN] * 100
        asked = await world.ask(Event.STOP, vote=True)
        with world.agent.history.follow() as events, trio.fail_after(100):
            await trio.sleep(INSTANCE.vote_s - 0.001)
            assert (await events.receive()).kind == "vote"
            assert await given_up(world) == []
            # It is told at the moment in which it is of no use any more.
            told = await events.receive()
            assert trio.current_time() == INSTANCE.vote_s
        assert told.time == EPOCH.replace(second=INSTANCE.vote_s)
        assert told == HistoryEntry(
            time=told.time,
            kind="undelivered",
            uuid=VM,
            hostname=HOSTNAME,
            reason="action: its window was over before it could be sent",
            event=Event.STOP,
            result=VoteResult.REJECT,
            who="vim",
        )
        assert await given_up(world) == [told]
        assert asked.seconds == INSTANCE.vote_s
        assert world.vim.verdicts == []
    assert caplog.messages[-1] == (
        f"{VM}: not delivered: action: its window was over before it could be sent"
    )


async def test_a_verdict_that_is_refused(autojump_clock: MockClock, tmp_path: Path) -> None:
    async with memory_agent(tmp_path) as world:
        await world.known()
        await wait_all_tasks_blocked()
        world.vim.next = [Refused(400)]
        await world.ask(Event.STOP, vote=False)
        await world.at(1)
        [entry] = await given_up(world)
        assert (entry.reason, entry.event, entry.result) == (
            "action: the VIM answered with status 400",
            Event.STOP,
            VoteResult.COMPLETE,
        )


async def test_alarms_that_had_to_make_room(
    autojump_clock: MockClock, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with memory_agent(tmp_path) as world:
        host = await world.known()
        await wait_all_tasks_blocked()
        world.vim.next = [DOWN] * 1000
        for _ in range(ALARMS_PER_INSTANCE + 3):
            await host.report("unhealthy", corrective_action=CorrectiveAction.REBOOT)
        await host.settled()
        await world.at(40)
        dropped = await given_up(world)
        reason = f"alarm: {ALARMS_PER_INSTANCE} newer alarms of the instance were waiting"
        assert [(one.uuid, one.hostname, one.reason) for one in dropped] == [
            (VM, HOSTNAME, reason)
        ] * 3
        assert caplog.messages.count(f"{VM}: not delivered: {reason}") == 3
        # What was not given up is delivered when the VIM is back.
        world.vim.next.clear()
        await world.at(200)
        assert len(world.vim.heard("alarm")) == ALARMS_PER_INSTANCE
        assert len(await given_up(world)) == 3


async def test_what_was_given_up_before_a_restart_is_not_told_of_again(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with memory_agent(tmp_path) as world:
        await world.known()
        await wait_all_tasks_blocked()
        world.vim.next = [Refused(400)]
        await world.ask(Event.STOP, vote=True)
        await world.at(1)
        assert len(await given_up(world)) == 1
    async with memory_agent(tmp_path, number=1) as world:
        await world.at(40)
        assert "undelivered" not in {one.kind for one in world.agent.history.recent}
        states = [one.state for one in await world.store.outbox() if one.kind == "action"]
        assert states == [OutboxState.UNDELIVERED]


async def test_a_disk_that_is_full_tells_of_it_later(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with memory_agent(tmp_path) as world:
        await world.known()
        await wait_all_tasks_blocked()
        world.vim.next = [DOWN] * 100
        await world.ask(Event.STOP, vote=True)
        await world.at(1)
        world.worker.fault = "database or disk is full"
        await world.at(30)
        assert list(world.agent.history.recent)[1:] == []
        world.worker.fault = ""
        await world.at(130)
        [entry] = await given_up(world)
        assert entry.reason == "action: its window was over before it could be sent"
