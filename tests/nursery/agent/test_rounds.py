"""Votes and notices on the fake clock: one verdict each, and when, whatever breaks in between."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
from starlette.types import Message
from trio.testing import memory_stream_pair, wait_all_tasks_blocked

from hbtrio.api.vim import vim_api
from hbtrio.fsm.delivery import OutboxState
from hbtrio.http.server import DELIVERED_EXTENSION
from hbtrio.nursery.agent.rounds import PATIENCE_S
from hbtrio.nursery.agent.unasked_rounds import CantAsk
from hbtrio.policy.begin_by import BEGIN_S, REPLY_S
from hbtrio.store.records import HistoryEntry, InstanceRecord
from hbtrio.store.worker import StoreFault
from hbtrio.wire.link_codec import encode_link
from hbtrio.wire.link_messages import Gone, Reply, RoundCommand, SnapshotEnd
from hbtrio.wire.vocabulary import Event, VoteResult
from support.agent_world import AgentWorld, agent_world
from support.inline_store import EPOCH
from support.rounds_cases import AGREES_S, OTHER, STOP_NOTICE_S, VOTE_S, agrees_s, history
from support.scripted_host import INSTANCE, OTHER_VM, VM, ScriptedHost

pytestmark = pytest.mark.usefixtures("autojump_clock")


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
async def test_a_vote(result: VoteResult, response: str, world: AgentWorld) -> None:
    host = await world.bound_host()
    host.answering(result, "because")
    asked = await world.ask(Event.STOP, vote=True)
    assert (asked.command_id, asked.seconds) == ("command-0-1", VOTE_S)
    assert host.commands == [
        RoundCommand("command-0-1", VM, Event.STOP, True, PATIENCE_S, who="vim")
    ]
    await wait_all_tasks_blocked()
    assert world.vim.verdicts == [(0.0, "stop", response, "because")]
    assert asked.outcome is not None
    ended = await asked.outcome.wait()
    assert (ended.result, ended.reason) == (result, "because")
    await trio.sleep(100)
    assert len(world.vim.verdicts) == 1
    assert await history(world) == [("vote", "stop", result, "because")]


@pytest.mark.parametrize("result", list(VoteResult))
async def test_a_notice_has_one_answer(result: VoteResult, world: AgentWorld) -> None:
    host = await world.bound_host()
    host.answering(result, "exit status 3")
    asked = await world.ask(Event.STOP, vote=False)
    assert asked.seconds == STOP_NOTICE_S
    await trio.sleep(100)
    assert world.vim.verdicts == [(0.0, "stop", "proceed", "exit status 3")]
    assert await history(world) == [("notice", "stop", result, "exit status 3")]


async def test_a_silent_guest_has_agreed_before_the_vims_timer_ends(world: AgentWorld) -> None:
    host = await world.bound_host()
    host.silent()
    await world.ask(Event.STOP, vote=True)
    await world.at(AGREES_S - 0.001)
    assert world.vim.verdicts == []
    await world.at(AGREES_S)
    reason = f"no answer within {VOTE_S} s"
    assert world.vim.verdicts == [(AGREES_S, "stop", "allow", reason)]
    # A host that says so later is not heard twice.
    await host.outcome(host.commands[0], VoteResult.TIMEOUT, "no answer")
    await trio.sleep(100)
    assert len(world.vim.verdicts) == 1
    assert await history(world) == [
        ("vote", "stop", "accept", f"{reason} [compute-0 reported later: timeout: no answer]"),
    ]


async def test_a_silent_guest_and_a_notice(world: AgentWorld) -> None:
    host = await world.bound_host()
    host.silent()
    await world.ask(Event.RESUME, vote=False)
    await trio.sleep(100)
    seconds = INSTANCE.resume_notice_s
    assert world.vim.verdicts == [
        (
            agrees_s(seconds),
            "resume",
            "proceed",
            f"no answer within {seconds} s",
        )
    ]


async def test_the_window_begins_where_the_host_has_opened_it(world: AgentWorld) -> None:
    """It may wait for the round before; until then nobody's time runs."""
    host = await world.bound_host()

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


