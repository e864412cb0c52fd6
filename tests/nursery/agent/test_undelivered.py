"""What the VIM never heard of an operator hears of, and the VIM later; and how clocks matter."""

from __future__ import annotations

import logging
from datetime import timedelta
from pathlib import Path

import attrs
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from hbtrio.fsm.delivery import GIVE_UP_S, OutboxState
from hbtrio.store.outbox import ALARMS_PER_INSTANCE
from hbtrio.store.records import HistoryEntry
from hbtrio.wire.link_messages import RoundCommand
from hbtrio.wire.vim_result import ErrorStatus, NotSent
from hbtrio.wire.vocabulary import CorrectiveAction, Event, VoteResult
from support.agent_world import AgentWorld, agent_world
from support.audit_world import begin, instances
from support.inline_store import EPOCH, wall_clock
from support.rounds_cases import ENDS_S, agrees_s
from support.scripted_host import HOSTNAME, INSTANCE, VM

pytestmark = pytest.mark.usefixtures("autojump_clock")

DOWN = NotSent("connection refused")


async def given_up(world: AgentWorld) -> list[HistoryEntry]:
    """What was published of it, the oldest first, which is what the history keeps of it."""
    published = [one for one in world.agent.history.recent if one.kind == "undelivered"]
    kept = [one.entry for one in await world.store.history() if one.entry.kind == "undelivered"]
    assert published == kept[::-1]
    assert world.agent.delivery is not None
    assert world.agent.delivery.status.undelivered == len(published)
    return published


async def test_a_verdict_that_is_too_late(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "hbtrio.vim")
    async with agent_world(tmp_path) as world:
        host = await world.bound_host()
        host.answering(VoteResult.REJECT, "no")
        await wait_all_tasks_blocked()
        world.vim.next = [DOWN] * 100
        with world.agent.history.follow() as events, trio.fail_after(100):
            asked = await world.ask(Event.STOP, vote=True)
            await trio.sleep(ENDS_S - 0.001)
            assert (await events.receive()).kind == "vote"
            assert await given_up(world) == []
            # It is told at the moment in which it is of no use any more.
            told = await events.receive()
            assert trio.current_time() == ENDS_S
        assert told.time == EPOCH.replace(second=ENDS_S)
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


async def test_a_verdict_that_is_refused(world: AgentWorld) -> None:
    await world.bound_host()
    await wait_all_tasks_blocked()
    world.vim.next = [ErrorStatus(400)]
    await world.ask(Event.STOP, vote=False)
    await world.at(1)
    [entry] = await given_up(world)
    assert (entry.reason, entry.event, entry.result) == (
        "action: the VIM answered with status 400",
        Event.STOP,
        VoteResult.COMPLETE,
    )


async def test_alarms_that_had_to_make_room(
    caplog: pytest.LogCaptureFixture, world: AgentWorld
) -> None:
    host = await world.bound_host()
    await wait_all_tasks_blocked()
    world.vim.next = [DOWN] * 1000
    for _ in range(ALARMS_PER_INSTANCE + 3):
        await host.report("unhealthy", corrective_action=CorrectiveAction.REBOOT)
    await host.settle()
    await world.at(40)
    dropped = await given_up(world)
    reason = f"alarm: {ALARMS_PER_INSTANCE} newer alarms of the instance were waiting"
    assert [(one.uuid, one.hostname, one.reason) for one in dropped] == [(VM, HOSTNAME, reason)] * 3
    assert caplog.messages.count(f"{VM}: not delivered: {reason}") == 3
    # What was not given up is delivered when the VIM is back.
    world.vim.next.clear()
    await world.at(200)
    assert len(world.vim.received("alarm")) == ALARMS_PER_INSTANCE
    assert len(await given_up(world)) == 3


async def test_what_was_given_up_before_a_restart_is_not_told_of_again(tmp_path: Path) -> None:
    async with agent_world(tmp_path) as world:
        await world.bound_host()
        await wait_all_tasks_blocked()
        world.vim.next = [ErrorStatus(400)]
        await world.ask(Event.STOP, vote=True)
        await world.at(1)
        assert len(await given_up(world)) == 1
    async with agent_world(tmp_path, number=1) as world:
        await world.at(40)
        assert "undelivered" not in {one.kind for one in world.agent.history.recent}
        states = [one.state for one in await world.store.outbox() if one.kind == "action"]
        assert states == [OutboxState.UNDELIVERED]


async def test_a_disk_that_is_full_tells_of_it_later(world: AgentWorld) -> None:
    await world.bound_host()
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


# -- states, which can be told again ---------------------------------------------------------------


@pytest.mark.slow
async def test_a_state_that_was_given_up_is_told_again_when_the_vim_is_asked(
    caplog: pytest.LogCaptureFixture, world: AgentWorld
) -> None:
    caplog.set_level(logging.WARNING, "hbtrio.vim")
    world.vim.next = [ErrorStatus(503)] * 66
    await world.bound_host()
    await world.at(GIVE_UP_S + 100)
    fault = "service: the VIM answered with status 503, again and again for 1 h"
    assert [one.reason for one in await given_up(world)] == [fault]
    assert caplog.messages == [f"{VM}: not delivered: {fault}"]
    world.vim.next.clear()
    await world.at(GIVE_UP_S + 500)
    assert world.vim.got == []
    asked = begin(world)
    asked.instances = instances(VM)
    await world.at(GIVE_UP_S + 501)
    [(at, told)] = world.vim.received("service")
    assert (at, told["status"]) == (GIVE_UP_S + 500, "enabled")
    # Once.
    await world.at(GIVE_UP_S + 600)
    assert len(world.vim.got) == 1
    # Nor is it told at each audit what it then does not want.
    world.vim.next = [ErrorStatus(404)] * 100
    await world.agent.states.notify(
        [attrs.evolve(world.agent.fleet.instance(VM), hostname="other")]
    )
    await world.at(GIVE_UP_S + 700)
    assert len(world.vim.next) == 99


