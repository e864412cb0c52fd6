"""The socket to the guest daemon, for any event loop.

anyio's own streams are not used. Connecting: where too many wait to be accepted, a unix socket
refuses at once with EAGAIN, which they take for a connection under way. Reading: on asyncio, what
arrives while the reader is being cancelled is an error in the log of the application.

A forked child has a copy of every descriptor. One of a connection would keep it open after the
parent's death, and the guest would wait for a process that is gone; so the child closes its copies
at once. Programs that are executed do not get one: sockets of Python are closed on exec.
"""

from __future__ import annotations

import os
import socket
import weakref
from typing import Final, Self

import anyio

from hbtrio.wire.app_codec import MESSAGE_BYTES

_READ_BYTES: Final = 16 * MESSAGE_BYTES

#: Those of this process that are in use.
_streams: weakref.WeakSet[GuestStream] = weakref.WeakSet()


class GuestStream:
    """A connected socket. One task may read, and one may write, at a time."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        _streams.add(self)

    @classmethod
    def connect(cls, path: str) -> Self:
        """Connects, without waiting: with a unix socket there is nothing to wait for.

        Raises:
            OSError: nobody listens there, or too many wait to be accepted.
        """
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        # Before it connects, for another thread may fork in the middle of this.
        stream = cls(sock)
        try:
            sock.setblocking(False)
            sock.connect(path)
        except BaseException:
            sock.close()
            raise
        return stream

    async def receive(self) -> bytes:
        """What has arrived, as soon as something has; nothing when the connection has ended.

        Cancelled, it has taken nothing.
        """
        while self._sock.fileno() >= 0:  # a forked child has closed it
            await anyio.wait_readable(self._sock)
            try:
                return self._sock.recv(_READ_BYTES)
            except BlockingIOError:
                continue
            except OSError:
                break
        return b""

    async def send(self, data: bytes) -> None:
        """Sends all of it, and waits only while the socket is full.

        Cancelled, it may have sent a part.

        Raises:
            OSError: the connection has ended.
        """
        rest = memoryview(data)
        while rest:
            try:
                rest = rest[self._sock.send(rest) :]
            except BlockingIOError:
                await anyio.wait_writable(self._sock)

    def close(self) -> None:
        """Closes the socket; nobody may be reading or writing."""
        self._sock.close()


def _close_all_in_child() -> None:
    # The child has this one thread: nobody else uses them.
    for stream in list(_streams):
        stream.close()


os.register_at_fork(after_in_child=_close_all_in_child)
