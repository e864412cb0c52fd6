"""Connects to the guest daemon's socket, under any event loop.

anyio's own streams have two faults here. If too many connections wait to be accepted, a unix socket
refuses with EAGAIN, which anyio takes for a connection in progress. And on asyncio, data that
arrives while the reader is cancelled is logged as an error in the application's log.

A forked child closes its copies of the sockets. Otherwise a copy would keep the connection open
after the parent's death and the guest would wait for a dead process. Programs started with exec get
no copy, because Python closes sockets on exec.
"""

from __future__ import annotations

import os
import socket
import weakref
from typing import Final, Self

import anyio

from hbtrio.wire.app_codec import MESSAGE_BYTES

_READ_BYTES: Final = 16 * MESSAGE_BYTES

#: The open streams of this process.
_streams: weakref.WeakSet[GuestStream] = weakref.WeakSet()


class GuestStream:
    """A connected socket. One task may read and one may write at a time."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        _streams.add(self)

    @classmethod
    def connect(cls, path: str) -> Self:
        """Connects without waiting, since a unix socket connects or fails at once.

        Raises:
            OSError: nothing listens at the path, or too many connections wait to be accepted.
        """
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        # Created before connect(), because another thread may fork at any time.
        stream = cls(sock)
        try:
            sock.setblocking(False)
            sock.connect(path)
        except BaseException:
            sock.close()
            raise
        return stream

    async def receive(self) -> bytes:
        """Waits for data and returns it; b"" if the connection has ended.

        Cancellation loses no data.
        """
        while self._sock.fileno() >= 0:  # a forked child has closed its copy
            await anyio.wait_readable(self._sock)
            try:
                return self._sock.recv(_READ_BYTES)
            except BlockingIOError:
                continue
            except OSError:
                break
        return b""

    async def send(self, data: bytes) -> None:
        """Sends all data; waits only while the socket is full.

        A cancelled call may have sent a part of the data.

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
        """Closes the socket; no task may be reading or writing."""
        self._sock.close()


def _close_all_in_child() -> None:
    # The child has only this thread, so no other uses the streams.
    for stream in list(_streams):
        stream.close()


os.register_at_fork(after_in_child=_close_all_in_child)