async def test_the_hosts_word_about_the_window_counts(world: AgentWorld) -> None:
    host = await world.bound_host()

    async def open_longer(command: RoundCommand) -> None:
        await host.send(Reply(command.command_id, True, seconds=30))

    host.on_round = open_longer
    assert (await world.ask(Event.STOP, vote=True)).seconds == 30
    await trio.sleep(100)
    assert world.vim.verdicts == [(32.75, "stop", "allow", "no answer within 30 s")]


async def test_the_outcome_may_come_before_the_hosts_reply(world: AgentWorld) -> None:
    host = await world.bound_host()

    async def hasty(command: RoundCommand) -> None:
        await host.outcome(command, VoteResult.REJECT, "no")
        await trio.sleep(0.5)
        await host.opens(command)

    host.on_round = hasty
    asked = await world.agent.rounds.ask(VM, Event.STOP, vote=True, who="vim")
    assert asked.seconds == VOTE_S
    await trio.sleep(1)
    assert world.vim.verdicts == []  # the VIM has no reply yet
    await world.agent.rounds.ends.replied(asked.command_id, VM)
    await trio.sleep(100)
    assert world.vim.verdicts == [(1.5, "stop", "reject", "no")]


async def test_nothing_is_sent_before_the_reply_is_written(world: AgentWorld) -> None:
    await world.bound_host()
    asked = await world.agent.rounds.ask(VM, Event.STOP, vote=True, who="vim")
    await trio.sleep(5)
    assert world.vim.verdicts == []
    await world.agent.rounds.ends.replied(asked.command_id, VM)
    await wait_all_tasks_blocked()
    assert world.vim.verdicts == [(5.0, "stop", "allow", "fine")]


async def test_the_verdict_waits_for_the_last_byte_of_the_reply(world: AgentWorld) -> None:
    """Through the VIM's API, whose reply takes its time to be written."""
    await world.bound_host()
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


async def test_who_does_not_wait_for_the_reply_gets_no_verdict(world: AgentWorld) -> None:
    host = await world.bound_host()
    host.silent()
    asked = await world.agent.rounds.ask(VM, Event.STOP, vote=True, who="vim")
    world.agent.rounds.ends.unheard(asked.command_id)
    await trio.sleep(1)
    await host.outcome(host.commands[0], VoteResult.REJECT, "no")
    await trio.sleep(100)
    assert world.vim.verdicts == []
    told = "the requester did not wait for the reply [compute-0 reported later: reject: no]"
    assert await history(world) == [("vote", "stop", "error", told)]


@pytest.mark.parametrize("kept", [True, False])
async def test_who_did_not_wait_for_the_reply_though_the_outcome_was_there(
    kept: bool, world: AgentWorld
) -> None:
    """The verdict that is queued, or is just being, goes at once, and for its own reason."""
    host = await world.bound_host()
    host.silent()
    asked = await world.agent.rounds.ask(VM, Event.STOP, vote=True, who="vim")
    world.worker.slow_s = 0.0 if kept else 0.5
    await host.outcome(host.commands[0], VoteResult.REJECT, "no")
    await trio.sleep(0.1)
    world.worker.slow_s = 0.0
    assert len(world.agent.rounds) == int(not kept)
    world.agent.rounds.ends.unheard(asked.command_id)
    await wait_all_tasks_blocked()
    why = "the requester did not wait for the reply"
    [verdict] = [one for one in await world.store.outbox() if one.command_id]
    assert (verdict.state, verdict.fault) == (OutboxState.UNDELIVERED, why)
    await trio.sleep(100)
    assert world.vim.verdicts == []
    assert await history(world) == [
        ("vote", "stop", "reject", "no"),
        ("undelivered", "stop", "reject", f"action: {why}"),
    ]


async def test_a_reply_that_can_t_be_noted_at_once(
    monkeypatch: pytest.MonkeyPatch, world: AgentWorld, caplog: pytest.LogCaptureFixture
) -> None:
    """Nor is it a moment later, but in a second."""
    host = await world.bound_host()
    host.answering(VoteResult.REJECT, "no")
    asked = await world.agent.rounds.ask(VM, Event.STOP, vote=True, who="vim")
    await wait_all_tasks_blocked()
    real, faults = world.store.replied, ["database is locked"] * 2

    async def replied(command_id: str) -> bool:
        if faults:
            raise StoreFault(faults.pop())
        return await real(command_id)

    monkeypatch.setattr(world.store, "replied", replied)
    await world.agent.rounds.ends.replied(asked.command_id, VM)
    await trio.sleep(100)
    assert world.vim.verdicts == [(1.0, "stop", "reject", "no")]
    text = f"{VM}: the verdict of {asked.command_id} can't be sent yet: store: database is locked"
    assert text in caplog.messages


