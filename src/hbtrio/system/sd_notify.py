"""What a daemon tells the service manager that started it, see sd_notify(3) of systemd.

Ready, stopping, and for a unit with ``WatchdogSec=`` a sign of life from the event loop. Where no
service manager asks for it, nothing is said. Nothing here ever fails a daemon or makes it wait: a
message that can't be sent is lost, and the first one that is has a line in the log.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import AsyncIterator, MutableMapping
from contextlib import asynccontextmanager

import trio

from hbtrio.errors import os_reason
from hbtrio.log import LogOnce

_log = logging.getLogger("hbtrio.service")


class ServiceManager:
    """The way to the service manager.

    Args:
        address: its datagram socket; "" for none.
        watchdog_s: it wants a sign of life within each so many seconds; 0 for never.
    """

    def __init__(self, address: str, watchdog_s: float = 0.0) -> None:
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._watchdog_s = watchdog_s
        self._fault = LogOnce()

    @classmethod
    def of(cls, environ: MutableMapping[str, str], pid: int) -> ServiceManager:
        """The one that ``environ`` names; its variables are taken out: they are not for scripts.

        Args:
            environ: the environment of this process.
            pid: this process: a watchdog may be meant for another one.
        """
        address = environ.pop("NOTIFY_SOCKET", "")
        usec, meant = environ.pop("WATCHDOG_USEC", ""), environ.pop("WATCHDOG_PID", "")
        wanted = usec.isascii() and usec.isdigit() and meant in ("", str(pid))
        return cls(address, int(usec) / 1e6 if wanted else 0.0)

    def ready(self) -> None:
        """The daemon does its work, or does it again."""
        self._send("READY=1")

    def reloading(self) -> None:
        """It reads its configuration again; :meth:`ready` follows."""
        self._send("RELOADING=1")

    def stopping(self) -> None:
        """It ends."""
        self._send("STOPPING=1")

    @asynccontextmanager
    async def told(self) -> AsyncIterator[None]:
        """Gives signs of life while the block runs, twice as often as is asked for."""
        async with trio.open_nursery() as nursery:
            if self._address and self._watchdog_s > 0:
                nursery.start_soon(self._keep_alive)
            yield
            nursery.cancel_scope.cancel()

    async def _keep_alive(self) -> None:
        while True:
            self._send("WATCHDOG=1")
            await trio.sleep(self._watchdog_s / 2)

    def _send(self, state: str) -> None:
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
                sender.setblocking(False)
                sender.sendto(state.encode(), self._address)
        except OSError as error:
            if self._fault.is_new(reason := os_reason(error)):
                _log.warning("the service manager can't be notified: %s", reason)
