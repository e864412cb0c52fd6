"""Gives the daemons their end of a simulated connection, as a stream of trio."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import trio

from hbtrio.net.connections import ConnectionEnds, InProcessStream
from hbtrio.simulate.connection import End

#: Bytes of one read, if the reader does not say, as of trio's sockets.
_READ_BYTES = 65536


class SimulatedStream(InProcessStream):
    """A stream over an end; as a socket, it can be used by one sender and one receiver at a time.

    Args:
        end: of a process; the stream closes it.
        ends: of the connection, as the server sees them.
    """

    def __init__(self, end: End, ends: ConnectionEnds) -> None:
        self._end = end
        self._ends = ends
        self._busy: set[str] = set()

    @property
    def ends(self) -> ConnectionEnds:
        """See :class:`InProcessStream`."""
        return self._ends

    def has_unread(self) -> bool:
        """See :class:`InProcessStream`."""
        return not self._end.closed and self._end.readable

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Sends all of ``data``.

        Raises:
            trio.BrokenResourceError: the connection is broken; its cause is the system's error.
            trio.ClosedResourceError: the stream was closed, also meanwhile.
            trio.BusyResourceError: another task is sending.
        """
        rest = bytes(data)
        with self._alone("sending"):
            await trio.lowlevel.checkpoint()
            while True:
                with self._errors():
                    rest = rest[self._end.send(rest) :]
                if not rest:
                    return
                await self._end.wait_writable()

    async def wait_send_all_might_not_block(self) -> None:
        """Waits until there is room for a byte; raises as :meth:`send_all`."""
        with self._alone("sending"):
            await trio.lowlevel.checkpoint()
            await self._end.wait_writable()
            if self._end.closed:
                raise trio.ClosedResourceError("the stream was closed")

    async def send_eof(self) -> None:
        """Ends the stream to the peer; raises as :meth:`send_all`."""
        with self._alone("sending"):
            await trio.lowlevel.checkpoint()
            if self._end.closed:
                raise trio.ClosedResourceError("the stream was closed")
            self._end.send_eof()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Receives bytes; b"" at the end of the stream.

        Raises:
            trio.BrokenResourceError: the connection is broken; its cause is the system's error.
            trio.ClosedResourceError: the stream was closed, also meanwhile.
            trio.BusyResourceError: another task is receiving.
        """
        with self._alone("receiving"):
            await trio.lowlevel.checkpoint()
            while True:
                with self._errors():
                    data = self._end.receive(max_bytes or _READ_BYTES)
                if data is not None:
                    return data
                await self._end.wait_readable()

    def reset(self) -> None:
        """Closes the connection with a reset."""
        self._end.reset()

    async def aclose(self) -> None:
        """Closes the connection, even in a cancelled scope."""
        self._end.close()
        await trio.lowlevel.checkpoint()

    @contextmanager
    def _alone(self, doing: str) -> Iterator[None]:
        if doing in self._busy:
            raise trio.BusyResourceError(f"another task is {doing}")
        self._busy.add(doing)
        try:
            yield
        finally:
            self._busy.remove(doing)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        if self._end.closed:
            raise trio.ClosedResourceError("the stream was closed")
        try:
            yield
        except OSError as error:
            raise trio.BrokenResourceError(str(error)) from error
