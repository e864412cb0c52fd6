"""Reads and writes a virtio-serial port without spinning while the host is disconnected.

While the host is disconnected, the kernel permanently reports the port as readable and hung up, and
a read returns b"" at once: trio's wait_readable, and any FdStream on it, would use a whole CPU. So
an inner, edge-triggered epoll set watches the port and turns each change (host connects,
disconnects, sends, makes room) into one edge; trio waits for that set. A connect shows only as
writability, so the mask of the reading side includes EPOLLOUT, too. All of this was measured on
QEMU 7.2 and Linux 6.1 (PROTOCOL.md, the virtio-serial port itself).
"""

from __future__ import annotations

import contextlib
import os
import select

import trio

from hbtrio.errors import os_reason
from hbtrio.nursery.guest.device import READ_BYTES, DeviceFault

_EDGES = select.EPOLLIN | select.EPOLLOUT | select.EPOLLET
_AWAY = select.POLLHUP | select.POLLERR


class VirtioPort:
    """An open virtio-serial port.

    Args:
        path: the device, such as /dev/virtio-ports/cgcs.heartbeat; one process can open it at a
            time.

    Raises:
        OSError: the port can't be opened: EBUSY if another process holds it, EPERM if the device
            can't be polled and so is not a port.
    """

    persistent = True

    def __init__(self, path: str) -> None:
        self._fd = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
        # If there is no descriptor left for a set, the port must not stay open.
        with contextlib.ExitStack() as undo:
            undo.callback(os.close, self._fd)
            # One set per direction: trio lets only one task wait for a descriptor.
            self._reading = undo.enter_context(select.epoll())
            self._writing = undo.enter_context(select.epoll())
            for edges in (self._reading, self._writing):
                edges.register(self._fd, _EDGES)
            undo.pop_all()
        self._poll = select.poll()
        self._poll.register(self._fd, select.POLLOUT)

    @property
    def connected(self) -> bool:
        """Whether the host's side is open now."""
        return not any(events & _AWAY for _, events in self._poll.poll(0))

    async def wait_connected(self) -> None:
        """Waits until the host is connected. For the reading task only.

        Raises:
            DeviceFault: the port was unplugged.
        """
        await trio.lowlevel.checkpoint()
        while not self.connected:
            try:
                # In a poll, an unplugged port looks like one with the host disconnected. A read
                # tells them apart; reading 0 bytes takes no data that the host has sent and left.
                os.read(self._fd, 0)
            except BlockingIOError:
                pass  # the host has just connected, which is an edge
            except OSError as error:
                raise DeviceFault(os_reason(error)) from error
            await _edge(self._reading)

    async def receive(self) -> bytes:
        """Receives at most 4096 bytes; b"" while the host is not connected.

        Raises:
            DeviceFault: the port was unplugged.
        """
        has_waited = False
        while True:
            try:
                data = os.read(self._fd, READ_BYTES)
            except BlockingIOError:
                await _edge(self._reading)
                has_waited = True
            except OSError as error:
                raise DeviceFault(os_reason(error)) from error
            else:
                if not has_waited:
                    await trio.lowlevel.checkpoint()
                return data

    async def send(self, data: bytes) -> None:
        """Sends all of ``data``; waits while the ring is full and the host is connected.

        Raises:
            DeviceFault: the host is not connected, or the port was unplugged.
        """
        await trio.lowlevel.checkpoint()
        while data:
            try:
                data = data[os.write(self._fd, data) :]
            except BlockingIOError:
                if not self.connected:
                    raise DeviceFault("the host is not connected") from None
                await _edge(self._writing)
            except OSError as error:
                raise DeviceFault(os_reason(error)) from error

    async def aclose(self) -> None:
        """Closes the port; the host can't detect that."""
        for edges in (self._reading, self._writing):
            trio.lowlevel.notify_closing(edges.fileno())
        self._close()
        await trio.lowlevel.cancel_shielded_checkpoint()

    def _close(self) -> None:
        self._reading.close()
        self._writing.close()
        os.close(self._fd)


async def _edge(edges: select.epoll) -> None:
    await trio.lowlevel.wait_readable(edges.fileno())
    edges.poll(0)  # consumes the edge; a later one arms the set again
