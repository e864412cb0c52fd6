"""A stall of this process over a deadline of the link, in whatever order its tasks then run."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
from trio.testing import MockClock, memory_stream_pair

from hbtrio.net.link_session import PING_S, SILENT_S, LinkSession
from hbtrio.nursery.time_guard import run_guard, sleep_on_time
from hbtrio.policy.time_guard import OnTimeGuard
from hbtrio.wire.link_codec import decode_from_host, encode_link
from hbtrio.wire.link_messages import FromHost, Pong
from support.agent_world import agent_world
from support.run_order import ORDERS, folders, in_every_order
from support.scripted_host import ScriptedHost

pytestmark = pytest.mark.slow

BEFORE_S = 0.05

STALLS = pytest.mark.parametrize("stall_s", [0.1, 0.6, 3.0, 89.0])


@STALLS
@pytest.mark.parametrize("awaited", [False, True])
def test_a_sign_of_life_that_has_arrived(stall_s: float, awaited: bool) -> None:
    """Also one that arrives only after the stall, if its ping was not answered because of that."""

    async def scenario(clock: MockClock) -> str:
        ours, theirs = memory_stream_pair()
        guard = OnTimeGuard(trio.current_time())
        session = LinkSession(ours, decode_from_host, sleep=sleep_on_time(guard))
        ended = "no"

        async def ignore(_: FromHost) -> None:
            pass

        async def run() -> None:
            nonlocal ended
            ended = await session.run(ignore)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(run_guard, guard)
            nursery.start_soon(run)
            await trio.sleep(SILENT_S - BEFORE_S)
            if not awaited:
                await theirs.send_all(encode_link(Pong(1)))
            clock.jump(stall_s)
            if awaited:
                await trio.sleep(0.01)
                await theirs.send_all(encode_link(Pong(1)))
            await trio.sleep(PING_S)
            nursery.cancel_scope.cancel()
        return ended

    assert in_every_order(scenario) == ["no"] * ORDERS


@STALLS
def test_a_hello_that_has_arrived(stall_s: float, tmp_path: Path) -> None:
    folder = folders(tmp_path)

    async def scenario(clock: MockClock) -> bool:
        async with agent_world(next(folder)) as on:
            host = ScriptedHost()
            ours, theirs = memory_stream_pair()
            on.nursery.start_soon(on.agent.links.serve, theirs)
            await trio.sleep(5.0 - BEFORE_S)
            on.nursery.start_soon(host.begin, ours, on.nursery)
            clock.jump(stall_s)
            await on.settle()
            await trio.sleep(5.0)
            return host.welcome is not None and host.up

    assert in_every_order(scenario) == [True] * ORDERS
