"""What a round of the soak ends with: the agent has dealt with all that the host has sent."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from trio.testing import (
    MemoryReceiveStream,
    MemorySendStream,
    memory_stream_one_way_pair,
    wait_all_tasks_blocked,
)

from support.link_proxy import LinkProxy

pytestmark = pytest.mark.usefixtures("autojump_clock")


@asynccontextmanager
async def joined(proxy: LinkProxy) -> AsyncIterator[tuple[MemorySendStream, MemoryReceiveStream]]:
    """The agent's ends of a connection."""
    sends, to_host = memory_stream_one_way_pair()
    to_agent, receives = memory_stream_one_way_pair()
    _, host_sends = memory_stream_one_way_pair()
    host_receives, _ = memory_stream_one_way_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(proxy.to_host.pump, to_host, host_receives)
        nursery.start_soon(proxy.to_agent.pump, host_sends, to_agent)
        yield sends, receives
        nursery.cancel_scope.cancel()


def pong(number: int) -> bytes:
    return b'{"type":"pong","number":%d}\n' % number


async def asked(receives: MemoryReceiveStream) -> int:
    number: int = json.loads(bytes(await receives.receive_some()))["number"]
    return number


async def test_a_pong_to_the_host_in_the_same_piece_hides_nothing(tmp_path: Path) -> None:
    proxy = LinkProxy(tmp_path / "link", tmp_path / "agent")
    async with joined(proxy) as (sends, receives), trio.open_nursery() as nursery:
        nursery.start_soon(proxy.received)
        await sends.send_all(pong(await asked(receives)) + pong(7))


async def test_of_a_connection_that_has_ended_it_is_asked_again(tmp_path: Path) -> None:
    proxy = LinkProxy(tmp_path / "link", tmp_path / "agent")
    async with trio.open_nursery() as nursery:
        async with joined(proxy) as (_, receives):
            nursery.start_soon(proxy.received)
            await asked(receives)
        proxy.to_agent.forget()
        async with joined(proxy) as (sends, receives):
            await sends.send_all(pong(await asked(receives)))
            await wait_all_tasks_blocked()  # it has passed


async def test_what_was_answered_before_does_not_count(tmp_path: Path) -> None:
    proxy = LinkProxy(tmp_path / "link", tmp_path / "agent")
    async with joined(proxy) as (sends, receives):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(proxy.received)
            await sends.send_all(pong(await asked(receives)))
        with pytest.raises(trio.TooSlowError):
            await proxy.received()
