"""The lab's stand-in for QEMU keeps what a virtio-serial port and its socket have in common."""

from __future__ import annotations

import os
import socket
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from hbtrio.lab.bridge import HELD_BYTES, Bridge

SOON_S = 5.0

#: Nothing happens for this long: the bridge has dealt with all that lies in its sockets.
CALM_S = 0.02


@pytest.fixture
def folder() -> Iterator[Path]:
    # pytest's tmp_path carries the test's name and leaves too little of the 107 bytes.
    with tempfile.TemporaryDirectory(prefix="hbt-") as name:
        yield Path(name)


class Ends:
    """Makes hosts and guests of a bridge; they are closed with the test."""

    def __init__(self, bridge: Bridge, opened: AsyncExitStack) -> None:
        self._bridge = bridge
        self._opened = opened

    async def host(self) -> trio.SocketStream:
        return await self._open(self._bridge.channel_path)

    async def guest(self) -> trio.SocketStream:
        return await self._open(self._bridge.device_path)

    async def joined(self) -> tuple[trio.SocketStream, trio.SocketStream]:
        """A host and a guest, both taken in by the bridge."""
        host, guest = await self.host(), await self.guest()
        await host.send_all(b"h")
        assert await receive(guest, 1) == b"h"
        await guest.send_all(b"g")
        assert await receive(host, 1) == b"g"
        return host, guest

    async def _open(self, path: str) -> trio.SocketStream:
        return await self._opened.enter_async_context(await trio.open_unix_socket(path))


@pytest.fixture
async def ends(folder: Path) -> AsyncIterator[Ends]:
    bridge = Bridge(str(folder / "ch"), str(folder / "dev"))
    async with AsyncExitStack() as opened, trio.open_nursery() as nursery:
        await nursery.start(bridge.run)
        yield Ends(bridge, opened)
        nursery.cancel_scope.cancel()


async def receive(stream: trio.SocketStream, size: int) -> bytes:
    """Exactly ``size`` bytes, or fewer if the stream ends."""
    data = b""
    with trio.fail_after(SOON_S):
        while len(data) < size and (more := await stream.receive_some(size - len(data))):
            data += more
    return data


async def at_end(stream: trio.SocketStream) -> bool:
    """Whether it has ended; a close with bytes unread is a reset."""
    with trio.fail_after(SOON_S):
        try:
            return await stream.receive_some(1) == b""
        except trio.BrokenResourceError:
            return True


def is_silent(stream: trio.SocketStream) -> bool:
    """Whether nothing has arrived, not even an end, at this moment."""
    try:
        os.read(stream.socket.fileno(), 1)
    except BlockingIOError:
        return True
    return False


async def test_bytes_pass_both_ways_in_their_order(ends: Ends) -> None:
    host, guest = await ends.joined()
    down, up = os.urandom(500_000), os.urandom(500_000)
    received: dict[str, bytes] = {}

    async def read(name: str, stream: trio.SocketStream) -> None:
        received[name] = await receive(stream, 500_000)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read, "host", host)
        nursery.start_soon(read, "guest", guest)
        nursery.start_soon(host.send_all, down)
        nursery.start_soon(guest.send_all, up)
    assert received == {"host": up, "guest": down}


async def test_the_host_notices_nothing_when_the_guest_goes_and_another_comes(ends: Ends) -> None:
    host, guest = await ends.joined()
    await guest.aclose()
    again = await ends.guest()
    await again.send_all(b"again")
    assert await receive(host, 5) == b"again"
    assert is_silent(host)


async def test_what_the_host_sends_to_an_absent_guest_is_held_until_the_next_open(
    ends: Ends,
) -> None:
    host = await ends.host()
    await host.send_all(b"one\n")
    await wait_all_tasks_blocked(CALM_S)
    await host.send_all(b"two\n")
    await wait_all_tasks_blocked(CALM_S)
    guest = await ends.guest()
    await host.send_all(b"three\n")
    assert await receive(guest, 14) == b"one\ntwo\nthree\n"


async def test_a_guest_that_comes_back_gets_what_was_sent_while_it_was_away(ends: Ends) -> None:
    host, guest = await ends.joined()
    await guest.aclose()
    await wait_all_tasks_blocked(CALM_S)
    await host.send_all(b"meanwhile")
    await wait_all_tasks_blocked(CALM_S)
    assert await receive(await ends.guest(), 9) == b"meanwhile"


