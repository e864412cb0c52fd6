"""Accepting: a flood of connections that are left at once keeps nobody waiting for long."""

from __future__ import annotations

import socket
import ssl
from pathlib import Path

import pytest
import trio
from trio.testing import memory_stream_pair

from hbtrio.net.accepting import AT_ONCE, accept_connections, has_unread
from hbtrio.net.endpoints import Endpoint
from support.free_ports import free_port

_CLIENTS = 3 * AT_ONCE


@pytest.mark.parametrize("over", ["unix", "tcp"])
async def test_several_are_accepted_in_a_pass(over: str, tmp_path: Path) -> None:
    port = free_port()
    endpoint = Endpoint(str(tmp_path / "s")) if over == "unix" else Endpoint("", "127.0.0.1", port)
    (listener,) = await endpoint.listen()
    address = endpoint.path or ("127.0.0.1", port)
    family = socket.AF_UNIX if over == "unix" else socket.AF_INET
    clients = [socket.socket(family) for _ in range(_CLIENTS)]
    for client in clients:
        client.connect(address)
    served: list[trio.SocketStream] = []
    each_pass = []

    async def handler(stream: trio.SocketStream) -> None:
        served.append(stream)
        await stream.send_all(b"%d" % len(served))

    async with trio.open_nursery() as nursery:

        async def accept() -> None:
            await accept_connections(handler, listener, nursery, whose="x", to_the_last=True)

        nursery.start_soon(accept)
        with trio.fail_after(10):
            while len(served) < _CLIENTS:
                before = len(served)
                await trio.lowlevel.checkpoint()
                each_pass.append(len(served) - before)
        nursery.cancel_scope.cancel()
    # Others have had their turn in between, and none of them was left out.
    assert AT_ONCE / 2 < max(each_pass) <= 2 * AT_ONCE
    assert len(each_pass) <= 20
    for client in clients:
        with client:
            assert client.recv(10)


@pytest.mark.parametrize(("count", "served"), [(AT_ONCE - 2, AT_ONCE - 2), (AT_ONCE + 9, 9)])
async def test_what_its_clients_have_left_is_served_only_if_it_is_no_flood(
    count: int, served: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    endpoint = Endpoint(str(tmp_path / "s"))
    (listener,) = await endpoint.listen()
    for _ in range(count):
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(endpoint.path)
            client.send(b"request")
    seen = []

    async def handler(stream: trio.SocketStream) -> None:
        seen.append(await stream.receive_some())

    async with trio.open_nursery() as nursery:

        async def accept() -> None:
            await accept_connections(handler, listener, nursery, whose="peers", to_the_last=True)

        nursery.start_soon(accept)
        with trio.fail_after(10):
            async with await trio.open_unix_socket(endpoint.path) as last:
                await last.send_all(b"last")
                while b"last" not in seen:  # noqa: ASYNC110 - it is about the passes
                    await trio.sleep(0.001)
        nursery.cancel_scope.cancel()
    assert seen.count(b"request") == served
    left = count - served
    reason = f"{AT_ONCE} wait at once, and clients had left {left} of them"
    line = f"peers are refused: {reason} (1 since the last line)"
    assert caplog.messages == ([line] if left else [])


async def test_a_connection_that_comes_alone(tmp_path: Path) -> None:
    endpoint = Endpoint(str(tmp_path / "s"))
    (listener,) = await endpoint.listen()

    async def handler(stream: trio.SocketStream) -> None:
        await stream.send_all(b"welcome")

    async with trio.open_nursery() as nursery:

        async def accept() -> None:
            await accept_connections(handler, listener, nursery, whose="x", to_the_last=True)

        nursery.start_soon(accept)
        with trio.fail_after(10):
            for _ in range(3):
                async with await trio.open_unix_socket(endpoint.path) as stream:
                    assert await stream.receive_some() == b"welcome"
        nursery.cancel_scope.cancel()


async def test_what_nobody_has_read_yet_is_seen_through_tls_too() -> None:
    ours, theirs = socket.socketpair()
    stream = trio.SocketStream(trio.socket.from_stdlib_socket(ours))
    wrapped = trio.SSLStream(stream, ssl.create_default_context(), server_hostname="x")
    with theirs:
        assert not has_unread(stream)
        assert not has_unread(wrapped)
        theirs.send(b"x")
        assert has_unread(stream)
        assert has_unread(wrapped)
        assert await stream.receive_some(10) == b"x"
        assert not has_unread(stream)
    assert has_unread(stream)  # the end
    await stream.aclose()
    assert not has_unread(stream)
    assert not has_unread(memory_stream_pair()[0])
