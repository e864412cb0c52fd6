"""Sends messages over one port: in order, each whole, with a bounded backlog."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final, Protocol

from hbtrio.nursery.port import Port

#: Bytes that may wait for a peer that does not read, beyond the system's own buffer.
BACKLOG_BYTES: Final = 16_384


class Tasks(Protocol):
    """Starts tasks, as a nursery does."""

    def start_soon(self, task: Callable[[], Awaitable[object]], /) -> None:
        """Starts a task."""


class PortWriter:
    """Sends what fits now, and the rest from a task.

    Args:
        port: the connection.
        tasks: start the connection's tasks. The one for the rest raises ``ChannelFault`` if the
            connection breaks.
    """

    __slots__ = ("_port", "_rest", "_tasks")

    def __init__(self, port: Port, tasks: Tasks) -> None:
        self._port = port
        self._tasks = tasks
        self._rest = b""

    @property
    def idle(self) -> bool:
        """Whether nothing waits to be sent."""
        return not self._rest

    def send(self, data: bytes) -> bool:
        """Sends or queues a message.

        Returns:
            False if the message does not fit into the backlog; then no part of it is sent.

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
            self._tasks.start_soon(self._send_rest)
        return True

    def _send_now(self, data: bytes) -> int:
        return self._port.send_nowait(data)

    async def _send_rest(self) -> None:
        while self._rest:
            await self._port.wait_writable()
            self._rest = self._rest[self._send_now(self._rest) :]
