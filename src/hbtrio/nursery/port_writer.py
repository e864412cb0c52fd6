"""What a host still has to say on one channel: in order, whole, and bounded."""

from __future__ import annotations

import trio

from hbtrio.nursery.port import Port
from hbtrio.wire.channel_codec import encode
from hbtrio.wire.channel_messages import Message

#: A guest that does not read has this much more coming; what does not fit is dropped. A challenge
#: dropped is one it would not have answered.
BACKLOG_BYTES = 16384


class PortWriter:
    """Sends at once what the peer takes, and the rest from a task.

    Args:
        port: the connection.
        nursery: the connection's; the task for the rest runs in it.
    """

    def __init__(self, port: Port, nursery: trio.Nursery) -> None:
        self.port = port
        #: Messages dropped because the peer does not read.
        self.dropped = 0
        self._nursery = nursery
        self._rest = b""

    def send(self, message: Message, sequence: int) -> None:
        """Sends a message or queues it; a message is never sent in part and then forgotten.

        Raises:
            ChannelFault: the connection is broken.
        """
        data = encode(message, sequence)
        if self._rest:
            if len(self._rest) + len(data) > BACKLOG_BYTES:
                self.dropped += 1
            else:
                self._rest += data
            return
        sent = self.port.send_nowait(data)
        if sent < len(data):
            self._rest = data[sent:]
            self._nursery.start_soon(self._send_rest)

    async def _send_rest(self) -> None:
        while self._rest:
            await self.port.wait_writable()
            self._rest = self._rest[self.port.send_nowait(self._rest) :]