@pytest.mark.slow
@pytest.mark.parametrize("refusal", [ErrorStatus(503), ErrorStatus(404)])
async def test_a_state_that_was_given_up_is_told_again_when_its_host_is_back(
    refusal: ErrorStatus, world: AgentWorld
) -> None:
    world.vim.next = [refusal] * 66
    host = await world.bound_host()
    await world.at(GIVE_UP_S + 100)
    assert len(await given_up(world)) == 1
    world.vim.next.clear()
    if refusal.status == 404:
        # What it does not want it is not told at each audit.
        await world.agent.states.notify_again(world.agent.fleet.instance(VM))
        await world.at(GIVE_UP_S + 200)
        assert world.vim.got == []
    await host.cut()
    await wait_all_tasks_blocked()
    await host.dial(world.agent.links, world.nursery)
    await wait_all_tasks_blocked()
    assert [told["status"] for _, told in world.vim.received("service")] == ["enabled"]


async def test_what_is_given_up_of_a_deleted_instance_is_forgotten(world: AgentWorld) -> None:
    world.vim.next = [ErrorStatus(503)] * 66
    await world.bound_host()
    bound = world.agent.fleet.instance(VM)
    await world.agent.inventory.delete_instance(VM)
    await world.at(GIVE_UP_S + 100)
    assert len(await given_up(world)) == 1
    world.vim.next.clear()
    await world.agent.states.notify_again(bound)
    await world.at(GIVE_UP_S + 200)
    assert world.vim.got == []


# -- clocks that are set ---------------------------------------------------------------------------


@pytest.mark.parametrize("step_s", [20, -300])
async def test_a_clock_that_is_set_within_a_window(
    monkeypatch: pytest.MonkeyPatch, step_s: float, world: AgentWorld
) -> None:
    """The VIM's own timer does not care."""
    step = timedelta(0)
    for module in ("inline_store", "agent_world"):
        monkeypatch.setattr(f"support.{module}.wall_clock", lambda: wall_clock() + step)
    host = await world.bound_host()
    host.silent()
    for answered_s in (1, 7):
        begun = trio.current_time()
        await world.ask(Event.STOP, vote=True)
        await trio.sleep(1)
        step += timedelta(seconds=step_s)
        # The host's word, or none.
        if answered_s == 1:
            await host.outcome(host.commands[-1], VoteResult.REJECT, "busy")
            await host.settle()
        await trio.sleep(ENDS_S)
        [(at, *_)] = [one for one in world.vim.verdicts if one[0] >= begun]
        assert begun < at < begun + ENDS_S
        # For a next process, which can only go by the wall clock.
        [kept, *_] = [one for one in await world.store.outbox() if one.command_id]
        assert kept.expires_at is not None
        left = kept.expires_at - kept.queued_at
        assert timedelta(0) < left < timedelta(seconds=ENDS_S)
    # What can't be sent in time is given up in time.
    world.vim.next = [DOWN] * 100
    host.answering(VoteResult.REJECT, "no")
    await world.ask(Event.STOP, vote=True)
    step += timedelta(seconds=step_s)
    await trio.sleep(ENDS_S - 0.001)
    assert await given_up(world) == []
    await trio.sleep(0.001)
    await wait_all_tasks_blocked()
    assert len(await given_up(world)) == 1


@pytest.mark.slow
async def test_history_is_kept_whatever_a_hosts_clock_says(world: AgentWorld) -> None:
    host = await world.bound_host()
    for host.clock in ("2024-11-01T00:00:00+00:00", "2025-11-01T00:00:00+00:00"):
        await host.report_lost()
    await host.settle()
    await world.at(2 * 3600)
    losses = [one for one in await world.store.history() if one.entry.kind == "loss"]
    assert [one.entry.time.isoformat() for one in losses] == [
        "2025-11-01T00:00:00+00:00",
        "2024-11-01T00:00:00+00:00",
    ]


@pytest.mark.parametrize("silent", [True, False])
async def test_the_time_of_asking_is_kept(silent: bool, world: AgentWorld) -> None:
    host = await world.bound_host()
    await world.at(3)

    async def on_round(command: RoundCommand) -> None:
        # Another round had to end before.
        await trio.sleep(0.5)
        await host.opens(command)
        await trio.sleep(0.5)
        if not silent:
            await host.outcome(command, VoteResult.REJECT, "busy")

    host.on_round = on_round
    await world.ask(Event.STOP, vote=True)
    await world.at(20)
    [kept, *_] = [one.entry for one in await world.store.history()]
    assert kept.asked_at == EPOCH.replace(second=3)
    published = [one for one in world.agent.history.recent if one.kind == "vote"]
    assert published == [kept]
    if silent:
        # The window began where the host had opened it.
        at = EPOCH.replace(second=3) + timedelta(seconds=0.5 + agrees_s(INSTANCE.vote_s))
        assert kept.time == at
