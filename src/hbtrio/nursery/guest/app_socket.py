"""Opens and serves the socket where applications register.

The heartbeat works without it.
"""

from __future__ import annotations

import logging

import trio

from hbtrio.errors import UserError
from hbtrio.net.unix_socket import UnixListener, open_unix_listener
from hbtrio.nursery.guest.applications import Applications
from hbtrio.wire.app_socket import DEFAULT_APP_SOCKET

_log = logging.getLogger("hbtrio.guest")


class AppSocket:
    """The listening socket for applications.

    Args:
        path: the configured path; None is the default path, and then the guest goes on without the
            socket if it can't be opened.
        applications: serves the connections.
    """

    def __init__(self, path: str | None, applications: Applications) -> None:
        self._path = path or DEFAULT_APP_SOCKET
        self._required = path is not None
        self._applications = applications
        self._listener: UnixListener | None = None
        self._opened = trio.Event()

    async def open(self, mode: int, group: str) -> None:
        """Opens the socket; :meth:`serve` accepts connections.

        Args:
            mode: the permission bits of the socket.
            group: the group that owns the socket; "" is the group of the process.

        Raises:
            UserError: the configured path can't be opened; see :func:`open_unix_listener`.
        """
        try:
            self._listener = await open_unix_listener(self._path, mode, group=group or None)
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