async def test_an_operators_vote_is_none_of_the_vims_business(world: AgentWorld) -> None:
    host = await world.bound_host()
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
    world: AgentWorld, caplog: pytest.LogCaptureFixture, *, heartbeating: bool
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


async def test_a_vote_during_an_operators_action_is_no_consent(world: AgentWorld) -> None:
    """Not even of an instance that is not heartbeating because of that action."""
    host = await world.bound_host()
    await host.send_instance(heartbeating=False)
    reason = "an operator's action (stop) is in progress"

    async def refuse(command: RoundCommand) -> None:
        await host.send(Reply(command.command_id, False, reason, owned=True))

    host.on_round = refuse
    with pytest.raises(CantAsk, match=r"an operator's action \(stop\) is in progress"):
        await world.ask(Event.STOP, vote=True)
    assert world.vim.verdicts == []


@STANDING
async def test_a_host_that_opens_no_round(
    caplog: pytest.LogCaptureFixture, heartbeating: bool, world: AgentWorld
) -> None:
    caplog.set_level(logging.INFO, "hbtrio.rounds")
    host = await world.bound_host()
    await host.send_instance(heartbeating=heartbeating)
    await host.settle()
    host.refusing("a notice on pause is open for another 7.0 s")
    fault = await refused(world, caplog, heartbeating=heartbeating)
    assert fault == "a notice on pause is open for another 7.0 s"
    await trio.sleep(100)
    assert world.vim.verdicts == []


@STANDING
async def test_a_host_without_a_link(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, heartbeating: bool
) -> None:
    """Until the grace time is over its instances count as what they were."""
    caplog.set_level(logging.INFO, "hbtrio.rounds")
    async with agent_world(tmp_path, grace_s=30) as world:
        host = await world.bound_host()
        await host.send_instance(heartbeating=heartbeating)
        await host.settle()
        await host.cut()
        await world.at(29.9)
        no_link = "compute-0 has no link to this agent"
        assert await refused(world, caplog, heartbeating=heartbeating) == no_link
        await world.at(30.1)
        assert await refused(world, caplog, heartbeating=False) == no_link


@pytest.mark.parametrize("vote", [True, False])
async def test_a_host_that_has_not_come_back_since_the_agent_was_restarted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, vote: bool
) -> None:
    """Nobody knows what its instances are doing, until it has told of them all."""
    caplog.set_level(logging.INFO, "hbtrio.rounds")
    async with agent_world(tmp_path) as world:
        host = await world.bound_host(host=ScriptedHost(instances=(INSTANCE, OTHER)))
        await host.report_stopped(OTHER_VM)
        await host.until(lambda: host.waiting == {})
    del host.instances[VM]
    async with agent_world(tmp_path, number=1, grace_s=30) as world:
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
    async with agent_world(tmp_path, number=2, grace_s=30) as world:
        await trio.sleep(30.1)
        assert await refused(world, caplog, heartbeating=False) == no_link


async def test_a_host_that_does_not_know_the_instance(
    caplog: pytest.LogCaptureFixture, world: AgentWorld
) -> None:
    caplog.set_level(logging.INFO, "hbtrio.rounds")
    host = await world.bound_host(host=ScriptedHost(instances=()))
    await world.agent.inventory.put_instance(InstanceRecord(VM, "compute-0", True))
    assert await refused(world, caplog, heartbeating=False) == f"compute-0 does not know {VM}"
    why = "not watched on compute-0: watch = false in metadata"
    await host.send(Gone(VM, why))
    await wait_all_tasks_blocked()
    assert await refused(world, caplog, heartbeating=False) == why
    assert host.commands == []


