"""Sends messages to one application, which may have stopped reading."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import trio

from hbtrio.nursery.port import ChannelFault, Port
from hbtrio.nursery.port_writer import PortWriter
from hbtrio.nursery.time_guard import sleep_until_on_time
from hbtrio.policy.time_guard import CALM_S, OnTimeGuard
from hbtrio.wire.app_codec import encode
from hbtrio.wire.app_messages import AppMessage

#: Longest time that data may wait for the application to read, in seconds. Before that, the
#: system's buffer holds some hundred messages for a stopped application.
UNREAD_S: Final = 10.0


class AppWriter(PortWriter):
    """Sends to an application until a send fails; its last messages can still be read then.

    Args:
        port: the connection.
        nursery: the connection's nursery.
        close: called with the reason if the application does not read.
        guard: the process's on-time guard.
    """

    def __init__(
        self,
        port: Port,
        nursery: trio.Nursery,
        close: Callable[[str], None],
        guard: OnTimeGuard,
    ) -> None:
        super().__init__(port, nursery)
        self._close = close
        self._guard = guard
        self._sequence = 0
        self._failed = False
        self._sent = False

    def send_message(self, message: AppMessage) -> None:
        """Sends or queues a message; closes the connection if the backlog is full."""
        self._sequence += 1
        if not self._failed and not self.send(encode(message, self._sequence)):
            self._give_up("the application does not read")

    def _send_now(self, data: bytes) -> int:
        try:
            sent = super()._send_now(data)
        except ChannelFault:
            # Its last message may still be unread: a reject must not turn into consent because the
            # application left after it. The reader will find the end itself.
            self._failed = True
            return len(data)
        self._sent |= sent > 0
        return sent

    async def _send_rest(self) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._limit)
            await super()._send_rest()
            nursery.cancel_scope.cancel()

    async def _limit(self) -> None:
        due = trio.current_time() + UNREAD_S
        await sleep_until_on_time(due, self._guard, at_most_s=CALM_S, sources=[self._is_sending])
        if not self.idle:
            self._give_up(f"unread data for {UNREAD_S:g} s")

    def _is_sending(self) -> bool:
        """Returns whether the application has read since the last call; a source."""
        sent, self._sent = self._sent, False
        return sent

    def _give_up(self, reason: str) -> None:
        self._failed = True
        self._close(reason)
