"""A real agent that is stopped over its own deadlines, with what decides them in its socket."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import trio

from hbtrio.fsm.alarm_hold import SETTLE_S
from hbtrio.nursery.agent.rounds import PATIENCE_S
from hbtrio.policy.begin_by import REPLY_S
from hbtrio.wire.link_messages import RoundCommand
from support.failing_host import FailingHost, names
from support.real_agent import RealAgent, real_agent
from support.real_processes import logged
from support.scripted_host import HOST_UUID, HOSTNAME

pytestmark = pytest.mark.processes

#: How long before the deadline the agent is stopped, and how long after it it goes on.
BEFORE_S = 0.5
AFTER_S = 0.3

#: The interval of the instances, for which an alarm is held.
INTERVAL_S = 1.0

GRACE_S = 2.0

#: In which the VIM would have what the agent has decided.
SOON_S = 1.0

#: Attempts of this process to be in time.
ATTEMPTS = 10

#: Whether the agent was stopped in time, and what was seen.
Attempt = tuple[bool, object]

HELD = "alarms of its instances are held back"


async def test_it_alarms_no_vm_that_has_returned_while_alarms_were_held(home: Path) -> None:
    async with real_agent(home) as agent:
        host = await introduced(agent, FailingHost(4))

        async def attempt(_: int) -> Attempt:
            before = len(agent.vim.patches("alarm"))
            held = agent.log.count(HELD)
            for uuid in names(4):
                await host.report_lost(uuid)
            await logged(agent.daemon.log, HELD, held + 1)
            await host.report_heartbeating(names(4)[0])
            await host.settle()
            others = names(4)[1:]
            in_time = await stop_over(agent, SETTLE_S, lambda: report_returns(host, others))
            return in_time, agent.vim.patches("alarm")[before:]

        assert await in_time_one(attempt) == []
        assert "alarms released: its instances have recovered: 0 sent" in agent.log


async def test_it_alarms_no_vm_that_has_returned_within_its_interval(home: Path) -> None:
    async with real_agent(home) as agent:
        host = await introduced(agent, FailingHost(4))
        lost = names(4)[:1]

        async def attempt(_: int) -> Attempt:
            before = len(agent.vim.patches("alarm"))
            await host.report_lost(lost[0])
            await host.settle()
            # Behind what the store has to take first.
            returns = names(4)[1:] * 10 + lost
            in_time = await stop_over(agent, INTERVAL_S, lambda: report_returns(host, returns))
            return in_time, agent.vim.patches("alarm")[before:]

        for _ in range(3):
            assert await in_time_one(attempt) == []


async def test_it_does_not_give_up_a_host_that_has_dialled_again(home: Path) -> None:
    async with real_agent(home, grace_s=GRACE_S) as agent:
        host = await introduced(agent, FailingHost(4))

        async def attempt(_: int) -> Attempt:
            before = len(agent.vim.patches("service"))
            given_up = await unreachable(agent)
            await host.cut()
            in_time = await stop_over(agent, GRACE_S, lambda: dial(agent, host))
            with trio.fail_after(10 * SOON_S):
                await host.until(lambda: host.welcome is not None)
            states = {state_of(body) for body in agent.vim.patches("service")[before:]}
            return in_time, (states - {"enabled"}, await unreachable(agent) - given_up)

        assert await in_time_one(attempt) == (set(), 0)


async def test_a_host_s_reply_that_has_arrived_reaches_the_vim(home: Path) -> None:
    async with real_agent(home) as agent:
        host = await introduced(agent, FailingHost(ATTEMPTS))
        received, commands = trio.open_memory_channel[RoundCommand](1)
        statuses: list[int] = []

        async def ask(uuid: str) -> None:
            about = {"uuid": uuid, "hostname": HOSTNAME, "action": "stop"}
            answer = await agent.ask("POST", f"/v1/instances/{uuid}/vote", about)
            statuses.append(answer.status)

        host.on_round = received.send

        async def attempt(number: int) -> Attempt:
            statuses.clear()
            async with trio.open_nursery() as nursery:
                # Another one each time: the vote on the last one may be open still.
                nursery.start_soon(ask, names(ATTEMPTS)[number])
                command = await commands.receive()
                reply_s = REPLY_S + PATIENCE_S
                in_time = await stop_over(agent, reply_s, lambda: host.agree(command))
            return in_time, statuses

        assert await in_time_one(attempt) == [200]


# ----------------------------------------------------------------------------------------------


async def introduced(agent: RealAgent, host: FailingHost) -> FailingHost:
    """The VIM tells of the host and its instances, and wants to hear of their losses."""
    await agent.host(host)
    about = {"uuid": HOST_UUID, "hostname": HOSTNAME}
    assert (await agent.ask("POST", f"/v1/hosts/{HOST_UUID}", about)).status == 200
    assert (await agent.ask("PUT", f"/v1/hosts/{HOST_UUID}/enable", about)).status == 200
    for uuid in host.instances:
        about = {"uuid": uuid, "hostname": HOSTNAME}
        new = about | {"services": ["heartbeat"]}
        assert (await agent.ask("POST", f"/v1/instances/{uuid}", new)).status == 200
        change = about | {"services": [{"service": "heartbeat", "state": "enabled"}]}
        assert (await agent.ask("PATCH", f"/v1/instances/{uuid}", change)).status == 200
    return host


async def in_time_one(attempt: Callable[[int], Awaitable[Attempt]]) -> object:
    """Returns what was seen in the first attempt in which this process was in time itself.

    In another one nobody knows what the agent knew.
    """
    for number in range(ATTEMPTS):
        with trio.fail_after(60):
            in_time, seen = await attempt(number)
        if in_time:
            return seen
    raise AssertionError("this machine is too busy")


async def stop_over(
    agent: RealAgent, deadline_s: float, meanwhile: Callable[[], Awaitable[object]]
) -> bool:
    """Stops the agent over a deadline so long from now, and does something before that.

    Returns whether the agent was stopped before the deadline.
    """
    deadline = trio.current_time() + deadline_s
    await trio.sleep_until(deadline - BEFORE_S)
    agent.daemon.freeze()
    # What the agent waits for has begun a little earlier.
    in_time = trio.current_time() < deadline - BEFORE_S / 2
    await meanwhile()
    await trio.sleep_until(deadline + AFTER_S)
    agent.daemon.thaw()
    await trio.sleep(SOON_S)
    return in_time


async def report_returns(host: FailingHost, uuids: list[str]) -> None:
    for uuid in uuids:
        await host.report_heartbeating(uuid)


async def dial(agent: RealAgent, host: FailingHost) -> None:
    """The agent's kernel takes the connection, and hello."""
    stream = await trio.open_unix_socket(str(agent.directory / "link"))
    agent.nursery.start_soon(host.begin, stream, agent.nursery)


def state_of(body: dict[str, object]) -> str:
    data = body["event-data"]
    assert isinstance(data, dict)
    state = data["services"][0]["state"]
    assert isinstance(state, str)
    return state


async def unreachable(agent: RealAgent) -> int:
    """How often hosts were given up."""
    history = (await agent.operate("GET", "/v1/history?limit=100"))["history"]
    return sum(one["kind"] == "host-unreachable" for one in history)
