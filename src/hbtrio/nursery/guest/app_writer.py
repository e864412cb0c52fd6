"""What the guest still has to say to one application, which may have stopped reading."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import trio

from hbtrio.nursery.port import ChannelFault, Port
from hbtrio.nursery.port_writer import PortWriter
from hbtrio.wire.app_codec import encode
from hbtrio.wire.app_messages import AppMessage

#: How long something may wait for it to read, in seconds. A stopped application has some hundred
#: messages of room in the system's buffer before it comes to this.
UNREAD_S: Final = 10.0


class AppWriter(PortWriter):
    """Sends to an application until that fails once; its last words can still be read then.

    Args:
        port: the connection.
        nursery: the connection's.
        close: called with the reason if the application does not read.
    """

    def __init__(self, port: Port, nursery: trio.Nursery, close: Callable[[str], None]) -> None:
        super().__init__(port, nursery)
        self._close = close
        self._sequence = 0
        self._deaf = False

    def send_message(self, message: AppMessage) -> None:
        """Sends a message or queues it."""
        self._sequence += 1
        if not self._deaf and not self.send(encode(message, self._sequence)):
            self._give_up("it does not read what it is sent")

    def _send_now(self, data: bytes) -> int:
        try:
            return super()._send_now(data)
        except ChannelFault:
            # Its last words may still be unread: a reject must not turn into consent because the
            # application left after it. The reader comes to the end by itself.
            self._deaf = True
            return len(data)

    async def _send_rest(self) -> None:
        with trio.move_on_after(UNREAD_S):
            await super()._send_rest()
            return
        self._give_up(f"it has not read what it was sent for {UNREAD_S:g} s")

    def _give_up(self, reason: str) -> None:
        self._deaf = True
        self._close(reason)
