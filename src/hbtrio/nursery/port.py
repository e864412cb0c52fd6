"""Provides the host's end of a channel: a non-blocking stream, for thousands of channels per task.

The pacer sends without waiting. One task waits for all ports of a host, in one place:
:class:`Readers`, an epoll for sockets. A simulation has ports in memory instead, and readers of its
own for them.
"""

from __future__ import annotations

import errno
import logging
import select
import socket
import time
from collections.abc import Awaitable, Sequence
from contextlib import suppress
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
    """A connected stream."""

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

    async def wait_writable(self) -> None:
        """Waits until more bytes can be sent."""

    def close(self) -> None:
        """Closes the connection; pending waits raise ``trio.ClosedResourceError``."""


class ChannelPort(Port, Protocol):
    """A connected channel, one of those that the readers of its dialer can watch."""

    @property
    def number(self) -> int:
        """What the readers call it; no two open ports of a dialer have the same number."""

    def watch(self) -> None:
        """From now on the readers say when there is something to read, see :class:`Readers`."""

    def unwatch(self) -> None:
        """Ends :meth:`watch`; does nothing if the port is not watched, or closed."""

    def close(self) -> None:
        """Closes the connection, and ends :meth:`watch`."""


class Readers(Protocol):
    """Says which of the watched ports have bytes, an end or a fault to be read.

    A port stays ready until all of that has been read, or the port is not watched any more.
    """

    async def wait(self) -> None:
        """Waits until at least one port seems to be ready."""

    def ready(self, limit: int) -> Sequence[int]:
        """Returns the numbers of ready ports, without waiting.

        Args:
            limit: how many at most. Those that were returned come after all others next time.
        """


class Dialer(Protocol):
    """Opens ports. A simulation passes in its own."""

    @property
    def readers(self) -> Readers:
        """Where all its ports are watched."""

    def dial(self, path: str) -> ChannelPort:
        """Connects to the channel socket at ``path`` without waiting.

        Raises:
            ChannelFault: no process listens, permission is denied, the file is missing or the
                backlog is full.
        """


class SocketPort:
    """A port on a connected, non-blocking socket, which a task of its own may wait for."""

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
        """Waits for bytes, the end of the stream or a fault."""
        # Not a coroutine of its own: that would add a frame to each wake-up of each task.
        return trio.lowlevel.wait_readable(self._fd)  # noqa: ASYNC105

    async def wait_writable(self) -> None:
        """See :class:`Port`."""
        await trio.lowlevel.wait_writable(self._fd)

    def close(self) -> None:
        """See :class:`Port`."""
        if self._socket.fileno() >= 0:
            trio.lowlevel.notify_closing(self._fd)
            self._socket.close()


class SocketReaders:
    """Implements :class:`Readers` for sockets: an epoll of its own, below that of trio.

    Trio watches this epoll's descriptor only. That saves a task switch and two changes of trio's
    epoll for each message, a third of a heartbeat (measured; see docs/performance.md).
    """

    __slots__ = ("_epoll",)

    def __init__(self) -> None:
        self._epoll = select.epoll()

    def register(self, fd: int) -> None:
        """Watches a descriptor, until :meth:`unregister`."""
        self._epoll.register(fd, select.EPOLLIN)

    def unregister(self, fd: int) -> None:
        """Ends :meth:`register`, if that was called; to be called before ``fd`` is closed.

        The system removes a closed descriptor by itself only if no copy of it is left, for example
        in a process that is just being started.
        """
        with suppress(FileNotFoundError):
            self._epoll.unregister(fd)

    def close(self) -> None:
        """Closes the epoll, after all ports."""
        self._epoll.close()

    async def wait(self) -> None:
        """See :class:`Readers`."""
        await trio.lowlevel.wait_readable(self._epoll.fileno())

    def ready(self, limit: int) -> Sequence[int]:
        """See :class:`Readers`. The system returns ready descriptors in turns."""
        return [fd for fd, _ in self._epoll.poll(0, limit)]


class ChannelSocket(SocketPort):
    """A channel on a socket.

    Args:
        connected: the connected, non-blocking socket.
        readers: watch it.
    """

    __slots__ = ("_readers",)

    def __init__(self, connected: socket.socket, readers: SocketReaders) -> None:
        super().__init__(connected)
        self._readers = readers

    @property
    def number(self) -> int:
        """See :class:`ChannelPort`: the descriptor."""
        return self._fd

    def watch(self) -> None:
        """See :class:`ChannelPort`."""
        self._readers.register(self._fd)

    def unwatch(self) -> None:
        """See :class:`ChannelPort`."""
        if self._socket.fileno() >= 0:  # else the number may be another's by now
            self._readers.unregister(self._fd)

    def close(self) -> None:
        """See :class:`ChannelPort`."""
        self.unwatch()
        super().close()


class UnixDialer:
    """Connects to unix stream sockets, such as QEMU's chardevs.

    The last descriptors of the process are reserved, see :mod:`hbtrio.system.open_files`: with them
    no channel is connected.
    """

    def __init__(self) -> None:
        #: See :class:`Dialer`.
        self.readers = SocketReaders()
        self._shortage = ShortageLog(_log, "channels are not connected")

    def dial(self, path: str) -> ChannelSocket:
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
        return ChannelSocket(connection, self.readers)

    def close(self) -> None:
        """Closes the readers, after all ports."""
        self.readers.close()

    def _refusal(self, reason: str) -> NoDescriptor:
        text = f"{reason}; {limit_text()}"
        self._shortage.refused(text, time.monotonic())
        return NoDescriptor(text)


def _reason(error: OSError) -> str:
    if error.errno == errno.EAGAIN:
        return BACKLOG_FULL
    return os_reason(error)
