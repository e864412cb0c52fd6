"""Commands that a host reads, or could begin, later than their moment: it does nothing."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any

import attrs
import pytest
import trio
from trio.testing import MockClock

from hbtrio.policy.begin_by import BEGIN_S
from hbtrio.wire.channel_messages import ActionNotify
from hbtrio.wire.link_messages import (
    ActCommand,
    ActionProgress,
    Hello,
    LinkReport,
    Ping,
    Pong,
    Reply,
    RoundCommand,
)
from hbtrio.wire.vocabulary import ActionName, Event, VoteResult
from support.actions_cases import freezes
from support.fake_processes import FakeRun
from support.host_world import VOTE, Acted, ScriptedGuest
from support.host_world import Reply as GuestReply
from support.linked_host import IDENTITY, Linked, linked
from support.run_order import ORDERS, in_every_order

RUNS = {"virsh": FakeRun()}

#: How long a host is stopped, as in the field: the agent has given up long since.
STALL_S = 89.0

#: Until when the commands of these tests may begin, from when they are sent.
WITHIN_S = 5.0


def stop(guest: ScriptedGuest, *, vote: bool, until_s: float, boot_id: str = "boot-1") -> Any:
    return RoundCommand("c-1", guest.uuid, Event.STOP, vote, 1.0, until_s, boot_id)


def pause(guest: ScriptedGuest, *, until_s: float, force: bool = False) -> Any:
    argv = ("virsh", "suspend")
    return ActCommand("c-1", guest.uuid, "pause", argv, force, 1.0, until_s, "boot-1")


def asked(guest: ScriptedGuest) -> list[ActionNotify]:
    return [one for one in guest.messages if isinstance(one, ActionNotify)]


def did_nothing(on: Linked, guest: ScriptedGuest) -> bool:
    """No vote, no notice, no command, no suspension."""
    outcomes = [one for one in on.agent.of(LinkReport) if one.command_id]
    channel = on.world.channel(guest)
    untouched = channel.heartbeating and channel.round is None and not on.world.host.actions
    return untouched and not (asked(guest) or outcomes or len(on.world.processes.started))


# -- read too late --------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["vote", "notice", "act", "forced act"])
@pytest.mark.parametrize("late_s", [0.001, STALL_S])
async def test_a_command_that_is_read_too_late(
    kind: str, late_s: float, autojump_clock: MockClock
) -> None:
    async with linked(runs=RUNS) as on:
        guest = await on.world.heartbeating()
        await on.world.sleep(STALL_S)
        until_s = trio.current_time() - late_s
        command = {
            "vote": stop(guest, vote=True, until_s=until_s),
            "notice": stop(guest, vote=False, until_s=until_s),
            "act": pause(guest, until_s=until_s),
            "forced act": pause(guest, until_s=until_s, force=True),
        }[kind]
        await on.agent.send(command)
        reason = f"expired {late_s:.1f} s ago: nothing was done"
        assert on.agent.of(Reply) == [Reply("c-1", False, reason)]
        await on.world.sleep(60)
        assert did_nothing(on, guest)


@pytest.mark.parametrize("boot_id", ["boot-0", ""])
async def test_a_command_for_an_earlier_process(boot_id: str, autojump_clock: MockClock) -> None:
    async with linked(runs=RUNS) as on:
        guest = await on.world.heartbeating()
        await on.agent.send(stop(guest, vote=True, until_s=1e9, boot_id=boot_id))
        [reply] = on.agent.of(Reply)
        assert reply.reason == "expired, it was for another process: nothing was done"
        assert did_nothing(on, guest)


async def test_a_command_in_time_and_one_of_an_older_agent(autojump_clock: MockClock) -> None:
    async with linked(runs=RUNS) as on:
        guest = await on.world.heartbeating()
        await on.agent.send(stop(guest, vote=True, until_s=trio.current_time()))
        await on.agent.send(RoundCommand("old", guest.uuid, Event.STOP, False, 1.0))
        assert [one.ok for one in on.agent.of(Reply)] == [True, True]


async def test_hello_and_pongs_carry_the_clock(autojump_clock: MockClock) -> None:
    async with linked() as on:
        [hello] = on.agent.of(Hello)
        assert (hello.clock_s, hello.boot_id) == (1.0, IDENTITY.boot_id)
        await on.world.sleep(2.5)
        await on.agent.send(Ping(7))
        assert on.agent.of(Pong) == [Pong(7, trio.current_time())]


# -- stopped over the moment, in every order of the tasks ------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("vote", [True, False])
def test_a_host_that_was_stopped_with_a_command_in_the_link(vote: bool) -> None:
    async def scenario(clock: MockClock) -> tuple[str, bool]:
        async with linked(runs=RUNS) as on:
            guest = await on.world.heartbeating()
            clock.jump(STALL_S)  # before the host has run, so that what follows lies in its socket
            until_s = trio.current_time() - STALL_S + WITHIN_S
            await on.agent.send(stop(guest, vote=vote, until_s=until_s))
            await on.world.sleep(5)
            [reply] = on.agent.of(Reply)
            return reply.reason, did_nothing(on, guest)

    expected = (f"expired {STALL_S - WITHIN_S:.1f} s ago: nothing was done", True)
    assert in_every_order(scenario) == [expected] * ORDERS


@pytest.mark.slow
@pytest.mark.parametrize("stall_s", [WITHIN_S + 0.01, STALL_S])
def test_a_notice_that_waits_for_a_vote_while_the_host_is_stopped(stall_s: float) -> None:
    """The vote's answer is in the channel, and makes way for the notice: too late."""

    async def scenario(clock: MockClock) -> tuple[bool, list[bool]]:
        async with linked(runs=RUNS) as on:
            guest = await on.world.heartbeating(vote_secs=100)
            guest.reply = lambda asked: GuestReply(VoteResult.ACCEPT, after_s=0.5)
            on.world.vote(guest)
            await on.world.settle()
            until_s = trio.current_time() + WITHIN_S
            await on.agent.send(stop(guest, vote=False, until_s=until_s))
            await trio.sleep(0.4)
            clock.jump(stall_s)
            await on.world.sleep(5)
            [reply] = on.agent.of(Reply)
            kinds = [one.notification_type is VOTE for one in asked(guest)]
            return reply.reason.startswith("expired"), kinds

    assert in_every_order(scenario) == [(True, [True])] * ORDERS


