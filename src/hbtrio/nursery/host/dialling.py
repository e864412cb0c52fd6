"""Dialling one channel's socket: which path, how often, and what stands in the log about it."""

from __future__ import annotations

import logging

import trio

from hbtrio.log import LogOnce
from hbtrio.nursery.port import ChannelFault, Dialer, Port
from hbtrio.policy.backoff import Backoff

_log = logging.getLogger("hbtrio.channel")


class Dialling:
    """The attempts to connect one channel.

    Args:
        uuid: the instance, for the log.
        path: where its socket is.
        dialer: connects.
    """

    def __init__(self, uuid: str, path: str, dialer: Dialer) -> None:
        self.path = path
        #: Whether the socket is gone while the instance is expected back.
        self.absent = False
        #: Why the last attempt failed; "" if it did not.
        self.fault = ""
        self._uuid = uuid
        self._dialer = dialer
        self._backoff = Backoff()
        self._fault_log = LogOnce()
        self._nap = trio.CancelScope()

    def retarget(self, path: str) -> None:
        """The socket was made anew while the instance was expected back: dials it at once."""
        self.path = path
        self.absent = False
        self._nap.cancel()

    def dial(self) -> Port | None:
        """Connects; None if that failed, see :attr:`fault`."""
        try:
            if self.absent:
                raise ChannelFault("its socket is gone, the instance is expected back")
            port = self._dialer.dial(self.path)
        except ChannelFault as fault:
            self.fault = str(fault)
            # A socket that refuses for a week is one line.
            if self._fault_log.is_new(self.fault):
                _log.warning("%s: %s: %s; retrying", self._uuid, self.path, fault)
            return None
        self.fault = ""
        self._fault_log.clear()
        return port

    def succeeded(self) -> None:
        """The connection was of use: the next wait is a short one."""
        self._backoff.reset()

    async def wait(self) -> None:
        """Waits before the next attempt; longer each time, unless :meth:`retarget` is called."""
        with trio.CancelScope() as self._nap:
            await trio.sleep(self._backoff.next_delay_s())
        if self._nap.cancelled_caught:
            self._backoff.reset()
