"""What is still to be sent over one port: in order, whole, and bounded."""

from __future__ import annotations

from typing import Final

import trio

from hbtrio.nursery.port import Port

#: What may wait, beyond what the system's own buffer takes, for a peer that does not read.
BACKLOG_BYTES: Final = 16_384


class PortWriter:
    """Sends at once what the peer takes, and the rest from a task.

    Args:
        port: the connection.
        nursery: the connection's; the task for the rest runs in it, and raises ``ChannelFault``
            if the connection breaks.
    """

    def __init__(self, port: Port, nursery: trio.Nursery) -> None:
        self._port = port
        self._nursery = nursery
        self._rest = b""

    def send(self, data: bytes) -> bool:
        """Sends a message or queues it, whole; False: it does not fit, and nothing of it is sent.

        Raises:
            ChannelFault: the connection is broken.
        """
        if self._rest:
            if len(self._rest) + len(data) > BACKLOG_BYTES:
                return False
            self._rest += data
            return True
        sent = self._send_now(data)
        if sent < len(data):
            self._rest = data[sent:]
            self._nursery.start_soon(self._send_rest)
        return True

    def _send_now(self, data: bytes) -> int:
        return self._port.send_nowait(data)

    async def _send_rest(self) -> None:
        while self._rest:
            await self._port.wait_writable()
            self._rest = self._rest[self._send_now(self._rest) :]
