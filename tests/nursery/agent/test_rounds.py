"""Votes and notices on the fake clock: one verdict each, and when, whatever breaks in between."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
from starlette.types import Message
from trio.testing import MockClock, memory_stream_pair, wait_all_tasks_blocked

from hbtrio.api.vim import vim_api
from hbtrio.fsm.delivery import OutboxState
from hbtrio.fsm.fleet_round import MARGIN_S
from hbtrio.http.server import DELIVERED_EXTENSION
from hbtrio.nursery.agent.host_session import REPLY_S
from hbtrio.nursery.agent.rounds import PATIENCE_S
from hbtrio.nursery.agent.unasked_rounds import CantAsk
from hbtrio.store.records import HistoryEntry, InstanceRecord
from hbtrio.store.worker import StoreFault
from hbtrio.wire.link_codec import encode_link
from hbtrio.wire.link_messages import Reply, RoundCommand, SnapshotEnd
from hbtrio.wire.vim_result import NotSent
from hbtrio.wire.vocabulary import Event, VoteResult
from support.agent_world import MemoryAgent, memory_agent
from support.scripted_host import INSTANCE, OTHER_VM, VM, ScriptedHost

OTHER = attrs.evolve(INSTANCE, uuid=OTHER_VM)
VOTE_S, STOP_NOTICE_S = INSTANCE.vote_s, INSTANCE.shutdown_notice_s


async def history(world: MemoryAgent) -> list[tuple[str, str, str, str]]:
    """What was recorded of votes and notices, the oldest first."""
    found = [record.entry for record in reversed(await world.store.history())]
    return [
        (one.kind, one.event or "", one.result or "", one.reason)
        for one in found
        if one.kind in ("vote", "notice", "undelivered")
    ]


# -- how they go --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("result", "response"),
    [
        (VoteResult.ACCEPT, "allow"),
        (VoteResult.COMPLETE, "allow"),
        (VoteResult.TIMEOUT, "allow"),
        (VoteResult.ERROR, "allow"),
        (VoteResult.UNKNOWN, "allow"),
        (VoteResult.REJECT, "reject"),
    ],
)
async def test_a_vote(
    autojump_clock: MockClock, tmp_path: Path, result: VoteResult, response: str
) -> None:
    async with memory_agent(tmp_path) as world:
        host = await world.known()
        host.answering(result, "because")
        asked = await world.ask(Event.STOP, vote=True)
        assert (asked.command_id, asked.seconds) == ("command-0-1", VOTE_S)
        assert host.commands == [RoundCommand("command-0-1", VM, Event.STOP, True, PATIENCE_S)]
        await wait_all_tasks_blocked()
        assert world.vim.verdicts == [(0.0, "stop", response, "because")]
        assert asked.outcome is not None
        ended = await asked.outcome.wait()
        assert (ended.result, ended.reason) == (result, "because")
        await trio.sleep(100)
        assert len(world.vim.verdicts) == 1
        assert await history(world) == [("vote", "stop", result, "because")]


@pytest.mark.parametrize("result", list(VoteResult))
async def test_a_notice_has_one_answer(
    autojump_clock: MockClock, tmp_path: Path, result: VoteResult
) -> None:
    async with memory_agent(tmp_path) as world:
        host = await world.known()
        host.answering(result, "exit status 3")
        asked = await world.ask(Event.STOP, vote=False)
        assert asked.seconds == STOP_NOTICE_S
        await trio.sleep(100)
        assert world.vim.verdicts == [(0.0, "stop", "proceed", "exit status 3")]
        assert await history(world) == [("notice", "stop", result, "exit status 3")]


async def test_a_silent_guest_has_agreed_before_the_vims_timer_ends(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with memory_agent(tmp_path) as world:
        host = await world.known()
        host.silent()
        await world.ask(Event.STOP, vote=True)
        await world.at(VOTE_S - MARGIN_S - 0.001)
        assert world.vim.verdicts == []
        await world.at(VOTE_S)
        reason = f"no answer within {VOTE_S} s"
        assert world.vim.verdicts == [(VOTE_S - MARGIN_S, "stop", "allow", reason)]
        # The host finds the same out a moment later, and is not heard twice.
        await host.outcome(host.commands[0], VoteResult.TIMEOUT, "no answer")
        await trio.sleep(100)
        assert len(world.vim.verdicts) == 1
        assert await history(world) == [
            ("vote", "stop", "accept", reason),
            ("vote", "stop", "timeout", "no answer"),
        ]


async def test_a_silent_guest_and_a_notice(autojump_clock: MockClock, tmp_path: Path) -> None:
    async with memory_agent(tmp_path) as world:
        host = await world.known()
        host.silent()
        await world.ask(Event.RESUME, vote=False)
        await trio.sleep(100)
        seconds = INSTANCE.resume_notice_s
        assert world.vim.verdicts == [
            (seconds - MARGIN_S, "resume", "proceed", f"no answer within {seconds} s")
        ]


async def test_the_window_begins_where_the_host_has_opened_it(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    """It may wait for the round before; until then nobody's time runs."""
    async with memory_agent(tmp_path) as world:
        host = await world.known()

        async def wait_and_open(command: RoundCommand) -> None:
            await trio.sleep(0.9)
            await host.opens(command)
            await trio.sleep(VOTE_S - 0.5)
            await host.outcome(command, VoteResult.REJECT, "at the last moment")

        host.on_round = wait_and_open
        await world.ask(Event.STOP, vote=True)
        await trio.sleep(100)
        answered_at = 0.9 + VOTE_S - 0.5
        assert world.vim.verdicts == [(answered_at, "stop", "reject", "at the last moment")]


