"""Simulates QEMU's virtio-serial port: connects a channel socket to a guest's device socket.

For each VM two unix sockets listen: the host connects to the channel, the guest to the device. They
behave like a virtio-serial port (PROTOCOL.md, the port itself). Each takes one client at a time; a
second one waits in the backlog. The host doesn't notice the end of the guest's process: bytes that
the process had not read are lost, and later ones are held until the next open. What the guest sends
without a host is lost. The guest does notice when the host disconnects: its device ends and has to
be opened again.

``python -m hbtrio.lab.bridge CHANNEL DEVICE`` joins two sockets until SIGINT or SIGTERM.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
from collections.abc import Iterator
from typing import Final

import trio

from hbtrio.nursery.wakeup import WakeUp

#: Bytes held for a missing guest; beyond that the host's bytes are left unread, as in QEMU.
HELD_BYTES: Final = 65536

_READ_BYTES: Final = 4096

#: A peer was killed, or its stream was closed because the other side disconnected.
_GONE: Final = (trio.BrokenResourceError, trio.ClosedResourceError)


class Tap:
    """Reads along on a channel, and may hold back what passes; this one does neither."""

    async def before_guest(self, data: bytes) -> None:
        """Called with bytes from the host, which pass when it returns."""

    async def before_host(self, data: bytes) -> None:
        """Called with bytes from the guest, which pass when it returns."""

    def at_guest(self, data: bytes) -> None:
        """Called when bytes lie in the guest's socket."""

    def at_host(self, data: bytes) -> None:
        """Called when bytes lie in the host's socket."""


class Bridge:
    """One VM's channel.

    Args:
        channel_path: the socket for the host; removed at the end, as when QEMU quits.
        device_path: the socket for the guest.
        tap: reads along.
    """

    def __init__(self, channel_path: str, device_path: str, tap: Tap | None = None) -> None:
        self.channel_path = channel_path
        self.device_path = device_path
        self._tap = Tap() if tap is None else tap
        self._host: trio.SocketStream | None = None
        self._guest: trio.SocketStream | None = None
        self._held = b""
        self._delivering = trio.Lock()
        self._delivered = WakeUp()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Joins the two until cancelled, which removes both sockets.

        Raises:
            OSError: a socket can't be made there.
        """
        with _listening(self.device_path) as device, _listening(self.channel_path) as channel:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._serve_host, channel)
                nursery.start_soon(self._serve_guest, device)
                task_status.started()

    async def cut(self) -> None:
        """Ends the present connections, with what is on its way; both sides may come again."""
        if self._host is not None:
            await trio.aclose_forcefully(self._host)

    async def _serve_host(self, channel: trio.SocketListener) -> None:
        while True:
            self._host = await channel.accept()
            try:
                await self._pump_host(self._host)
            except _GONE:
                pass
            finally:
                await trio.aclose_forcefully(self._host)
                self._host = None
                self._held = b""
                if self._guest is not None:
                    await trio.aclose_forcefully(self._guest)

    async def _pump_host(self, host: trio.SocketStream) -> None:
        while data := bytes(await host.receive_some(_READ_BYTES)):
            await self._tap.before_guest(data)
            self._held += data
            await self._deliver()
            while len(self._held) >= HELD_BYTES:
                await self._delivered.wait()

    async def _deliver(self) -> None:
        """Sends the held bytes in order if the guest is connected."""
        async with self._delivering:
            while self._held and self._guest is not None:
                guest, data, self._held = self._guest, self._held, b""
                try:
                    await guest.send_all(data)
                    self._tap.at_guest(data)
                except _GONE:
                    # Bytes that the guest had not read are lost; the rest is for the next one.
                    if self._guest is guest:
                        self._guest = None
                self._delivered.set()

    async def _serve_guest(self, device: trio.SocketListener) -> None:
        while True:
            guest = self._guest = await device.accept()
            try:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._deliver)
                    await self._pump_guest(guest)
                    nursery.cancel_scope.cancel()
            finally:
                self._guest = None
                await trio.aclose_forcefully(guest)

    async def _pump_guest(self, guest: trio.SocketStream) -> None:
        with contextlib.suppress(*_GONE):
            while data := bytes(await guest.receive_some(_READ_BYTES)):
                await self._tap.before_host(data)
                host = self._host
                if host is None:
                    continue
                with contextlib.suppress(*_GONE):
                    await host.send_all(data)
                    self._tap.at_host(data)


@contextlib.contextmanager
def _listening(path: str) -> Iterator[trio.SocketListener]:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    with sock:
        sock.bind(path)
        try:
            sock.listen(8)
            yield trio.SocketListener(trio.socket.from_stdlib_socket(sock))
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)


async def _joined_until_told(channel_path: str, device_path: str) -> None:
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with trio.open_nursery() as nursery:
            await nursery.start(Bridge(channel_path, device_path).run)
            await anext(aiter(signals))
            nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(_joined_until_told, sys.argv[1], sys.argv[2])
