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

HELD = "alarms of its instances are held back"


async def test_it_alarms_no_vm_that_has_returned_while_alarms_were_held(home: Path) -> None:
    async with real_agent(home) as agent:
        host = await introduced(agent, FailingHost(4))

        async def attempt() -> bool:
            held = agent.log.count(HELD)
            for uuid in names(4):
                await host.report_lost(uuid)
            await logged(agent.daemon.log, HELD, held + 1)
            await host.report_heartbeating(names(4)[0])
            await host.settle()
            others = names(4)[1:]
            return await stop_over(agent, SETTLE_S, lambda: report_returns(host, others))

        await until_in_time(attempt)
        assert agent.vim.patches("alarm") == []
        assert "alarms released: its instances have recovered: 0 sent" in agent.log


async def test_it_alarms_no_vm_that_has_returned_within_its_interval(home: Path) -> None:
    async with real_agent(home) as agent:
        host = await introduced(agent, FailingHost(4))
        lost = names(4)[:1]

        async def attempt() -> bool:
            await host.report_lost(lost[0])
            await host.settle()
            # Behind what the store has to take first.
            returns = names(4)[1:] * 10 + lost
            return await stop_over(agent, INTERVAL_S, lambda: report_returns(host, returns))

        for _ in range(3):
            await until_in_time(attempt)
        assert agent.vim.patches("alarm") == []


async def test_it_does_not_give_up_a_host_that_has_dialled_again(home: Path) -> None:
    async with real_agent(home, grace_s=GRACE_S) as agent:
        host = await introduced(agent, FailingHost(4))
        before = len(agent.vim.patches("service"))

        async def attempt() -> bool:
            await host.cut()
            in_time = await stop_over(agent, GRACE_S, lambda: dial(agent, host))
            with trio.fail_after(SOON_S):
                await host.until(lambda: host.welcome is not None)
            return in_time

        await until_in_time(attempt)
        states = [state_of(body) for body in agent.vim.patches("service")[before:]]
        assert set(states) <= {"enabled"}
        history = (await agent.operate("GET", "/v1/history?limit=100"))["history"]
        assert [one for one in history if one["kind"] == "host-unreachable"] == []


async def test_a_host_s_reply_that_has_arrived_reaches_the_vim(home: Path) -> None:
    async with real_agent(home) as agent:
        host = await introduced(agent, FailingHost(4))
        asked: list[RoundCommand] = []
        statuses: list[int] = []

        async def keep(command: RoundCommand) -> None:
            asked.append(command)

        async def ask() -> None:
            about = {"uuid": names(4)[0], "hostname": HOSTNAME, "action": "stop"}
            answer = await agent.ask("POST", f"/v1/instances/{names(4)[0]}/vote", about)
            statuses.append(answer.status)

        host.on_round = keep

        async def attempt() -> bool:
            asked.clear()
            statuses.clear()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(ask)
                await host.until(lambda: bool(asked))
                return await stop_over(agent, REPLY_S + PATIENCE_S, lambda: host.agree(asked[0]))

        await until_in_time(attempt)
        assert statuses == [200]


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


async def until_in_time(attempt: Callable[[], Awaitable[bool]]) -> None:
    """Repeats it if this process came too late itself: then nobody knows what the agent knew."""
    with trio.fail_after(100):
        while not await attempt():
            pass


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
