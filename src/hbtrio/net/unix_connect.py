"""Connects to a unix socket, and tells a full backlog from a connection.

A connect without waiting fails with EAGAIN if the listener's backlog is full (connect(2)). trio
takes that for a connection in progress, as over TCP, and returns a stream that is connected to
nothing: writing to it fails with ENOTCONN and reading from it with EINVAL.
"""

from __future__ import annotations

import errno

import trio

from hbtrio.errors import BACKLOG_FULL


async def open_unix_stream(path: str) -> trio.SocketStream:
    """Connects to a unix socket, without waiting for a place in its backlog.

    Raises:
        OSError: nothing listens there, or without an errno, as only a text, its backlog is full.
    """
    stream = await trio.open_unix_socket(path)
    try:
        stream.socket.getpeername()
    except OSError:
        stream.socket.close()
        raise OSError(BACKLOG_FULL) from None
    return stream


def was_never_connected(error: OSError | None) -> bool:
    """Returns whether reading or writing failed because trio has connected to nothing."""
    return error is not None and error.errno in (errno.ENOTCONN, errno.EINVAL)
