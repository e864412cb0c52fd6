"""QEMU's part on a machine without QEMU: a channel socket joined to a guest's device.

For each VM two unix sockets listen: the channel, to which the host connects, and the device, which
is handed to the guest. What they have in common with a virtio-serial port is kept (PROTOCOL.md, the
port itself): one client at a time, a second one waits silently in the backlog; the host notices
nothing when the guest's process goes away, and bytes it sends meanwhile are held and delivered at
the next open; what the guest sends with no host connected is lost. The guest does notice when the
host goes away: its device ends and has to be opened anew.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from typing import Final

import trio

#: Bytes held for a guest that is not there; then the host's sends are left unread, as QEMU does.
_HELD_BYTES: Final = 65536

_READ_BYTES: Final = 4096


class Bridge:
    """One VM's channel.

    Args:
        channel_path: where the host finds it; removed at the end, as when a QEMU quits.
        device_path: what the guest opens.
    """

    def __init__(self, channel_path: str, device_path: str) -> None:
        self.channel_path = channel_path
        self.device_path = device_path
        self._host: trio.SocketStream | None = None
        self._guest: trio.SocketStream | None = None
        self._held = b""
        self._room = trio.Event()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Joins the two until cancelled."""
        with _listening(self.device_path) as device, _listening(self.channel_path) as channel:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._serve_host, channel)
                nursery.start_soon(self._serve_guest, device)
                task_status.started()

    async def _serve_host(self, channel: trio.SocketListener) -> None:
        while True:
            self._host = await channel.accept()
            try:
                await self._pump_host(self._host)
            except trio.BrokenResourceError:
                pass  # a host that was killed: reset, with our bytes unread
            finally:
                await trio.aclose_forcefully(self._host)
                self._host = None
                if self._guest is not None:
                    await trio.aclose_forcefully(self._guest)

    async def _pump_host(self, host: trio.SocketStream) -> None:
        while data := await host.receive_some(_READ_BYTES):
            guest = self._guest
            if guest is not None and not self._held:
                try:
                    await guest.send_all(data)
                    continue
                except (trio.BrokenResourceError, trio.ClosedResourceError):
                    pass  # the guest was killed: hold it for the next one
            self._held += data
            while len(self._held) >= _HELD_BYTES:
                self._room = trio.Event()
                await self._room.wait()

    async def _serve_guest(self, device: trio.SocketListener) -> None:
        while True:
            guest = await device.accept()
            try:
                held, self._held = self._held, b""
                self._room.set()
                await guest.send_all(held)
                self._guest = guest
                await self._pump_guest(guest)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                pass  # a guest that was killed, or cut off because the host has gone
            finally:
                self._guest = None
                await trio.aclose_forcefully(guest)

    async def _pump_guest(self, guest: trio.SocketStream) -> None:
        while data := await guest.receive_some(_READ_BYTES):
            if self._host is None:
                continue
            with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                await self._host.send_all(data)


@contextlib.contextmanager
def _listening(path: str) -> Iterator[trio.SocketListener]:
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    with listening:
        listening.bind(path)
        listening.listen(8)
        try:
            yield trio.SocketListener(trio.socket.from_stdlib_socket(listening.dup()))
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