async def test_the_hosts_word_about_the_window_counts(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with memory_agent(tmp_path) as world:
        host = await world.known()

        async def open_longer(command: RoundCommand) -> None:
            await host.say(Reply(command.command_id, True, seconds=30))

        host.on_round = open_longer
        assert (await world.ask(Event.STOP, vote=True)).seconds == 30
        await trio.sleep(100)
        assert world.vim.verdicts == [(29.75, "stop", "allow", "no answer within 30 s")]


async def test_the_outcome_may_come_before_the_hosts_reply(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with memory_agent(tmp_path) as world:
        host = await world.known()

        async def hasty(command: RoundCommand) -> None:
            await host.outcome(command, VoteResult.REJECT, "no")
            await trio.sleep(0.5)
            await host.opens(command)

        host.on_round = hasty
        asked = await world.agent.rounds.ask(VM, Event.STOP, vote=True, who="vim")
        assert asked.seconds == VOTE_S
        await trio.sleep(1)
        assert world.vim.verdicts == []  # the VIM has no reply yet
        await world.agent.rounds.replied(asked.command_id)
        await trio.sleep(100)
        assert world.vim.verdicts == [(1.5, "stop", "reject", "no")]


async def test_nothing_is_sent_before_the_reply_is_written(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with memory_agent(tmp_path) as world:
        await world.known()
        asked = await world.agent.rounds.ask(VM, Event.STOP, vote=True, who="vim")
        await trio.sleep(5)
        assert world.vim.verdicts == []
        await world.agent.rounds.replied(asked.command_id)
        await wait_all_tasks_blocked()
        assert world.vim.verdicts == [(5.0, "stop", "allow", "fine")]


async def test_the_verdict_waits_for_the_last_byte_of_the_reply(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    """Through the VIM's API, whose reply takes its time to be written."""
    async with memory_agent(tmp_path) as world:
        await world.known()
        api = vim_api(world.agent)
        body = f'{{"uuid":"{VM}","hostname":"compute-0","action":"stop"}}'.encode()
        request: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]
        written: list[tuple[float, str]] = []

        async def receive() -> Message:
            if request:
                return request.pop()
            return await trio.sleep_forever()

        async def send(message: Message) -> None:
            await trio.sleep(3)
            written.append((trio.current_time(), message["type"]))

        scope = {
            "type": "http",
            "method": "POST",
            "path": f"/v1/instances/{VM}/vote",
            "headers": [(b"user-agent", b"vim/1.0")],
            "query_string": b"",
            "extensions": {DELIVERED_EXTENSION: lambda: True},
        }
        await api(scope, receive, send)
        assert written == [(3.0, "http.response.start"), (6.0, "http.response.body")]
        await wait_all_tasks_blocked()
        assert world.vim.verdicts == [(6.0, "stop", "allow", "fine")]


async def test_who_does_not_wait_for_the_reply_gets_no_verdict(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with memory_agent(tmp_path) as world:
        host = await world.known()
        host.silent()
        asked = await world.agent.rounds.ask(VM, Event.STOP, vote=True, who="vim")
        world.agent.rounds.unheard(asked.command_id)
        await trio.sleep(1)
        await host.outcome(host.commands[0], VoteResult.REJECT, "no")
        await trio.sleep(100)
        assert world.vim.verdicts == []
        assert await history(world) == [
            ("vote", "stop", "error", "nobody waited for the reply"),
            ("vote", "stop", "reject", "no"),
        ]


@pytest.mark.parametrize("kept", [True, False])
async def test_who_did_not_wait_for_the_reply_though_the_outcome_was_there(
    autojump_clock: MockClock, tmp_path: Path, kept: bool
) -> None:
    """The verdict that is queued, or is just being, goes at once, and for its own reason."""
    async with memory_agent(tmp_path) as world:
        host = await world.known()
        host.silent()
        asked = await world.agent.rounds.ask(VM, Event.STOP, vote=True, who="vim")
        world.worker.slow_s = 0.0 if kept else 0.5
        await host.outcome(host.commands[0], VoteResult.REJECT, "no")
        await trio.sleep(0.1)
        world.worker.slow_s = 0.0
        assert len(world.agent.rounds) == int(not kept)
        world.agent.rounds.unheard(asked.command_id)
        await wait_all_tasks_blocked()
        why = "nobody waited for the reply"
        [verdict] = [one for one in await world.store.outbox() if one.command_id]
        assert (verdict.state, verdict.fault) == (OutboxState.UNDELIVERED, why)
        await trio.sleep(100)
        assert world.vim.verdicts == []
        assert await history(world) == [
            ("vote", "stop", "reject", "no"),
            ("undelivered", "stop", "reject", f"action: {why}"),
        ]


async def test_a_reply_that_can_t_be_noted_at_once(
    autojump_clock: MockClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor is it a moment later, but in a second."""
    async with memory_agent(tmp_path) as world:
        host = await world.known()
        host.answering(VoteResult.REJECT, "no")
        asked = await world.agent.rounds.ask(VM, Event.STOP, vote=True, who="vim")
        await wait_all_tasks_blocked()
        real, faults = world.store.replied, ["database is locked"] * 2

        async def replied(command_id: str) -> bool:
            if faults:
                raise StoreFault(faults.pop())
            return await real(command_id)

        monkeypatch.setattr(world.store, "replied", replied)
        await world.agent.rounds.replied(asked.command_id)
        await trio.sleep(100)
        assert world.vim.verdicts == [(1.0, "stop", "reject", "no")]


async def test_an_operators_vote_is_none_of_the_vims_business(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with memory_agent(tmp_path) as world:
        host = await world.known()
        host.answering(VoteResult.REJECT, "no")
        asked = await world.agent.rounds.ask(VM, Event.STOP, vote=True, who="operator")
        assert asked.outcome is not None
        ended = await asked.outcome.wait()
        assert ended.result is VoteResult.REJECT
        host.silent()
        again = await world.agent.rounds.ask(VM, Event.STOP, vote=True, who="operator")
        assert again.outcome is not None
        assert (await again.outcome.wait()).result is VoteResult.ACCEPT
        await trio.sleep(100)
        assert world.vim.verdicts == []


# -- who takes no part ---------------------------------------------------------------------------


#: The host has told so much of the instance when it refuses a round.
STANDING = pytest.mark.parametrize("heartbeating", [True, False])


async def refused(
    world: MemoryAgent, caplog: pytest.LogCaptureFixture, *, heartbeating: bool
) -> str:
    """Asks for a vote that nobody opens; how that is answered and recorded, and why it was."""
    caplog.clear()
    known = await history(world)
    told: list[HistoryEntry] = []
    with world.agent.history.follow() as news:
        if heartbeating:
            with pytest.raises(CantAsk) as caught:
                await world.ask(Event.STOP, vote=True)
            fault = str(caught.value)
        else:
            asked = await world.ask(Event.STOP, vote=True)
            fault = asked.fault
            assert (asked.seconds, asked.outcome) == (0, None)
        await wait_all_tasks_blocked()
        told.append(news.receive_nowait())
        with pytest.raises(trio.WouldBlock):
            news.receive_nowait()
    assert (await history(world))[len(known) :] == [("vote", "stop", "error", fault)]
    [kept] = [record.entry for record in await world.store.history(limit=1)]
    assert (kept.uuid, kept.hostname, kept.who, told) == (VM, "compute-0", "vim", [kept])
    level = "WARNING" if heartbeating else "INFO"
    lines = [
        (one.levelname, one.getMessage()) for one in caplog.records if one.name == "hbtrio.rounds"
    ]
    assert lines == [(level, f"{VM}: no vote on stop for vim: {fault}")]
    assert len(world.agent.rounds) == 0
    assert world.vim.verdicts == []
    return fault


@STANDING
async def test_a_host_that_opens_no_round(
    autojump_clock: MockClock, tmp_path: Path, caplog: pytest.LogCaptureFixture, heartbeating: bool
) -> None:
    caplog.set_level(logging.INFO, "hbtrio.rounds")
    async with memory_agent(tmp_path) as world:
        host = await world.known()
        await host.tell(heartbeating=heartbeating)
        await host.settled()
        host.refusing("a notice on pause is open for another 7.0 s")
        fault = await refused(world, caplog, heartbeating=heartbeating)
        assert fault == "a notice on pause is open for another 7.0 s"
        await trio.sleep(100)
        assert world.vim.verdicts == []


@STANDING
async def test_a_host_without_a_link(
    autojump_clock: MockClock, tmp_path: Path, caplog: pytest.LogCaptureFixture, heartbeating: bool
) -> None:
    """Until the grace time is over its instances count as what they were."""
    caplog.set_level(logging.INFO, "hbtrio.rounds")
    async with memory_agent(tmp_path, grace_s=30) as world:
        host = await world.known()
        await host.tell(heartbeating=heartbeating)
        await host.settled()
        await host.cut()
        await world.at(29.9)
        no_link = "compute-0 has no link to this agent"
        assert await refused(world, caplog, heartbeating=heartbeating) == no_link
        await world.at(30.1)
        assert await refused(world, caplog, heartbeating=False) == no_link


@pytest.mark.parametrize("vote", [True, False])
async def test_a_host_that_has_not_come_back_since_the_agent_was_restarted(
    autojump_clock: MockClock, tmp_path: Path, caplog: pytest.LogCaptureFixture, vote: bool
) -> None:
    """Nobody knows what its instances are doing, until it has told of them all."""
    caplog.set_level(logging.INFO, "hbtrio.rounds")
    async with memory_agent(tmp_path) as world:
        host = await world.known(host=ScriptedHost(instances=(INSTANCE, OTHER)))
        await host.stops(OTHER_VM)
        await host.until(lambda: host.waiting == {})
    del host.instances[VM]
    async with memory_agent(tmp_path, number=1, grace_s=30) as world:
        no_link = "compute-0 has no link to this agent"
        assert await refused(world, caplog, heartbeating=True) == no_link
        ours, theirs = memory_stream_pair()
        world.nursery.start_soon(world.agent.links.serve, theirs)
        # It has said hello, and has told of one of them.
        await ours.send_all(encode_link(host.hello) + encode_link(host.instances[OTHER_VM]))
        await wait_all_tasks_blocked()
        unknown = f"compute-0 does not know {VM}"
        assert await refused(world, caplog, heartbeating=True) == unknown
        await ours.send_all(encode_link(SnapshotEnd(1)))
        await wait_all_tasks_blocked()
        assert await refused(world, caplog, heartbeating=False) == unknown
        await ours.aclose()
    async with memory_agent(tmp_path, number=2, grace_s=30) as world:
        await trio.sleep(30.1)
        assert await refused(world, caplog, heartbeating=False) == no_link


async def test_a_host_that_does_not_know_the_instance(
    autojump_clock: MockClock, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "hbtrio.rounds")
    async with memory_agent(tmp_path) as world:
        host = await world.known(host=ScriptedHost(instances=()))
        await world.agent.inventory.put_instance(InstanceRecord(VM, "compute-0", True))
        assert await refused(world, caplog, heartbeating=False) == f"compute-0 does not know {VM}"
        assert host.commands == []


async def test_a_host_that_does_not_reply(
    autojump_clock: MockClock, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "hbtrio.rounds")
    async with memory_agent(tmp_path) as world:
        host = await world.known()

        async def ignore(_: RoundCommand) -> None:
            return

        host.on_round = ignore
        assert await refused(world, caplog, heartbeating=True) == "compute-0 did not reply"
        assert trio.current_time() == REPLY_S + PATIENCE_S
        # It replies after all, and its guest votes: too late for whoever was told that it failed.
        await host.opens(host.commands[0])
        await host.outcome(host.commands[0], VoteResult.REJECT, "no")
        await trio.sleep(100)
        assert world.vim.verdicts == []


async def test_too_many_rounds(
    autojump_clock: MockClock,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    caplog.set_level(logging.INFO, "hbtrio.rounds")
    monkeypatch.setattr("hbtrio.nursery.agent.open_rounds._ROUNDS", 0)
    async with memory_agent(tmp_path) as world:
        host = await world.known()
        fault = await refused(world, caplog, heartbeating=True)
        assert fault == "0 votes and notices are open in this fleet, the maximum"
        await host.tell(heartbeating=False)
        await host.settled()
        assert await refused(world, caplog, heartbeating=False) == fault
        assert host.commands == []


async def test_a_refusal_is_answered_though_it_can_t_be_kept(
    autojump_clock: MockClock, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with memory_agent(tmp_path) as world:
        await world.known(host=ScriptedHost(instances=()))
        await world.agent.inventory.put_instance(InstanceRecord(VM, "compute-0", True))
        world.worker.fault = "disk full"
        asked = await world.ask(Event.STOP, vote=True)
        assert (asked.seconds, asked.fault) == (0, f"compute-0 does not know {VM}")
        text = f"store: disk full: history entry lost: {VM} compute-0 does not know {VM}"
        assert text in caplog.text


async def test_the_vim_asks_twice(autojump_clock: MockClock, tmp_path: Path) -> None:
    """It would take the first one's verdict for the second one's, and that for its next step's."""
    async with memory_agent(tmp_path) as world:
        host = await world.known(host=ScriptedHost(instances=(INSTANCE, OTHER)))
        host.silent()
        first = await world.ask(Event.STOP, vote=True)
        with pytest.raises(CantAsk, match="the VIM's vote on stop is open already"):
            await world.ask(Event.STOP, vote=True)
        assert trio.current_time() == 0.0
        assert len(host.commands) == 1
        # Another one, of another kind or by somebody else, is up to the host.
        for uuid, event, vote, who in (
            (OTHER_VM, Event.STOP, True, "vim"),
            (VM, Event.REBOOT, True, "vim"),
            (VM, Event.STOP, False, "vim"),
            (VM, Event.STOP, True, "operator"),
        ):
            assert (await world.agent.rounds.ask(uuid, event, vote=vote, who=who)).seconds
        assert len(host.commands) == 5
        await host.outcome(host.commands[0], VoteResult.REJECT, "no")
        assert first.outcome is not None
        await first.outcome.wait()
        assert (await world.ask(Event.STOP, vote=True)).seconds == VOTE_S
        assert world.vim.verdicts == [(0.0, "stop", "reject", "no")]
        assert len(await history(world)) == 2


@pytest.mark.parametrize("vote", [True, False])
async def test_the_store_can_t_be_written(
    autojump_clock: MockClock, tmp_path: Path, vote: bool
) -> None:
    async with memory_agent(tmp_path) as world:
        host = await world.known()
        world.worker.fault = "disk full"
        with pytest.raises(StoreFault, match="disk full"):
            await world.ask(Event.STOP, vote=vote)
        world.worker.fault = ""
        await trio.sleep(100)
        assert len(world.agent.rounds) == 0
        assert world.vim.verdicts == []
        # A guest may be asked in vain, as that changes nothing; it is not told in vain.
        assert len(host.commands) <= vote


async def test_a_vote_is_asked_while_it_is_being_stored(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with memory_agent(tmp_path) as world:
        host = await world.known()
        run, asked = world.worker.run, trio.Event()

        async def slow(work: Callable[[sqlite3.Connection], Any]) -> Any:
            await asked.wait()
            return await run(work)

        async def on_round(command: RoundCommand) -> None:
            asked.set()
            await host.agree(command)

        world.worker.run = slow  # type: ignore[method-assign]
        host.on_round = on_round
        await world.ask(Event.STOP, vote=True)
        await trio.sleep(100)
        assert world.vim.verdicts == [(0.0, "stop", "allow", "fine")]


async def test_a_notice_is_not_told_before_it_is_stored(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with memory_agent(tmp_path) as world:
        host = await world.known()
        run, stored = world.worker.run, trio.Event()

        async def slow(work: Callable[[sqlite3.Connection], Any]) -> Any:
            await stored.wait()
            return await run(work)

        world.worker.run = slow  # type: ignore[method-assign]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(world.ask, Event.STOP, vote=False))
            await trio.sleep(10)
            assert host.commands == []
            stored.set()
        assert len(host.commands) == 1


# -- the link is cut at every step ---------------------------------------------------------------


@pytest.mark.parametrize("vote", [True, False])
@pytest.mark.parametrize(
    "step", ["before the reply", "after the reply", "after the outcome", "after it is acknowledged"]
)
async def test_the_link_is_cut(
    autojump_clock: MockClock, tmp_path: Path, step: str, vote: bool
) -> None:
    async with memory_agent(tmp_path) as world:
        host = await world.known()
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
        reports = [one for one in await history(world) if one[3] == "no"]
        assert len(reports) == 1


async def test_the_link_stays_cut(autojump_clock: MockClock, tmp_path: Path) -> None:
    async with memory_agent(tmp_path) as world:
        host = await world.known()
        host.silent()
        await world.ask(Event.STOP, vote=True)
        await host.cut()
        await host.outcome(host.commands[0], VoteResult.REJECT, "too late")
        await world.at(20)
        assert world.vim.verdicts == [
            (VOTE_S - MARGIN_S, "stop", "allow", f"no answer within {VOTE_S} s")
        ]
        await host.dial(world.agent.links, world.nursery)
        await trio.sleep(100)
        assert len(world.vim.verdicts) == 1
        assert host.waiting == {}


async def test_a_link_that_is_cut_while_the_outcome_is_being_kept(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    """Whoever the report was taken by is gone; the verdict is sent at once all the same."""
    async with memory_agent(tmp_path) as world:
        host = await world.known()
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
async def test_the_host_is_restarted(
    autojump_clock: MockClock, tmp_path: Path, vote: bool, response: str
) -> None:
    async with memory_agent(tmp_path) as world:
        host = await world.known()
        host.silent()
        await world.ask(Event.STOP, vote=vote)
        await host.cut()
        await world.at(3)
        assert world.vim.verdicts == []
        await world.host(ScriptedHost(boot_id="boot-2"))
        assert world.vim.verdicts == [(3.0, "stop", response, "the host daemon was restarted")]
        await trio.sleep(100)
        assert len(world.vim.verdicts) == 1


async def test_another_host_is_restarted(autojump_clock: MockClock, tmp_path: Path) -> None:
    async with memory_agent(tmp_path) as world:
        host = await world.known()
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
async def test_the_agent_is_restarted(
    autojump_clock: MockClock, tmp_path: Path, step: str, vote: bool
) -> None:
    """The outcome comes before the agent ends, while it is away, or not at all."""
    host = ScriptedHost()
    host.silent()
    async with memory_agent(tmp_path) as world:
        await world.known(host=host)
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
    async with memory_agent(tmp_path, number=1) as world:
        await host.dial(world.agent.links, world.nursery)
        await trio.sleep(100)
        window_s = VOTE_S if vote else STOP_NOTICE_S
        if step == "never":
            response = "allow" if vote else "proceed"
            reason = f"no answer within {window_s} s"
            assert world.vim.verdicts == [(window_s - MARGIN_S, "stop", response, reason)]
        else:
            response = "reject" if vote else "proceed"
            assert world.vim.verdicts == [(2.0, "stop", response, "no")]
        assert host.waiting == {}


@pytest.mark.parametrize(("vote", "response"), [(True, "allow"), (False, "proceed")])
async def test_the_agent_and_the_host_are_restarted(
    autojump_clock: MockClock, tmp_path: Path, vote: bool, response: str
) -> None:
    """The host that comes is not the process that was asked: nobody is going to answer."""
    host = ScriptedHost()
    host.silent()
    async with memory_agent(tmp_path) as world:
        await world.known(host=host)
        await world.ask(Event.STOP, vote=vote)
    await trio.sleep_until(2)
    async with memory_agent(tmp_path, number=1) as world:
        assert world.vim.verdicts == []
        await world.host(ScriptedHost(boot_id="boot-2"))
        assert world.vim.verdicts == [(2.0, "stop", response, "the host daemon was restarted")]
        await trio.sleep(100)
        assert len(world.vim.verdicts) == 1


@pytest.mark.parametrize(("back_s", "verdicts"), [(1.5, 1), (2.5, 0), (300, 0)])
async def test_the_clock_is_set_back_while_the_agent_is_down(
    autojump_clock: MockClock,
    tmp_path: Path,
    back_s: float,
    verdicts: int,
) -> None:
    """However old it is by that clock: no verdict later than the VIM may still want it."""
    host = ScriptedHost()
    host.silent()
    async with memory_agent(tmp_path) as world:
        await world.known(host=host)
        await world.ask(Event.STOP, vote=True)
    await trio.sleep_until(2)

    with closing(sqlite3.connect(tmp_path / "agent.db")) as db, db:
        db.execute("UPDATE rounds SET asked_at = asked_at + ?", (back_s,))
    async with memory_agent(tmp_path, number=1) as world:
        await world.at(VOTE_S + back_s)
        reason = f"no answer within {VOTE_S} s"
        answered_at = VOTE_S - MARGIN_S + back_s
        assert world.vim.verdicts == [(answered_at, "stop", "allow", reason)][:verdicts]
        # Its host's word does not bring it back.
        await host.outcome(host.commands[0], VoteResult.REJECT, "no")
        await host.dial(world.agent.links, world.nursery)
        await trio.sleep(1000)
        assert len(world.vim.verdicts) == verdicts
        if not verdicts:
            why = "the clock was set back: the VIM may no longer wait"
            assert (await history(world))[0] == ("vote", "stop", "error", why)


async def test_the_agent_is_restarted_before_it_has_replied(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    """Nobody can know whether the VIM has the reply: a verdict might answer another step."""
    host = ScriptedHost()
    host.silent()
    async with memory_agent(tmp_path) as world:
        await world.known(host=host)
        await world.agent.rounds.ask(VM, Event.STOP, vote=True, who="vim")
    await host.outcome(host.commands[0], VoteResult.REJECT, "no")
    async with memory_agent(tmp_path, number=1) as world:
        await host.dial(world.agent.links, world.nursery)
        await trio.sleep(100)
        assert world.vim.verdicts == []
        assert await history(world) == [
            ("vote", "stop", "error", "the agent was restarted before its reply"),
            ("vote", "stop", "reject", "no"),
        ]


async def test_the_agent_ends_while_it_waits_for_the_hosts_reply(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with memory_agent(tmp_path) as world:
        host = await world.known()

        async def never(_: RoundCommand) -> None:
            await trio.sleep_forever()

        host.on_round = never

        async def ask() -> None:
            await world.agent.rounds.ask(VM, Event.STOP, vote=True, who="vim")

        world.nursery.start_soon(ask)
        await world.at(0.5)
        assert len(host.commands) == 1
    async with memory_agent(tmp_path, number=1) as world:
        await world.at(100)
        assert world.vim.verdicts == []
        assert await history(world) == [
            ("vote", "stop", "error", "the agent was restarted before its reply")
        ]


async def test_a_verdict_whose_window_was_over_when_the_agent_came_back(
    autojump_clock: MockClock, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "hbtrio.vim")
    host = ScriptedHost()
    async with memory_agent(tmp_path) as world:
        world.vim.next = [NotSent("connection refused")] * 10
        await world.known(host=host)
        host.answering(VoteResult.REJECT, "no")
        await world.ask(Event.STOP, vote=True)
        await wait_all_tasks_blocked()
    await trio.sleep(VOTE_S + 1)
    async with memory_agent(tmp_path, number=1) as world:
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


# -- instances that move, or go --------------------------------------------------------------------


async def test_the_verdict_of_a_host_that_the_instance_has_left(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with memory_agent(tmp_path) as world:
        host = await world.known()
        host.silent()
        await world.ask(Event.LIVE_MIGRATE_BEGIN, vote=False)
        await world.agent.inventory.put_instance(InstanceRecord(VM, "compute-1", True))
        await host.outcome(host.commands[0], VoteResult.COMPLETE)
        await trio.sleep(100)
        assert world.vim.verdicts == []
        assert await history(world) == [("notice", "live_migrate_begin", "complete", "")]


async def test_the_verdict_of_an_instance_that_is_forgotten(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with memory_agent(tmp_path) as world:
        host = await world.known()
        host.silent()
        await world.ask(Event.STOP, vote=False)
        await world.agent.inventory.delete_instance(VM)
        await trio.sleep(100)
        assert world.vim.verdicts == []


async def test_a_host_can_t_answer_for_another(autojump_clock: MockClock, tmp_path: Path) -> None:
    async with memory_agent(tmp_path) as world:
        host = await world.known()
        host.silent()
        await world.ask(Event.STOP, vote=True)
        liar = await world.host(ScriptedHost("compute-1", "", "x", ()))
        await liar.outcome(host.commands[0], VoteResult.REJECT, "mine")
        await wait_all_tasks_blocked()
        assert world.vim.verdicts == []
        await host.outcome(host.commands[0], VoteResult.ACCEPT, "really")
        await trio.sleep(100)
        assert world.vim.verdicts == [(0.0, "stop", "allow", "really")]


# -- many ------------------------------------------------------------------------------------------


async def test_rounds_that_are_over_leave_nothing_behind(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with memory_agent(tmp_path) as world:
        await world.known()
        await wait_all_tasks_blocked()
        tasks = trio.lowlevel.current_statistics().tasks_living
        for _ in range(50):
            await world.ask(Event.STOP, vote=True)
            await wait_all_tasks_blocked()
        assert len(world.vim.verdicts) == 50
        assert len(world.agent.rounds) == 0
        assert trio.lowlevel.current_statistics().tasks_living == tasks
        assert trio.current_time() == 0.0


async def test_a_long_vote_is_warned_of_when_it_is_advertised(
    autojump_clock: MockClock, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "hbtrio.agent")
    async with memory_agent(tmp_path) as world:
        host = await world.known()
        for vote_s in (40, 41, 41, 300, 10, 41):
            await host.tell(vote_s=vote_s)
        await host.settled()
    warnings = [one.getMessage() for one in caplog.records if "VOTE" in one.getMessage()]
    text = "{} advertises a VOTE of 41 s; the VIM decides without it after 45 s"
    assert warnings == [text.format(VM)] * 2
    assert attrs.evolve(INSTANCE, vote_s=41) in host.instances.values()
