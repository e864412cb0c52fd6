"""The host's end of a channel: real sockets, and the ports in memory that stand in for them."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from pathlib import Path
from typing import Protocol

import attrs
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from hbtrio.nursery.port import (
    READ_BYTES,
    ChannelFault,
    ChannelPort,
    ChannelSocket,
    Readers,
    SocketReaders,
    UnixDialer,
)
from support.memory_port import MemoryDialer, MemoryPeer


class Peer(Protocol):
    """The other end, whatever it is made of."""

    port: ChannelPort
    readers: Readers

    def write(self, data: bytes) -> object: ...
    def read(self) -> bytes: ...
    def close(self) -> None: ...
    def reset(self) -> None: ...


@attrs.define
class SocketPeer:
    """The other end of a real connection."""

    port: ChannelPort
    readers: SocketReaders
    connection: socket.socket

    def write(self, data: bytes) -> object:
        return self.connection.send(data)

    def read(self) -> bytes:
        data = b""
        try:
            while piece := self.connection.recv(65536):
                data += piece
        except BlockingIOError:
            pass
        return data

    def close(self) -> None:
        self.connection.close()

    def reset(self) -> None:
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()


def socket_peer() -> SocketPeer:
    # TCP, for a unix socket is only reset with unread bytes in it; the port can't tell them apart.
    with socket.create_server(("127.0.0.1", 0)) as server:
        connected = socket.create_connection(server.getsockname())
        other, _ = server.accept()
    connected.setblocking(False)
    other.setblocking(False)
    for end in (connected, other):
        end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    readers = SocketReaders()
    return SocketPeer(ChannelSocket(connected, readers), readers, other)


def memory_peer() -> MemoryPeer:
    peer = MemoryPeer("/run/x")
    peer.reading = False
    return peer


@pytest.fixture(params=[socket_peer, memory_peer])
async def peer(request: pytest.FixtureRequest) -> AsyncIterator[Peer]:
    made: Peer = request.param()
    yield made
    made.port.close()
    if isinstance(made, SocketPeer):
        made.connection.close()
        made.readers.close()


async def readable(peer: Peer) -> None:
    """Waits until the port can be read."""
    peer.port.watch()
    with trio.fail_after(10):
        while not peer.readers.ready(10):
            await peer.readers.wait()
    peer.port.unwatch()


# -- one behaviour, two makes ---------------------------------------------------------------


async def test_bytes_go_both_ways(peer: Peer) -> None:
    assert peer.port.send_nowait(b"challenge") == 9
    with trio.fail_after(10):
        while not (got := peer.read()):
            await trio.lowlevel.checkpoint()
    assert got == b"challenge"
    assert peer.port.receive_nowait() is None
    peer.write(b"answer")
    await readable(peer)
    assert peer.port.receive_nowait() == b"answer"
    assert peer.port.receive_nowait() is None


async def test_a_read_is_bounded(peer: Peer) -> None:
    peer.write(b"x" * (READ_BYTES + 10))
    got = b""
    while len(got) < READ_BYTES + 10:
        await readable(peer)
        piece = peer.port.receive_nowait()
        assert piece is not None
        assert 0 < len(piece) <= READ_BYTES
        got += piece


async def test_what_came_before_the_end_is_read_then_the_end_for_ever(peer: Peer) -> None:
    peer.write(b"last words")
    peer.close()
    await readable(peer)
    assert peer.port.receive_nowait() == b"last words"
    for _ in range(3):
        await readable(peer)
        assert peer.port.receive_nowait() == b""


async def test_sending_to_one_that_has_gone_is_a_fault(peer: Peer) -> None:
    async def send_on() -> None:
        while True:
            peer.port.send_nowait(b"x")
            await trio.lowlevel.checkpoint()

    peer.close()
    with (
        trio.fail_after(10),
        pytest.raises(ChannelFault, match=r"broken pipe|connection reset by peer"),
    ):
        await send_on()


async def test_a_reset_is_a_fault_and_wakes_who_waits(peer: Peer) -> None:
    faults = []

    async def read() -> None:
        await readable(peer)
        with pytest.raises(ChannelFault) as fault:
            peer.port.receive_nowait()
        faults.append(str(fault.value))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read)
        await wait_all_tasks_blocked()
        peer.reset()
    assert faults == ["connection reset by peer"]


async def test_one_that_does_not_read_takes_a_part_and_then_nothing(peer: Peer) -> None:
    sent = 0
    while taken := peer.port.send_nowait(b"x" * 100_000):
        sent += taken
    assert sent > 0
    written = False

    async def write() -> None:
        nonlocal written
        with trio.fail_after(10):
            await peer.port.wait_writable()
        written = True

    async with trio.open_nursery() as nursery:
        nursery.start_soon(write)
        await wait_all_tasks_blocked()
        assert not written
        while not written:
            peer.read()
            await trio.lowlevel.checkpoint()
    assert peer.port.send_nowait(b"y") == 1


async def test_closing_ends_the_waiting(peer: Peer) -> None:
    while peer.port.send_nowait(b"x" * 100_000):
        pass

    async def expect_closed() -> None:
        with pytest.raises(trio.ClosedResourceError):
            await peer.port.wait_writable()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(expect_closed)
        await wait_all_tasks_blocked()
        peer.port.close()
    peer.port.close()  # again, which is harmless


# -- dialling -------------------------------------------------------------------------------


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "socket")


@pytest.fixture
def dialer() -> Iterator[UnixDialer]:
    with closing(UnixDialer()) as dialer:
        yield dialer


async def test_a_unix_socket_connects_at_once(path: str, dialer: UnixDialer) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path)
        server.listen()
        port = dialer.dial(path)
        connection, _ = server.accept()
        with connection:
            assert port.send_nowait(b"\n") == 1
            assert connection.recv(10) == b"\n"
        port.close()


def fault_of(dialer: UnixDialer | MemoryDialer, path: str) -> str:
    with pytest.raises(ChannelFault) as fault:
        dialer.dial(path)
    return str(fault.value)


async def test_why_a_unix_socket_can_not_be_connected_to(
    path: str, tmp_path: Path, dialer: UnixDialer
) -> None:
    assert fault_of(dialer, path) == "no such file or directory"
    assert fault_of(dialer, "/" + "x" * 200) == "AF_UNIX path too long"
    (tmp_path / "file").touch()
    assert fault_of(dialer, str(tmp_path / "file")) == "connection refused"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path)
        assert fault_of(dialer, path) == "connection refused"
        server.listen(0)
        first = dialer.dial(path)
        # Its backlog holds one more than it was told; the next client would have to wait.
        assert fault_of(dialer, path) == (
            "its backlog is full: other clients are waiting to connect"
        )
        first.close()


def test_a_fault_leaves_no_descriptor_behind(path: str, dialer: UnixDialer) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(10):
        fault_of(dialer, path)
    assert len(os.listdir("/proc/self/fd")) == before
