"""Accepts connections also when descriptors or memory run short, and logs that once a minute.

``trio.serve_listeners`` logs ten tracebacks a second then, and the clients wait in the backlog. It
also accepts one connection in each pass of the loop: clients that connect and leave at once, a few
hundred a second, fill the backlog of a busy daemon, and all others wait behind them for minutes.
"""

from __future__ import annotations

import errno
import logging
import select
import socket
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from typing import Final, TypeVar, cast

import trio

from hbtrio.errors import os_reason
from hbtrio.log import ShortageLog
from hbtrio.net.connections import AcceptedStream, InProcessStream
from hbtrio.net.unix_socket import UnixListener
from hbtrio.system.open_files import SpareDescriptor, is_reserved, limit_text

_log = logging.getLogger("hbtrio.net")

#: Transient errors of accept(2), and seconds to wait after one.
SHORTAGES: Final = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS)
_PAUSE_S: Final = 0.1

#: Connections that are accepted before others have their turn. When so many wait, it is a flood,
#: and those that their clients have left already are closed instead of served.
AT_ONCE: Final = 32

S = TypeVar("S", bound=AcceptedStream)
Handler = Callable[[S], Awaitable[object]]


async def accept_connections(
    handler: Handler[S],
    listener: trio.abc.Listener[S],
    nursery: trio.Nursery,
    *,
    whose: str,
    to_the_last: bool,
) -> None:
    """Runs ``handler`` for each connection until cancelled; closes connections and listener.

    Args:
        handler: serves a connection.
        listener: accepts them.
        nursery: runs the handlers.
        whose: names the connections in the log, in the plural.
        to_the_last: whether they may use the descriptors that are reserved, see
            :mod:`hbtrio.system.open_files`. Others are closed at once when only those are left.

    Raises:
        OSError: accept failed permanently.
    """
    if not isinstance(listener, trio.SocketListener | UnixListener):
        async with listener:
            while True:
                nursery.start_soon(_run, handler, await listener.accept())
    serve = cast(Handler[trio.SocketStream], handler)
    shortage = ShortageLog(_log, f"{whose} are refused")
    spare = SpareDescriptor()
    try:
        async with listener:
            while True:
                try:
                    streams = [await listener.accept()]
                except OSError as error:
                    if error.errno not in SHORTAGES:
                        raise
                    reason = os_reason(error)
                    if error.errno == errno.EMFILE:
                        reason = f"{reason}; {limit_text()}"
                    shortage.refused(reason, trio.current_time())
                    with spare.lent():
                        await _refuse(listener)
                    continue
                if not has_reserved(streams[0]):
                    streams += accept_waiting(listener)
                if left := drop_left(streams):
                    reason = f"{AT_ONCE} wait at once, and clients had left {left} of them"
                    shortage.refused(reason, trio.current_time())
                for stream in streams:
                    if not to_the_last and has_reserved(stream):
                        reason = f"the last descriptors are reserved; {limit_text()}"
                        shortage.refused(reason, trio.current_time())
                        stream.socket.close()
                        continue
                    shortage.served(trio.current_time())
                    nursery.start_soon(_run, serve, stream)
    finally:
        spare.close()


def accept_waiting(listener: trio.SocketListener | UnixListener) -> Iterator[trio.SocketStream]:
    """Accepts without waiting what is in the backlog, up to ``AT_ONCE`` with the one before it.

    A fault ends it; the next ``accept`` has it again. So does the first reserved descriptor: each
    connection that gets one has to make room before the next.
    """
    own = listener.current if isinstance(listener, UnixListener) else listener
    waiting = socket.socket(fileno=own.socket.fileno())
    try:
        with suppress(OSError):
            for _ in range(AT_ONCE - 1):
                accepted, _ = waiting.accept()
                stream = trio.SocketStream(trio.socket.from_stdlib_socket(accepted))
                yield stream
                if has_reserved(stream):
                    return
    finally:
        waiting.detach()


def drop_left(streams: list[trio.SocketStream]) -> int:
    """Closes and removes, in a flood, those that their clients have closed; returns how many.

    A client that has closed its end for writing only, to mark the end of its request, looks the
    same; that is why nothing is closed otherwise.
    """
    if len(streams) < AT_ONCE:
        return 0
    poll = select.poll()
    by_fd = {stream.socket.fileno(): stream for stream in streams}
    for fd in by_fd:
        poll.register(fd, select.POLLRDHUP)
    left = [by_fd[fd] for fd, _ in poll.poll(0)]
    for stream in left:
        stream.socket.close()
        streams.remove(stream)
    return len(left)


def has_reserved(stream: AcceptedStream) -> bool:
    """Returns whether an accepted connection has one of the descriptors that are reserved."""
    return isinstance(stream, trio.SocketStream) and is_reserved(stream.socket.fileno())


def has_unread(stream: trio.abc.Stream) -> bool:
    """Returns whether bytes or an end have arrived at a socket that nobody has read yet.

    Args:
        stream: an accepted connection, or TLS over one; any other has nothing unread.
    """
    if isinstance(stream, InProcessStream):
        return stream.has_unread()
    if isinstance(stream, trio.SSLStream):
        stream = stream.transport_stream
    if not isinstance(stream, trio.SocketStream) or stream.socket.fileno() < 0:
        return False
    poll = select.poll()
    poll.register(stream.socket, select.POLLIN)
    return bool(poll.poll(0))


async def _refuse(listener: trio.SocketListener | UnixListener) -> None:
    """Closes one waiting connection, if descriptors suffice for that; else waits a little."""
    with suppress(OSError), trio.move_on_after(_PAUSE_S):
        await trio.aclose_forcefully(await listener.accept())
        return
    await trio.sleep(_PAUSE_S)


async def _run(handler: Handler[S], stream: S) -> None:
    try:
        await handler(stream)
    finally:
        await trio.aclose_forcefully(stream)
