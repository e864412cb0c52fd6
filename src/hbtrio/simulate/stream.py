"""Gives the daemons their end of a simulated connection, as a stream of trio."""

from __future__ import annotations

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
        self._sending = _Turn("sending")
        self._receiving = _Turn("receiving")

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
        with self._sending:
            await trio.lowlevel.checkpoint()
            while True:
                self._check_open()
                try:
                    rest = rest[self._end.send(rest) :]
                except OSError as error:
                    raise trio.BrokenResourceError(str(error)) from error
                if not rest:
                    return
                await self._end.wait_writable()

    async def wait_send_all_might_not_block(self) -> None:
        """Waits until there is room for a byte; raises as :meth:`send_all`."""
        with self._sending:
            await trio.lowlevel.checkpoint()
            await self._end.wait_writable()
            self._check_open()

    async def send_eof(self) -> None:
        """Ends the stream to the peer; raises as :meth:`send_all`."""
        with self._sending:
            await trio.lowlevel.checkpoint()
            self._check_open()
            self._end.send_eof()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Receives bytes; b"" at the end of the stream.

        Raises:
            trio.BrokenResourceError: the connection is broken; its cause is the system's error.
            trio.ClosedResourceError: the stream was closed, also meanwhile.
            trio.BusyResourceError: another task is receiving.
        """
        with self._receiving:
            # As of a socket, one task step: to wait, or for others' sake.
            if self._end.readable:
                await trio.lowlevel.checkpoint()
            while True:
                self._check_open()
                try:
                    data = self._end.receive(max_bytes or _READ_BYTES)
                except OSError as error:
                    raise trio.BrokenResourceError(str(error)) from error
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

    def _check_open(self) -> None:
        if self._end.closed:
            raise trio.ClosedResourceError("the stream was closed")


class _Turn:
    """What one task at a time does; entered as a context.

    Args:
        doing: says it in the error of another task.
    """

    def __init__(self, doing: str) -> None:
        self._doing = doing
        self._busy = False

    def __enter__(self) -> None:
        if self._busy:
            raise trio.BusyResourceError(f"another task is {self._doing}")
        self._busy = True

    def __exit__(self, *_: object) -> None:
        self._busy = False
