"""Keeps an application registered: connects to the guest daemon and reconnects after a loss."""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Callable
from contextlib import closing
from typing import Final

import anyio

from hbtrio.app.connection import GuestConnection
from hbtrio.app.downtime_log import DowntimeLog
from hbtrio.app.handler_set import Handlers
from hbtrio.app.registration import Registration
from hbtrio.app.stream import GuestStream
from hbtrio.policy.backoff import Backoff
from hbtrio.wire.vocabulary import Event

_log = logging.getLogger("hbtrio.app")

#: The wait between two attempts to register, in seconds, doubles from the first to the last. It is
#: shortened at random by up to a half, so that a VM's applications don't all return at once.
FIRST_RETRY_S: Final = 0.5
LAST_RETRY_S: Final = 10.0

#: Errors that mean that the guest daemon is not running yet, or restarts.
_NOT_THERE: Final = (errno.ENOENT, errno.ECONNREFUSED)


class Membership:
    """The registration of an application, for as long as :meth:`run` runs.

    It belongs to the process that created it and ends in a forked child.

    Args:
        registration: the values to register with.
        handlers: the application's handlers.
        socket: the path of the daemon's socket.
        jitter: returns 0 to 1, the share of half the wait by which a wait is shortened.
    """

    def __init__(
        self,
        registration: Registration,
        handlers: Handlers,
        socket: str,
        jitter: Callable[[], float],
    ) -> None:
        self.registered = False
        #: Whether the daemon refused the last attempt to register.
        self.refused = False
        #: Why the last attempt failed or the last registration ended; empty while registered.
        self.fault = ""
        #: Called in the event loop on each change.
        self.listener: Callable[[], None] | None = None
        self._registration = registration
        self._handlers = handlers
        self._socket = socket
        self._jitter = jitter
        #: While it is registered.
        self._connection: GuestConnection | None = None
        self._pid = os.getpid()
        self._changed = anyio.Event()

    def is_here(self) -> bool:
        """Returns whether this is the process that created it, not a forked child."""
        return os.getpid() == self._pid

    async def ready_for(self, event: Event) -> None:
        """Tells the guest daemon, if registered, that this event would not be rejected any more."""
        if self._connection is not None:
            await self._connection.ready_for(event)

    async def changed(self) -> None:
        """Waits for a change of ``registered``, ``refused`` or ``fault``, or for the end."""
        await self._changed.wait()

    def end(self) -> None:
        """Ends the registration and wakes all that wait for a change."""
        self._set(registered=False)
        self.listener = None

    async def run(self) -> None:
        """Registers, and again after each loss, until cancelled; then signs off."""
        backoff = Backoff(FIRST_RETRY_S, LAST_RETRY_S)
        downtime = DowntimeLog(self._registration.name, anyio.current_time())
        while self.is_here():
            reason, level = "", logging.WARNING
            try:
                stream = GuestStream.connect(self._socket)
            except OSError as error:
                reason = f"{self._socket}: {(error.strerror or str(error)).lower()}"
                if error.errno in _NOT_THERE:
                    level = logging.INFO
            else:
                with closing(stream):
                    connection = GuestConnection(stream, self._registration, self._handlers)
                    accepted = await connection.register()
                    if accepted:
                        reason = await self._serve(connection)
                        backoff.reset()
                        downtime = DowntimeLog(self._registration.name, anyio.current_time())
                    elif accepted is None:
                        reason = "the guest daemon did not answer the registration"
                    else:
                        reason, level = "the guest daemon refused the registration", logging.ERROR
                        self.refused = True
                        self._set(registered=False)
            if not self.is_here():
                return
            if reason != self.fault:
                self.fault = reason
                self._set(registered=False)
            downtime.log_reason(reason, level, anyio.current_time())
            await anyio.sleep(backoff.next_delay_s() * (1 - self._jitter() / 2))

    async def _serve(self, connection: GuestConnection) -> str:
        """Serves a registered connection until it ends; returns the reason."""
        _log.info("%s is registered with the guest daemon", self._registration.name)
        self.refused, self.fault = False, ""
        self._connection = connection
        self._set(registered=True)
        try:
            return await connection.serve()
        except anyio.get_cancelled_exc_class():
            await connection.sign_off()
            raise
        finally:
            self._connection = None
            self._set(registered=False)

    def _set(self, *, registered: bool) -> None:
        self.registered = registered
        self._changed.set()
        self._changed = anyio.Event()
        if self.listener is not None:
            self.listener()
