"""The host's end of a channel: a stream that never blocks, so that one task can serve thousands.

The pacer sends without waiting, a reader waits for readiness and takes one bounded read. A memory
port with the same five methods makes a fleet without sockets.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Awaitable
from typing import Final, Protocol

import trio

from hbtrio.errors import os_reason

#: One read takes at most this: a virtio port's own limit, and short enough for its neighbours.
READ_BYTES: Final = 4096


class ChannelFault(Exception):
    """The connection can't be opened or has failed; the text says why."""


class Port(Protocol):
    """A connected channel."""

    def send_nowait(self, data: bytes) -> int:
        """Sends what can be sent now and returns how many bytes, 0 when the peer is not reading.

        Raises:
            ChannelFault: the connection is broken.
        """

    def receive_nowait(self) -> bytes | None:
        """At most ``READ_BYTES``; None when there is nothing now, b"" at the end.

        Raises:
            ChannelFault: the connection is broken.
        """

    def wait_readable(self) -> Awaitable[None]:
        """Waits for bytes, the end or a fault."""

    async def wait_writable(self) -> None:
        """Waits until the peer has taken some."""

    def close(self) -> None:
        """Closes the connection; waits end with ``trio.ClosedResourceError``."""


class Dialer(Protocol):
    """Opens ports; handed in, so that a simulation can hand in another."""

    def dial(self, path: str) -> Port:
        """Connects to the channel socket at ``path`` without waiting.

        Raises:
            ChannelFault: nobody listens, permission denied, the file is gone, the backlog is full.
        """


class SocketPort:
    """A port over a connected, non-blocking socket."""

    __slots__ = ("_fd", "_socket")

    def __init__(self, connected: socket.socket) -> None:
        self._socket = connected
        self._fd = connected.fileno()

    def send_nowait(self, data: bytes) -> int:
        """See :class:`Port`."""
        try:
            return self._socket.send(data)
        except BlockingIOError:
            return 0
        except OSError as error:
            raise ChannelFault(_why(error)) from error

    def receive_nowait(self) -> bytes | None:
        """See :class:`Port`."""
        try:
            return self._socket.recv(READ_BYTES)
        except BlockingIOError:
            return None
        except OSError as error:
            raise ChannelFault(_why(error)) from error

    def wait_readable(self) -> Awaitable[None]:
        """See :class:`Port`."""
        # No coroutine of its own: that would be one more frame at each wake-up of each channel.
        return trio.lowlevel.wait_readable(self._fd)  # noqa: ASYNC105

    async def wait_writable(self) -> None:
        """See :class:`Port`."""
        await trio.lowlevel.wait_writable(self._fd)

    def close(self) -> None:
        """See :class:`Port`."""
        if self._socket.fileno() >= 0:
            trio.lowlevel.notify_closing(self._fd)
            self._socket.close()


class UnixDialer:
    """Dials real unix stream sockets, as QEMU's chardevs are."""

    def dial(self, path: str) -> Port:
        """See :class:`Dialer`. A unix socket connects at once or not at all."""
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.setblocking(False)
            connection.connect(path)
        except OSError as error:
            connection.close()
            raise ChannelFault(_why(error)) from error
        return SocketPort(connection)


def _why(error: OSError) -> str:
    if error.errno == errno.EAGAIN:
        return "its backlog is full: other clients are waiting already"
    return os_reason(error)
