"""A report that has arrived beats a deadline of the agent, in whatever order its tasks run.

A stall is a jump of the clock over the deadline, with the report already in the link.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock, memory_stream_pair, wait_all_tasks_blocked

from hbtrio.fsm.alarm_hold import SETTLE_S
from hbtrio.nursery.agent.rounds import PATIENCE_S
from hbtrio.nursery.agent.unasked_rounds import CantAsk
from hbtrio.nursery.agent.vim_steps import STEP_S
from hbtrio.nursery.time_guard import TAKE_IN_S
from hbtrio.policy.begin_by import REPLY_S
from hbtrio.wire.link_messages import RoundCommand
from hbtrio.wire.vocabulary import ActionName, Event, VoteResult
from support.agent_world import AgentWorld, agent_world
from support.failing_host import FailingHost, alarmed, names
from support.run_order import ORDERS, folders, in_every_order
from support.scripted_host import HOSTNAME, VM, ScriptedHost

pytestmark = pytest.mark.slow

BEFORE_S = 0.05

STALLS = pytest.mark.parametrize("stall_s", [0.1, 0.6, 12.0])

#: The same, and how long the store takes for each transaction.
SLOW_STORE = pytest.mark.parametrize(
    ("stall_s", "store_s"), [(0.1, 0.0), (0.6, 0.004), (12.0, 0.004)]
)

GRACE_S = 5.0


async def losing(world: AgentWorld, *uuids: str) -> FailingHost:
    """A host with four instances, which loses these at 10 s."""
    host = await world.bound_host(host=FailingHost(4))
    await world.at(10)
    await host.loses_at_once(*uuids)
    return host


async def redial(host: FailingHost, world: AgentWorld) -> None:
    """The host has noticed that the link is dead; its instances are well."""
    await host.cut()
    for uuid in host.instances:
        host.be_well(uuid)
    world.nursery.start_soon(host.dial, world.agent.links, world.nursery)


async def report_others(host: FailingHost) -> None:
    """What the agent has to read, and its store to take, before that which matters."""
    for _ in range(6):
        await host.report_heartbeating(names(4)[3])


async def report_returns(host: FailingHost, world: AgentWorld) -> None:
    for uuid in host.instances:
        await host.report_heartbeating(uuid)


RETURNS = pytest.mark.parametrize("returns", [report_returns, redial])
Returns = Callable[[FailingHost, AgentWorld], Awaitable[None]]


@SLOW_STORE
@RETURNS
def test_the_others_return_while_alarms_are_held(
    stall_s: float, store_s: float, returns: Returns, tmp_path: Path
) -> None:
    folder = folders(tmp_path)

    async def scenario(clock: MockClock) -> list[tuple[float, str]]:
        async with agent_world(next(folder)) as world:
            host = await losing(world, *names(4))
            await world.at(20)
            await host.report_heartbeating(names(4)[0])
            await world.at(20 + SETTLE_S - BEFORE_S)
            world.worker.slow_s = store_s
            await returns(host, world)
            clock.jump(stall_s)
            await world.sleep(SETTLE_S + 10)
            return alarmed(world)

    assert in_every_order(scenario) == [[]] * ORDERS


@SLOW_STORE
def test_a_return_within_the_interval_that_its_alarm_is_held(
    stall_s: float, store_s: float, tmp_path: Path
) -> None:
    folder = folders(tmp_path)

    async def scenario(clock: MockClock) -> list[tuple[float, str]]:
        async with agent_world(next(folder)) as world:
            host = await losing(world, names(4)[0])
            await world.at(11 - BEFORE_S)
            world.worker.slow_s = store_s
            await report_others(host)
            await host.report_heartbeating(names(4)[0])
            clock.jump(stall_s)
            await world.sleep(20)
            return alarmed(world)

    assert in_every_order(scenario) == [[]] * ORDERS


@SLOW_STORE
def test_further_failures_that_have_arrived_are_judged_together(
    stall_s: float, store_s: float, tmp_path: Path
) -> None:
    """One lost instance would be alarmed; with the others in the link it is the host."""
    folder = folders(tmp_path)

    async def scenario(clock: MockClock) -> list[tuple[float, str]]:
        async with agent_world(next(folder)) as world:
            host = await losing(world, names(4)[0])
            await world.at(11 - BEFORE_S)
            world.worker.slow_s = store_s
            await report_others(host)
            for uuid in names(4)[1:]:
                await host.report_lost(uuid)
            clock.jump(stall_s)
            await world.sleep(20)
            return alarmed(world)

    assert in_every_order(scenario) == [[]] * ORDERS


@SLOW_STORE
def test_a_host_that_has_dialled_again(stall_s: float, store_s: float, tmp_path: Path) -> None:
    folder = folders(tmp_path)

    async def scenario(clock: MockClock) -> list[str]:
        async with agent_world(next(folder), grace_s=GRACE_S) as world:
            host = await world.bound_host()
            await world.at(10)
            await host.cut()
            await world.at(10 + GRACE_S - BEFORE_S)
            world.worker.slow_s = store_s
            world.nursery.start_soon(host.dial, world.agent.links, world.nursery)
            clock.jump(stall_s)
            await world.sleep(GRACE_S + 5)
            history = [one.entry.kind for one in await world.store.history()]
            states = [event["state"] for _, event in world.vim.received("service")]
            return [*history, *states]

    assert in_every_order(scenario) == [["enabled"]] * ORDERS


@pytest.mark.parametrize("store_s", [0.0, 0.004])
@pytest.mark.parametrize("stall_s", [0.1, 0.75, 3.0])
def test_a_return_by_the_end_of_the_wait_for_the_vim_s_step(
    stall_s: float, store_s: float, tmp_path: Path
) -> None:
    """The VIM is told nothing of an instance that is as well as before the notice."""
    folder = folders(tmp_path)

    async def scenario(clock: MockClock) -> list[str]:
        async with agent_world(next(folder)) as world:
            host = await world.bound_host()
            host.answering(VoteResult.COMPLETE)
            await world.at(10)
            await world.ask(Event.PAUSE, vote=False)
            await wait_all_tasks_blocked()
            await host.report_stopped()
            world.vim.got.clear()
            await world.at(10 + STEP_S - BEFORE_S)
            world.worker.slow_s = store_s
            for _ in range(6):
                await host.report("stopped", VM, "guest exited: Exiting...")
            await host.report_heartbeating()
            clock.jump(stall_s)
            await world.sleep(20)
            return [event["status"] for _, event in world.vim.received("service")]

    assert in_every_order(scenario) == [[]] * ORDERS


@pytest.mark.parametrize("stall_s", [3.0, 600.0])
def test_the_grace_time_is_time_in_which_a_host_could_dial(stall_s: float, tmp_path: Path) -> None:
    """A host whose attempt was not answered comes again, a little after the stall."""
    folder = folders(tmp_path)

    async def scenario(clock: MockClock) -> list[str]:
        async with agent_world(next(folder), grace_s=GRACE_S) as world:
            host = await world.bound_host()
            await world.at(10)
            await host.cut()
            await world.at(11)
            clock.jump(stall_s)
            await world.sleep(GRACE_S - 1.5)
            world.nursery.start_soon(host.dial, world.agent.links, world.nursery)
            await world.sleep(GRACE_S + 5)
            return [one.entry.kind for one in await world.store.history()]

    assert in_every_order(scenario) == [[]] * ORDERS


async def test_a_host_that_does_not_dial_is_unreachable_also_after_stalls(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with agent_world(tmp_path, grace_s=GRACE_S) as world:
        host = await world.bound_host()
        await world.at(10)
        await host.cut()
        for _ in range(3):
            await world.sleep(1)
            autojump_clock.jump(20)
        await world.sleep(GRACE_S - 3 - 0.5)
        assert await world.store.history() == ()
        await world.sleep(1)
        assert [one.entry.kind for one in await world.store.history()] == ["host-unreachable"]


@STALLS
@pytest.mark.parametrize("vote", [True, False])
def test_a_host_s_reply_to_a_command(stall_s: float, vote: bool, tmp_path: Path) -> None:
    folder = folders(tmp_path)

    async def scenario(clock: MockClock) -> int:
        async with agent_world(next(folder)) as world:
            host = await world.bound_host()

            async def reply_late(command: RoundCommand) -> None:
                await trio.sleep(REPLY_S + PATIENCE_S - BEFORE_S)
                await host.opens(command)
                clock.jump(stall_s)

            host.on_round = reply_late
            asked = await world.ask(Event.STOP, vote=vote, uuid=VM)
            return asked.seconds

    expected = ScriptedHost().instances[VM]
    seconds = expected.vote_s if vote else expected.shutdown_notice_s
    assert in_every_order(scenario) == [seconds] * ORDERS


@pytest.mark.parametrize("snapshot", ["whole", "begun"])
def test_a_request_finds_the_host_that_has_dialled_before_it(snapshot: str, tmp_path: Path) -> None:
    """Both have come while the agent was stopped; the host may not have told of all yet."""
    folder = folders(tmp_path)

    async def scenario(clock: MockClock) -> tuple[int, str]:
        async with agent_world(next(folder)) as world:
            host = await world.bound_host(host=FailingHost(4))
            await world.at(10)
            await host.cut()
            await world.settle()
            clock.jump(20.0)
            world.worker.slow_s = 0.003 if snapshot == "begun" else 0.0
            world.nursery.start_soon(host.dial, world.agent.links, world.nursery)
            asked = await world.agent.rounds.ask(names(4)[3], Event.STOP, vote=True, who="vim")
            await host.cut()
            await world.settle()
            world.nursery.start_soon(host.dial, world.agent.links, world.nursery)
            action = await world.agent.actions.begin(
                names(4)[3], ActionName.REBOOT, ("true",), force=True, who="root"
            )
            return asked.seconds, action.hostname

    assert in_every_order(scenario) == [(9, HOSTNAME)] * ORDERS


async def test_a_request_does_not_wait_long_for_strangers(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with agent_world(tmp_path) as world:
        host = await world.bound_host()
        await world.at(10)
        await host.cut()
        _, theirs = memory_stream_pair()
        world.nursery.start_soon(world.agent.links.serve, theirs)
        await world.settle()
        with pytest.raises(CantAsk):
            await world.agent.rounds.ask(VM, Event.STOP, vote=True, who="vim")
        assert trio.current_time() == pytest.approx(10.0 + TAKE_IN_S, abs=0.002)


async def test_strangers_postpone_no_end_of_the_grace_time(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with agent_world(tmp_path, grace_s=2.0) as world:
        host = await world.bound_host()
        await world.at(10)
        await host.cut()
        await world.settle()
        _, theirs = memory_stream_pair()
        world.nursery.start_soon(world.agent.links.serve, theirs)
        await world.at(12 + TAKE_IN_S + 0.01)
        assert [one.entry.kind for one in await world.store.history()] == ["host-unreachable"]


async def test_a_host_that_sends_without_end_postpones_no_alarm(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with agent_world(tmp_path) as world:
        host = await world.bound_host(host=FailingHost(4))
        await world.at(10)
        await host.loses_at_once(names(4)[0])
        world.worker.slow_s = 0.01

        async def send_on() -> None:
            while True:
                await host.report_heartbeating(names(4)[3])
                await trio.sleep(0.01)

        world.nursery.start_soon(send_on)
        await world.at(11 + TAKE_IN_S + 0.1)
        assert [uuid for _, uuid in alarmed(world)] == names(4)[:1]
