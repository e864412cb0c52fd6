"""Opens and serves the socket where applications register.

The heartbeat works without it.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

import trio

from hbtrio.errors import UserError
from hbtrio.net.unix_socket import UnixListener, open_unix_listener
from hbtrio.nursery.guest.applications import Applications

_log = logging.getLogger("hbtrio.guest")

#: Opens the socket with its permission bits and its group; "" is the group of the process.
AppListen = Callable[[int, str], Awaitable[UnixListener]]


def app_listen(path: str) -> AppListen:
    """Returns what opens the socket at a path; see :func:`open_unix_listener`."""

    async def listen(mode: int, group: str) -> UnixListener:
        return await open_unix_listener(path, mode, group=group or None)

    return listen


class AppSocket:
    """The listening socket for applications.

    Args:
        listen: opens the socket; raises UserError.
        applications: serves the connections.
        required: whether the socket has to open; else the guest goes on without it.
    """

    def __init__(
        self,
        listen: AppListen,
        applications: Applications,
        *,
        required: bool,
    ) -> None:
        self._listen = listen
        self._required = required
        self._applications = applications
        self._listener: UnixListener | None = None
        self._opened = trio.Event()

    async def open(self, mode: int, group: str) -> None:
        """Opens the socket; :meth:`serve` accepts connections.

        Args:
            mode: the permission bits of the socket.
            group: the group that owns the socket; "" is the group of the process.

        Raises:
            UserError: it can't be opened, and is required.
        """
        try:
            self._listener = await self._listen(mode, group)
        except UserError as error:
            if self._required:
                raise
            _log.warning("applications are not served: %s", error)
        else:
            self._opened.set()

    async def reload(self, mode: int, group: str) -> None:
        """Applies another mode and group, or retries to open the socket if that failed before.

        Connections stay open. On a fault, the fault is logged and nothing changes.
        """
        if self._listener is None:
            await self.open(mode, group)
            return
        try:
            self._listener.permit(mode, group or None)
        except UserError as error:
            _log.error("not reloaded: %s", error)

    async def serve(self) -> None:
        """Waits until the socket is open, then serves it until cancelled, which closes it."""
        await self._opened.wait()
        assert self._listener is not None
        await self._applications.serve(self._listener)
