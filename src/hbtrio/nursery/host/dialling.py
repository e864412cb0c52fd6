"""Dials one channel's socket: keeps its path, backs off, and logs each fault once."""

from __future__ import annotations

import logging

import trio

from hbtrio.log import LogOnce
from hbtrio.nursery.port import ChannelFault, ChannelPort, Dialer, NoDescriptor
from hbtrio.policy.backoff import Backoff

_log = logging.getLogger("hbtrio.channel")


class Dialling:
    """Connects to one channel's socket, with a backoff.

    Args:
        uuid: the instance, for the log.
        path: the path of its socket.
        dialer: connects.
    """

    __slots__ = (
        "_backoff",
        "_dialer",
        "_fault_log",
        "_silence_log",
        "_sleep",
        "_useless_log",
        "_uuid",
        "absent",
        "fault",
        "is_refused",
        "path",
    )

    def __init__(self, uuid: str, path: str, dialer: Dialer) -> None:
        self.path = path
        #: Whether the socket is gone while the instance is expected back; set by the channel.
        self.absent = False
        #: Why the last attempt failed; "" if it succeeded.
        self.fault = ""
        #: Whether it failed because nobody listens there, and not for want of descriptors.
        self.is_refused = False
        self._uuid = uuid
        self._dialer = dialer
        self._backoff = Backoff()
        self._fault_log = LogOnce()
        self._silence_log = LogOnce()
        self._useless_log = LogOnce()
        #: Of a wait, while there is one.
        self._sleep: trio.CancelScope | None = None

    def retarget(self, path: str) -> None:
        """Sets the path of a new socket, and ends :meth:`wait` so that it is dialled at once."""
        self.path = path
        self.absent = False
        if self._sleep is not None:
            self._sleep.cancel()

    def dial(self) -> ChannelPort | None:
        """Connects; returns None on failure, with the reason in :attr:`fault`."""
        self.is_refused = False
        try:
            if self.absent:
                raise ChannelFault("its socket is gone, the instance is expected back")
            port = self._dialer.dial(self.path)
        except NoDescriptor as fault:
            self.fault = str(fault)
            return None
        except ChannelFault as fault:
            self.fault, self.is_refused = str(fault), True
            # A socket that refuses for a week is logged once.
            if self._fault_log.is_new(self.fault):
                _log.warning("%s: %s: %s; retrying", self._uuid, self.path, self.fault)
            return None
        self.fault = ""
        self._fault_log.clear()
        return port

    def log_silence(self) -> None:
        """Logs, once until :meth:`received_data`, that nobody answers on the connection."""
        # QEMU serves one client: a second one connects and waits in the backlog, with no error.
        text = "no data received: no guest is running, or another client holds the channel"
        if self._silence_log.is_new(text):
            _log.warning("%s: %s: %s", self._uuid, self.path, text)

    def log_useless(self, reason: str) -> None:
        """Logs, once until :meth:`succeeded`, that a connection ended before a first heartbeat.

        Args:
            reason: why it ended.
        """
        if self._useless_log.is_new(reason):
            text = "%s: %s: the connection ended before a first heartbeat: %s; retrying"
            _log.warning(text, self._uuid, self.path, reason)

    def received_data(self) -> None:
        """Ends the fault of :meth:`log_silence`: somebody answers at the socket."""
        self._silence_log.clear()

    def succeeded(self) -> None:
        """Resets the backoff: the connection was useful."""
        self._useless_log.clear()
        self._backoff.reset()

    async def wait(self) -> None:
        """Waits before the next attempt, longer each time; :meth:`retarget` ends the wait."""
        try:
            with trio.CancelScope() as self._sleep:
                await trio.sleep(self._backoff.next_delay_s())
            if self._sleep.cancelled_caught:
                self._backoff.reset()
        finally:
            self._sleep = None
