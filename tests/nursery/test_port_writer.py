"""What is sent at once over a port, what later, and what never."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from hbtrio.nursery.port import ChannelFault
from hbtrio.nursery.port_writer import BACKLOG_BYTES, PortWriter
from support.memory_port import MemoryPeer

SIZE = 100


def message(number: int) -> bytes:
    return f"{number:{SIZE - 1}}\n".encode()


def deaf_peer() -> MemoryPeer:
    """A peer that has room for one byte, and does not read."""
    peer = MemoryPeer("/run/x", capacity=1)
    peer.reading = False
    return peer


@pytest.mark.slow
async def test_what_does_not_fit_is_refused_whole(autojump_clock: MockClock) -> None:
    peer = deaf_peer()
    async with trio.open_nursery() as nursery:
        writer = PortWriter(peer.port, nursery)
        fitting = (BACKLOG_BYTES - (SIZE - 1)) // SIZE + 1
        assert all(writer.send(message(number)) for number in range(fitting))
        assert not writer.send(message(5000))
        assert not writer.send(message(5001))
        data = b""
        while piece := peer.read():
            data += piece
            await wait_all_tasks_blocked()
        assert data == b"".join(map(message, range(fitting)))
        assert writer.send(message(6000))
        while piece := peer.read():
            data += piece
            await wait_all_tasks_blocked()
        assert data.endswith(message(6000))
        assert nursery.child_tasks == frozenset()


async def test_a_broken_connection_is_reported_at_once() -> None:
    peer = MemoryPeer("/run/x")
    async with trio.open_nursery() as nursery:
        writer = PortWriter(peer.port, nursery)
        peer.close()
        with pytest.raises(ChannelFault, match="broken pipe"):
            writer.send(message(1))


async def test_a_connection_that_breaks_in_between() -> None:
    peer = deaf_peer()
    with pytest.RaisesGroup(ChannelFault):
        async with trio.open_nursery() as nursery:
            writer = PortWriter(peer.port, nursery)
            assert writer.send(message(1))
            await wait_all_tasks_blocked()
            peer.reset()
