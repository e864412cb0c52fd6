"""Notifies the service manager of the daemon's state, see sd_notify(3) of systemd.

The states are ready, reloading and stopping, and for a unit with ``WatchdogSec=`` a keep-alive from
the event loop. Without a service manager nothing is sent. Sending never fails or blocks: a message
that can't be sent is dropped, and the first fault is logged.
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
    """The connection to the service manager.

    Args:
        address: the path of the datagram socket; "" for none.
        watchdog_s: the watchdog timeout, in seconds; 0 for none.
    """

    def __init__(self, address: str, watchdog_s: float = 0.0) -> None:
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._watchdog_s = watchdog_s
        self._fault = LogOnce()

    @classmethod
    def of(cls, environ: MutableMapping[str, str], pid: int) -> ServiceManager:
        """Returns the service manager of an environment and removes its variables.

        Scripts must not inherit the variables.

        Args:
            environ: the environment of this process.
            pid: the id of this process: the watchdog may be meant for another one.
        """
        address = environ.pop("NOTIFY_SOCKET", "")
        usec, meant = environ.pop("WATCHDOG_USEC", ""), environ.pop("WATCHDOG_PID", "")
        wanted = usec.isascii() and usec.isdigit() and meant in ("", str(pid))
        return cls(address, int(usec) / 1e6 if wanted else 0.0)

    def ready(self) -> None:
        """Reports that the daemon is ready, also after a reload."""
        self._send("READY=1")

    def reloading(self) -> None:
        """Reports that the daemon reloads its configuration; call :meth:`ready` afterwards."""
        self._send("RELOADING=1")

    def stopping(self) -> None:
        """Reports that the daemon is stopping."""
        self._send("STOPPING=1")

    @asynccontextmanager
    async def keep_alive(self) -> AsyncIterator[None]:
        """Sends keep-alives while the block runs, twice per watchdog timeout."""
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
