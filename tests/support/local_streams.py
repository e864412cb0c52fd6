"""Connections within the process, for daemons that are composed without a socket."""

from __future__ import annotations

import math

import trio
from trio.testing import MemoryReceiveStream, MemorySendStream, memory_stream_one_way_pair

from hbtrio.net.connections import AcceptedStream, ConnectionEnds, InProcessStream
from hbtrio.net.endpoints import Unreachable
from hbtrio.net.peer_credentials import PeerCredentials

#: As of a unix socket that root has connected to.
BY_ROOT = ConnectionEnds(server=("/run/api", None), credentials=PeerCredentials(1, 0, 0))


class LocalStream(InProcessStream):
    """One end, over trio's memory streams.

    Args:
        sending: to the other end.
        receiving: from it.
    """

    def __init__(self, sending: MemorySendStream, receiving: MemoryReceiveStream) -> None:
        self._sending = sending
        self._receiving = receiving
        self._sent = self._read = 0
        self._other: LocalStream | None = None

    @classmethod
    def pair(cls) -> tuple[LocalStream, LocalStream]:
        """Makes both ends."""
        (left_out, right_in), (right_out, left_in) = (
            memory_stream_one_way_pair(),
            memory_stream_one_way_pair(),
        )
        left, right = cls(left_out, left_in), cls(right_out, right_in)
        left._other, right._other = right, left
        return left, right

    @property
    def ends(self) -> ConnectionEnds:
        return BY_ROOT

    def has_unread(self) -> bool:
        assert self._other is not None
        return self._read < self._other._sent

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        self._sent += len(data)
        await self._sending.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self._sending.wait_send_all_might_not_block()

    async def send_eof(self) -> None:
        self._sent += 1
        await self._sending.aclose()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        data = await self._receiving.receive_some(max_bytes)
        self._read += len(data)
        return data

    async def aclose(self) -> None:
        self._sent += 1
        self._sending.close()
        self._receiving.close()
        await trio.lowlevel.checkpoint()


class LocalListener(trio.abc.Listener[AcceptedStream]):
    """Accepts connections of the process, one opening after the other."""

    def __init__(self) -> None:
        self._send: trio.MemorySendChannel[LocalStream] | None = None
        self._receive: trio.MemoryReceiveChannel[LocalStream] | None = None

    async def listen(self) -> list[LocalListener]:
        """Opens it."""
        self._send, self._receive = trio.open_memory_channel[LocalStream](math.inf)
        await trio.lowlevel.checkpoint()
        return [self]

    async def connect(self) -> LocalStream:
        """Connects to it.

        Raises:
            Unreachable: it is closed.
        """
        await trio.lowlevel.checkpoint()
        served, ours = LocalStream.pair()
        if self._send is None:
            raise Unreachable("connection refused")
        self._send.send_nowait(served)
        return ours

    async def accept(self) -> LocalStream:
        assert self._receive is not None
        return await self._receive.receive()

    async def aclose(self) -> None:
        if self._receive is not None:
            self._receive.close()
        self._send = self._receive = None
        await trio.lowlevel.checkpoint()
