"""Accepts connections also when descriptors or memory run short, and logs that once a minute.

``trio.serve_listeners`` logs ten tracebacks a second then, and the clients wait in the backlog.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final

import trio

from hbtrio.errors import os_reason
from hbtrio.log import ShortageLog
from hbtrio.net.unix_socket import UnixListener
from hbtrio.system.open_files import SpareDescriptor, is_reserved, limit_text

_log = logging.getLogger("hbtrio.net")

#: Transient errors of accept(2), and seconds to wait after one.
SHORTAGES: Final = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS)
_PAUSE_S: Final = 0.1

Handler = Callable[[trio.SocketStream], Awaitable[object]]


async def accept_connections(
    handler: Handler,
    listener: trio.SocketListener | UnixListener,
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
    shortage = ShortageLog(_log, f"{whose} are refused")
    spare = SpareDescriptor()
    try:
        async with listener:
            while True:
                try:
                    stream = await listener.accept()
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
                if not to_the_last and has_reserved(stream):
                    reason = f"the last descriptors are reserved; {limit_text()}"
                    shortage.refused(reason, trio.current_time())
                    await trio.aclose_forcefully(stream)
                    continue
                shortage.served(trio.current_time())
                nursery.start_soon(_run, handler, stream)
    finally:
        spare.close()


def has_reserved(stream: trio.SocketStream) -> bool:
    """Returns whether an accepted connection has one of the descriptors that are reserved."""
    return is_reserved(stream.socket.fileno())


async def _refuse(listener: trio.SocketListener | UnixListener) -> None:
    """Closes one waiting connection, if descriptors suffice for that; else waits a little."""
    with suppress(OSError), trio.move_on_after(_PAUSE_S):
        await trio.aclose_forcefully(await listener.accept())
        return
    await trio.sleep(_PAUSE_S)


async def _run(handler: Handler, stream: trio.SocketStream) -> None:
    try:
        await handler(stream)
    finally:
        await trio.aclose_forcefully(stream)
