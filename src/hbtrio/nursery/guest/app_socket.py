"""The socket where applications register, which the heartbeat can do without."""

from __future__ import annotations

import logging
from typing import Final

import trio

from hbtrio.errors import UserError
from hbtrio.net.unix_socket import UnixListener, open_unix_listener
from hbtrio.nursery.guest.applications import Applications

_log = logging.getLogger("hbtrio.guest")

#: Where the deployed library connects to.
DEFAULT_APP_SOCKET: Final = "/var/run/.guest_heartbeat_api"


class AppSocket:
    """A place for applications to connect to.

    Args:
        path: what somebody asked for; None: the default, without which the guest goes on if it
            can't be had.
        applications: who serves it.
    """

    def __init__(self, path: str | None, applications: Applications) -> None:
        self._path = path or DEFAULT_APP_SOCKET
        self._wanted = path is not None
        self._applications = applications
        self._listener: UnixListener | None = None
        self._opened = trio.Event()

    async def open(self, mode: int, group: str) -> None:
        """Opens it; :meth:`serve` does the rest.

        Args:
            mode: its permission bits.
            group: the group to own it, or empty for the process's own.

        Raises:
            UserError: it can't be opened and was asked for; see :func:`open_unix_listener`.
        """
        try:
            self._listener = await open_unix_listener(self._path, mode, group=group or None)
        except UserError as error:
            if self._wanted:
                raise
            _log.warning("applications are not served: %s", error)
        else:
            self._opened.set()

    async def reload(self, mode: int, group: str) -> None:
        """Takes over another mode and group, or tries again to open what could not be opened.

        Connections stay. A fault has a line in the log and changes nothing.
        """
        if self._listener is None:
            await self.open(mode, group)
            return
        try:
            self._listener.permit(mode, group or None)
        except UserError as error:
            _log.error("not reloaded: %s", error)

    async def serve(self) -> None:
        """Serves it, once it is open, until cancelled; it is closed then."""
        await self._opened.wait()
        assert self._listener is not None
        await self._applications.serve(self._listener)
