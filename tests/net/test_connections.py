"""Connections that are no sockets, through all that accepts connections."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MemoryReceiveStream, MemorySendStream, memory_stream_pair

from hbtrio.http.server import serve_http
from hbtrio.net.accepting import accept_connections, has_reserved, has_unread
from hbtrio.net.connections import ConnectionEnds, InProcessStream

pytestmark = pytest.mark.usefixtures("autojump_clock")

ENDS = ConnectionEnds(client=("10.0.0.1", 40000), server=("10.0.0.2", 80))


class Accepted(InProcessStream):
    """The server's end of a connection in memory."""

    def __init__(self, stream: trio.StapledStream[MemorySendStream, MemoryReceiveStream]) -> None:
        self._stream = stream
        self.unread = False

    @property
    def ends(self) -> ConnectionEnds:
        return ENDS

    def has_unread(self) -> bool:
        return self.unread

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self._stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def send_eof(self) -> None:
        await self._stream.send_eof()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        return await self._stream.receive_some(max_bytes)

    async def aclose(self) -> None:
        await self._stream.aclose()


class InMemory(trio.abc.Listener[Accepted]):
    """Accepts what is connected."""

    def __init__(self) -> None:
        self._send, self._receive = trio.open_memory_channel[Accepted](10)
        self.closed = False

    def connect(self) -> tuple[trio.abc.Stream, Accepted]:
        client, server = memory_stream_pair()
        accepted = Accepted(server)
        self._send.send_nowait(accepted)
        return client, accepted

    async def accept(self) -> Accepted:
        return await self._receive.receive()

    async def aclose(self) -> None:
        self.closed = True
        await trio.lowlevel.checkpoint()


async def test_they_are_accepted_served_and_closed() -> None:
    listener, served = InMemory(), []

    async def handler(stream: Accepted) -> None:
        served.append(stream.ends)
        await stream.send_all(b"hello")

    async with trio.open_nursery() as nursery:

        async def accept() -> None:
            await accept_connections(
                handler, listener, nursery, whose="connections", to_the_last=False
            )

        nursery.start_soon(accept)
        clients = [listener.connect()[0] for _ in range(3)]
        assert [await client.receive_some() for client in clients] == [b"hello"] * 3
        assert await clients[0].receive_some() == b""
        nursery.cancel_scope.cancel()
    assert served == [ENDS] * 3
    assert listener.closed


async def test_they_tell_what_is_unread_and_take_no_descriptor() -> None:
    _, stream = InMemory().connect()
    assert not has_unread(stream)
    stream.unread = True
    assert has_unread(stream)
    assert not has_reserved(stream)


async def test_http_is_served_to_them() -> None:
    listener, peers = InMemory(), []

    async def app(scope, receive, send) -> None:
        peers.append(scope["client"])
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async with trio.open_nursery() as nursery:

        async def serve(*, task_status: trio.TaskStatus[None]) -> None:
            await serve_http(app, [listener], on_crash=crashes.append, task_status=task_status)

        crashes: list[BaseException] = []
        await nursery.start(serve)
        client, _ = listener.connect()
        await client.send_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert bytes(await client.receive_some()).startswith(b"HTTP/1.1 204")
        await client.aclose()
        nursery.cancel_scope.cancel()
    assert peers == [("10.0.0.1", 40000)]
    assert crashes == []