async def test_what_is_held_is_bounded_and_then_the_hosts_sends_are_left_unread(
    ends: Ends,
) -> None:
    host = await ends.host()
    sent = 0
    full = False
    while not full:
        try:
            sent += os.write(host.socket.fileno(), b"x" * 4096)
        except BlockingIOError:
            before = sent
            await wait_all_tasks_blocked(CALM_S)
            try:
                sent += os.write(host.socket.fileno(), b"x" * 4096)
            except BlockingIOError:
                full = sent == before
    buffered = host.socket.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)
    assert HELD_BYTES < sent <= HELD_BYTES + 4096 + buffered
    guest = await ends.guest()
    assert await receive(guest, sent) == b"x" * sent
    await host.send_all(b"more")
    assert await receive(guest, 4) == b"more"


async def test_what_a_guest_says_with_no_host_connected_is_lost(ends: Ends) -> None:
    guest = await ends.guest()
    await guest.send_all(b"lost")
    await wait_all_tasks_blocked(CALM_S)
    host = await ends.host()
    await host.send_all(b"h")
    assert await receive(guest, 1) == b"h"
    await guest.send_all(b"kept")
    assert await receive(host, 4) == b"kept"


async def test_the_guests_device_ends_when_the_host_goes(ends: Ends) -> None:
    host, guest = await ends.joined()
    await host.aclose()
    assert await at_end(guest)
    host, guest = await ends.joined()
    assert is_silent(host)
    assert is_silent(guest)


async def test_what_was_held_of_a_host_that_is_gone_is_not_for_the_guest_of_the_next(
    ends: Ends,
) -> None:
    first = await ends.host()
    await first.send_all(b"leftover")
    await first.aclose()
    second = await ends.host()
    await second.send_all(b"fresh")
    await wait_all_tasks_blocked(CALM_S)
    assert await receive(await ends.guest(), 5) == b"fresh"


async def test_a_second_host_waits_silently_until_the_first_has_gone(ends: Ends) -> None:
    first, guest = await ends.joined()
    second = await ends.host()
    await guest.send_all(b"first")
    assert await receive(first, 5) == b"first"
    assert is_silent(second)
    await first.aclose()
    assert await at_end(guest)
    await second.send_all(b"second")
    assert await receive(await ends.guest(), 6) == b"second"


async def test_a_second_guest_waits_silently_until_the_first_has_gone(ends: Ends) -> None:
    host, first = await ends.joined()
    second = await ends.guest()
    await host.send_all(b"first")
    assert await receive(first, 5) == b"first"
    assert is_silent(second)
    await first.aclose()
    await second.send_all(b"second")
    assert await receive(host, 6) == b"second"
    await host.send_all(b"second")
    assert await receive(second, 6) == b"second"


async def test_a_guest_that_goes_in_the_middle_of_a_send_holds_up_nothing(ends: Ends) -> None:
    host, guest = await ends.joined()
    # More than all the sockets hold: the bridge is in the middle of a send that goes no further.
    flood = b"x" * 4_000_000
    async with trio.open_nursery() as nursery:
        nursery.start_soon(host.send_all, flood)
        assert await receive(guest, 1000) == b"x" * 1000
        await wait_all_tasks_blocked(CALM_S)
        await guest.aclose()
        second = await ends.guest()
        # What the first one had not read is lost, so how much is left is not known.
        with trio.fail_after(SOON_S):
            while nursery.child_tasks:
                assert set(await second.receive_some(65536)) == {ord("x")}
    await host.send_all(b"end")
    tail = b""
    with trio.fail_after(SOON_S):
        while not tail.endswith(b"end"):
            tail = tail[-3:] + await second.receive_some(65536)


async def test_its_end_removes_both_sockets_and_closes_both_streams(folder: Path) -> None:
    bridge = Bridge(str(folder / "ch"), str(folder / "dev"))
    async with AsyncExitStack() as opened:
        async with trio.open_nursery() as nursery:
            await nursery.start(bridge.run)
            host, guest = await Ends(bridge, opened).joined()
            nursery.cancel_scope.cancel()
        assert os.listdir(folder) == []
        assert await at_end(host)
        assert await at_end(guest)


async def test_a_channel_path_that_is_taken_leaves_no_device_behind(folder: Path) -> None:
    (folder / "ch").touch()
    bridge = Bridge(str(folder / "ch"), str(folder / "dev"))
    with pytest.raises(OSError, match="in use"):
        await bridge.run()
    assert os.listdir(folder) == ["ch"]