async def test_a_host_that_does_not_reply(
    caplog: pytest.LogCaptureFixture, world: AgentWorld
) -> None:
    caplog.set_level(logging.INFO, "hbtrio.rounds")
    host = await world.bound_host()

    async def ignore(_: RoundCommand) -> None:
        return

    host.on_round = ignore
    unknown = "the outcome is unknown: compute-0 did not reply"
    assert await refused(world, caplog, heartbeating=True) == unknown
    assert trio.current_time() == REPLY_S + PATIENCE_S
    # It replies after all, and its guest votes: too late for whoever was told that it failed.
    await host.opens(host.commands[0])
    await host.outcome(host.commands[0], VoteResult.REJECT, "no")
    await trio.sleep(100)
    assert world.vim.verdicts == []
    told = f"{unknown} [compute-0 reported later: reject: no]"
    assert await history(world) == [("vote", "stop", "error", told)]


async def test_too_many_rounds(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, world: AgentWorld
) -> None:
    caplog.set_level(logging.INFO, "hbtrio.rounds")
    monkeypatch.setattr("hbtrio.nursery.agent.open_rounds._ROUNDS", 0)
    host = await world.bound_host()
    fault = await refused(world, caplog, heartbeating=True)
    assert fault == "0 votes and notices are open in this fleet, the maximum"
    await host.send_instance(heartbeating=False)
    await host.settle()
    assert await refused(world, caplog, heartbeating=False) == fault
    assert host.commands == []


async def test_a_refusal_is_answered_though_it_can_t_be_kept(
    caplog: pytest.LogCaptureFixture, world: AgentWorld
) -> None:
    await world.bound_host(host=ScriptedHost(instances=()))
    await world.agent.inventory.put_instance(InstanceRecord(VM, "compute-0", True))
    world.worker.fault = "disk full"
    asked = await world.ask(Event.STOP, vote=True)
    assert (asked.seconds, asked.fault) == (0, f"compute-0 does not know {VM}")
    text = f"store: disk full: history entry lost: {VM} compute-0 does not know {VM}"
    assert text in caplog.text


async def test_the_vim_asks_twice(world: AgentWorld) -> None:
    """It would take the first one's verdict for the second one's, and that for its next step's."""
    host = await world.bound_host(host=ScriptedHost(instances=(INSTANCE, OTHER)))
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
async def test_the_store_can_t_be_written(vote: bool, world: AgentWorld) -> None:
    host = await world.bound_host()
    world.worker.fault = "disk full"
    with pytest.raises(StoreFault, match="disk full"):
        await world.ask(Event.STOP, vote=vote)
    world.worker.fault = ""
    await trio.sleep(100)
    assert len(world.agent.rounds) == 0
    assert world.vim.verdicts == []
    # A guest may be asked in vain, as that changes nothing; it is not told in vain.
    assert len(host.commands) <= vote


async def test_a_reject_that_can_t_be_stored_in_its_window_is_no_agreement(
    world: AgentWorld,
) -> None:
    host = await world.bound_host()
    host.silent()
    await world.ask(Event.STOP, vote=True)
    world.worker.fault = "disk full"
    await host.outcome(host.commands[0], VoteResult.REJECT, "no")
    await trio.sleep(VOTE_S + 10.0)
    assert world.vim.verdicts == []
    world.worker.fault = ""
    await trio.sleep(100)
    late = "its window was over before it could be sent"
    assert await history(world) == [
        ("vote", "stop", "reject", "no"),
        ("undelivered", "stop", "reject", f"action: {late}"),
    ]
    assert world.vim.verdicts == []


