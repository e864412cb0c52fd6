"""Staying registered: connects to the guest daemon, and again whenever that is lost."""

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
from hbtrio.app.registration import Terms
from hbtrio.app.stream import GuestStream
from hbtrio.policy.backoff import Backoff

_log = logging.getLogger("hbtrio.app")

#: The wait between two attempts to register: doubling from the first to the last, in seconds. Up to
#: half of it is taken off by chance, lest all of a VM's applications come back at once.
FIRST_RETRY_S: Final = 0.5
LAST_RETRY_S: Final = 10.0

#: What it means that nobody listens: the guest daemon is not there yet, or is being started again.
_NOT_THERE: Final = (errno.ENOENT, errno.ECONNREFUSED)


class Membership:
    """One application's place among those of the guest daemon, for as long as :meth:`run` runs.

    It belongs to the process that has made it; in a forked child it is over.

    Args:
        terms: what is registered.
        handlers: what answers the daemon.
        socket: where the daemon listens.
        jitter: returns how much of half the wait is taken off it, from 0 to 1.
    """

    def __init__(
        self, terms: Terms, handlers: Handlers, socket: str, jitter: Callable[[], float]
    ) -> None:
        self.registered = False
        #: Whether the daemon's last word was that it does not accept the registration.
        self.refused = False
        #: Called in the event loop with each change.
        self.listener: Callable[[], None] | None = None
        self._terms = terms
        self._handlers = handlers
        self._socket = socket
        self._jitter = jitter
        self._pid = os.getpid()
        self._news = anyio.Event()

    def is_here(self) -> bool:
        """Whether this is the process that has made it, and not a child of that."""
        return os.getpid() == self._pid

    async def changed(self) -> None:
        """Returns with the next change of ``registered`` or ``refused``, or when it has ended."""
        await self._news.wait()

    def end(self) -> None:
        """It is over: lets go who waits for a change."""
        self._set(registered=False)
        self.listener = None

    async def run(self) -> None:
        """Registers, and does so again whenever it is lost, until cancelled."""
        backoff = Backoff(FIRST_RETRY_S, LAST_RETRY_S)
        downtime = DowntimeLog(self._terms.name, anyio.current_time())
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
                    connection = GuestConnection(stream, self._terms, self._handlers)
                    accepted = await connection.register()
                    if accepted:
                        reason = await self._attend(connection)
                        backoff.reset()
                        downtime = DowntimeLog(self._terms.name, anyio.current_time())
                    elif accepted is None:
                        reason = "the guest daemon did not answer the registration"
                    else:
                        reason, level = "the guest daemon refused the registration", logging.ERROR
                        self.refused = True
                        self._set(registered=False)
            if not self.is_here():
                return
            downtime.because(reason, level, anyio.current_time())
            await anyio.sleep(backoff.next_delay_s() * (1 - self._jitter() / 2))

    async def _attend(self, connection: GuestConnection) -> str:
        """Is registered, for as long as it can be; returns why it no longer is."""
        _log.info("%s is registered with the guest daemon", self._terms.name)
        self.refused = False
        self._set(registered=True)
        try:
            return await connection.serve()
        except anyio.get_cancelled_exc_class():
            # Before the connection is closed, and bounded in time.
            await connection.say_farewell()
            raise
        finally:
            self._set(registered=False)

    def _set(self, *, registered: bool) -> None:
        self.registered = registered
        self._news.set()
        self._news = anyio.Event()
        if self.listener is not None:
            self.listener()
