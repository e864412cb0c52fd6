"""Provides the host's end of a channel: a non-blocking stream, for thousands of channels per task.

The pacer sends without waiting. A reader waits until the port is readable and does one bounded
read. A simulation uses a memory port with the same five methods instead of a socket.
"""

from __future__ import annotations

import errno
import logging
import socket
import time
from collections.abc import Awaitable
from typing import Final, Protocol

import trio

from hbtrio.errors import BACKLOG_FULL, os_reason
from hbtrio.log import ShortageLog
from hbtrio.system.open_files import is_reserved, limit_text

_log = logging.getLogger("hbtrio.channel")

#: Bytes of one read at most: the limit of a virtio port, and short enough not to delay other
#: channels.
READ_BYTES: Final = 4096


class ChannelFault(Exception):
    """The connection can't be opened or has failed; the text is the reason."""


class NoDescriptor(ChannelFault):
    """No descriptor is left for the connection; the dialer has logged it."""


class Port(Protocol):
    """A connected channel."""

    def send_nowait(self, data: bytes) -> int:
        """Sends without waiting and returns the number of bytes sent, 0 if the peer is not reading.

        Raises:
            ChannelFault: the connection is broken.
        """

    def receive_nowait(self) -> bytes | None:
        """Reads at most ``READ_BYTES`` without waiting.

        Returns:
            The bytes; None if there are none now; b"" at the end of the stream.

        Raises:
            ChannelFault: the connection is broken.
        """

    def wait_readable(self) -> Awaitable[None]:
        """Waits for bytes, the end of the stream or a fault."""

    async def wait_writable(self) -> None:
        """Waits until more bytes can be sent."""

    def close(self) -> None:
        """Closes the connection; pending waits raise ``trio.ClosedResourceError``."""


class Dialer(Protocol):
    """Opens ports. A simulation passes in its own."""

    def dial(self, path: str) -> Port:
        """Connects to the channel socket at ``path`` without waiting.

        Raises:
            ChannelFault: no process listens, permission is denied, the file is missing or the
                backlog is full.
        """


class SocketPort:
    """A port on a connected, non-blocking socket."""

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
            raise ChannelFault(_reason(error)) from error

    def receive_nowait(self) -> bytes | None:
        """See :class:`Port`."""
        try:
            return self._socket.recv(READ_BYTES)
        except BlockingIOError:
            return None
        except OSError as error:
            raise ChannelFault(_reason(error)) from error

    def wait_readable(self) -> Awaitable[None]:
        """See :class:`Port`."""
        # Not a coroutine of its own: that would add a frame to each wake-up of each channel.
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
    """Connects to unix stream sockets, such as QEMU's chardevs.

    The last descriptors of the process are reserved, see :mod:`hbtrio.system.open_files`: with them
    no channel is connected.
    """

    def __init__(self) -> None:
        self._shortage = ShortageLog(_log, "channels are not connected")

    def dial(self, path: str) -> Port:
        """See :class:`Dialer`. A unix socket connects immediately or fails.

        Raises:
            NoDescriptor: too few are left.
        """
        try:
            connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        except OSError as error:
            raise self._refusal(os_reason(error)) from error
        if is_reserved(connection.fileno()):
            connection.close()
            raise self._refusal("the last descriptors are reserved")
        self._shortage.served(time.monotonic())
        try:
            connection.setblocking(False)
            connection.connect(path)
        except OSError as error:
            connection.close()
            raise ChannelFault(_reason(error)) from error
        return SocketPort(connection)

    def _refusal(self, reason: str) -> NoDescriptor:
        text = f"{reason}; {limit_text()}"
        self._shortage.refused(text, time.monotonic())
        return NoDescriptor(text)


def _reason(error: OSError) -> str:
    if error.errno == errno.EAGAIN:
        return BACKLOG_FULL
    return os_reason(error)