async def test_a_reject_behind_a_report_that_can_t_be_stored_is_no_agreement(
    world: AgentWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has arrived when the link ends because the store has failed with the one before it."""
    host = await world.bound_host(host=ScriptedHost(instances=(INSTANCE, OTHER)))
    host.silent()
    await world.ask(Event.STOP, vote=True)

    async def take_report(*_args: object) -> None:
        await trio.sleep(0.1)
        raise StoreFault("disk full")

    monkeypatch.setattr(world.agent.store, "take_report", take_report)
    await host.report("unhealthy", OTHER_VM)
    await host.outcome(host.commands[0], VoteResult.REJECT, "no")
    await trio.sleep(1)
    assert not host.up
    assert world.vim.verdicts == []
    await trio.sleep(VOTE_S + 10.0)
    assert [verdict[1:] for verdict in world.vim.verdicts] == [("stop", "reject", "no")]


async def test_a_clock_that_is_set_back_sends_no_verdict_that_was_stored_late(
    world: AgentWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its window is over, and its end here could not be stored, when its host reports it again."""
    host = await world.bound_host()
    host.silent()
    await world.ask(Event.STOP, vote=True)
    world.worker.fault = "disk full"
    await trio.sleep(VOTE_S + 10.0)
    world.worker.fault = ""
    monkeypatch.setattr("support.inline_store.EPOCH", EPOCH - timedelta(hours=2))
    await host.outcome(host.commands[0], VoteResult.REJECT, "no")
    await trio.sleep(100)
    late = "its window was over before it could be sent"
    assert sorted(await history(world)) == [
        ("undelivered", "stop", "reject", f"action: {late}"),
        ("vote", "stop", "reject", "no"),
    ]
    assert world.vim.verdicts == []


async def test_a_verdict_does_not_wait_for_what_failed_before_the_disk_was_well(
    world: AgentWorld,
) -> None:
    host = await world.bound_host()
    world.worker.fault = "disk full"
    await trio.sleep(80)  # the queue has been looked at in vain, and is again after up to 60 s
    world.worker.fault = ""
    host.silent()
    await world.ask(Event.STOP, vote=True)
    await trio.sleep(1)
    await host.outcome(host.commands[0], VoteResult.REJECT, "no")
    await trio.sleep(1)
    assert [verdict[1:] for verdict in world.vim.verdicts] == [("stop", "reject", "no")]


async def test_a_vote_is_asked_while_it_is_being_stored(world: AgentWorld) -> None:
    host = await world.bound_host()
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


async def test_a_notice_is_not_told_before_it_is_stored(world: AgentWorld) -> None:
    host = await world.bound_host()
    run, stored = world.worker.run, trio.Event()

    async def slow(work: Callable[[sqlite3.Connection], Any]) -> Any:
        await stored.wait()
        return await run(work)

    world.worker.run = slow  # type: ignore[method-assign]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(world.ask, Event.STOP, vote=False))
        await trio.sleep(BEGIN_S)
        assert host.commands == []
        stored.set()
    assert len(host.commands) == 1


async def test_a_notice_that_takes_too_long_to_store_is_not_told(world: AgentWorld) -> None:
    """The VIM is told that it failed, so nothing of it may happen any more."""
    host = await world.bound_host()
    world.worker.slow_s = BEGIN_S + PATIENCE_S + 0.1
    with pytest.raises(CantAsk, match=r"^expired 0\.1 s ago: nothing was done$"):
        await world.ask(Event.STOP, vote=False)
    world.worker.slow_s = 0.0
    await trio.sleep(100)
    assert host.commands == []
    assert world.vim.verdicts == []


# -- instances that move, or go --------------------------------------------------------------------


async def test_the_verdict_of_a_host_that_the_instance_has_left(world: AgentWorld) -> None:
    host = await world.bound_host()
    host.silent()
    await world.ask(Event.LIVE_MIGRATE_BEGIN, vote=False)
    await world.agent.inventory.put_instance(InstanceRecord(VM, "compute-1", True))
    await host.outcome(host.commands[0], VoteResult.COMPLETE)
    await trio.sleep(100)
    assert world.vim.verdicts == []
    assert await history(world) == [("notice", "live_migrate_begin", "complete", "")]


async def test_the_verdict_of_an_instance_that_is_forgotten(world: AgentWorld) -> None:
    host = await world.bound_host()
    host.silent()
    await world.ask(Event.STOP, vote=False)
    await world.agent.inventory.delete_instance(VM)
    await trio.sleep(100)
    assert world.vim.verdicts == []


async def test_a_host_can_t_answer_for_another(world: AgentWorld) -> None:
    host = await world.bound_host()
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


async def test_rounds_that_are_over_leave_nothing_behind(world: AgentWorld) -> None:
    await world.bound_host()
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
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "hbtrio.agent")
    async with agent_world(tmp_path) as world:
        host = await world.bound_host()
        for vote_s in (40, 41, 41, 300, 10, 41):
            await host.send_instance(vote_s=vote_s)
        await host.settle()
    warnings = [one.getMessage() for one in caplog.records if "VOTE" in one.getMessage()]
    text = "{} advertises a VOTE of 41 s; the VIM decides without it after 45 s"
    assert warnings == [text.format(VM)] * 2
    assert attrs.evolve(INSTANCE, vote_s=41) in host.instances.values()