@pytest.mark.slow
def test_an_action_that_was_accepted_and_then_stopped_before_its_first_step() -> None:
    async def scenario(clock: MockClock) -> tuple[str, bool]:
        async with linked(runs=RUNS) as on:
            guest = await on.world.heartbeating()
            bound = on.world.host.clock.begin_by(trio.current_time() + WITHIN_S, "boot-1")
            begin = on.world.host.begin_action
            run = begin(guest.uuid, ActionName.PAUSE, ("virsh",), force=True, begin_by=bound)
            clock.jump(STALL_S)
            acted = Acted(run)
            await acted.watch()
            await on.world.sleep(5)
            assert acted.lines[-1]["step"] == "end"
            return acted.lines[-1]["reason"], did_nothing(on, guest)

    expected = (f"expired {STALL_S - WITHIN_S:.1f} s ago: nothing was done", True)
    assert in_every_order(scenario) == [expected] * ORDERS


# -- an action that waits for a vote of somebody else ----------------------------------------------


async def waiting_action(
    force: bool, meanwhile: Callable[[Linked, ScriptedGuest], Awaitable[None]]
) -> tuple[list[dict[str, Any]], list[ActionNotify], int]:
    async with linked(runs=RUNS) as on:
        guest = await on.world.heartbeating(vote_secs=30)
        guest.reply = lambda asked: GuestReply(VoteResult.ACCEPT, after_s=20)
        on.world.vote(guest)
        await on.world.settle()
        until_s = trio.current_time() + WITHIN_S
        await on.agent.send(attrs.evolve(pause(guest, until_s=until_s), force=force))
        await meanwhile(on, guest)
        await on.world.sleep(200)
        lines = [json.loads(one.line) for one in on.agent.of(ActionProgress) if not one.last]
        return lines, asked(guest)[1:], len(on.world.processes.started)


@pytest.mark.parametrize("force", [True, False])
async def test_it_may_wait_for_as_long_as_it_has_announced(
    force: bool, autojump_clock: MockClock
) -> None:
    async def nothing(_: Linked, guest: ScriptedGuest) -> None:
        freezes(guest)

    lines, rounds, runs = await waiting_action(force, nothing)
    assert lines[0]["waiting"]
    assert lines[-1]["outcome"] == "done"
    assert (len(rounds), runs) == (1 if force else 2, 1)


@pytest.mark.slow
@pytest.mark.parametrize("force", [True, False])
def test_it_expires_if_the_host_is_stopped_meanwhile(force: bool) -> None:
    async def scenario(clock: MockClock) -> tuple[str, int, int]:
        async def stopped(on: Linked, guest: ScriptedGuest) -> None:
            await on.world.sleep(10)
            clock.jump(STALL_S)

        lines, rounds, runs = await waiting_action(force, stopped)
        return lines[-1]["reason"].partition(" ")[0], len(rounds), runs

    assert 30 + BEGIN_S < STALL_S
    assert in_every_order(scenario) == [("expired", 0, 0)] * ORDERS
