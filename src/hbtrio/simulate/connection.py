"""Simulates a connection: two pipes, and an end of it for each side."""

from __future__ import annotations

import errno
import os
import random
from collections.abc import Callable

from hbtrio.simulate.observations import Resource
from hbtrio.simulate.pipe import UNSTRAINED, Pipe, Quality, Strain
from hbtrio.simulate.process import Process, Waiters
from hbtrio.simulate.timeline import Timeline
from hbtrio.simulate.trace import Trace


class End:
    """One end of a connection, of a process or of a model.

    What a process does with it is an effect, see :meth:`Process.effect`: a dead one believes that
    it has sent or closed, and nothing happens. When the process dies, its kernel closes the end.

    Args:
        name: names the sender of its bytes in the trace.
        process: whose it is; None for a model.
        incoming: what it reads.
        outgoing: what it writes.
        trace: records what is sent.
    """

    resource = Resource.DESCRIPTOR

    def __init__(
        self, name: str, process: Process | None, incoming: Pipe, outgoing: Pipe, trace: Trace
    ) -> None:
        self.name = name
        #: Called when something has arrived; and, for models, when there is room again.
        self.on_arrival: Callable[[], object] | None = None
        self.on_room: Callable[[], object] | None = None
        self._process = process
        self._incoming = incoming
        self._outgoing = outgoing
        self._trace = trace
        self._closed = self._finished = False
        self._readers = Waiters(process) if process is not None else None
        self._writers = Waiters(process) if process is not None else None
        incoming.on_arrival = self._arrived
        incoming.on_refused = outgoing.abort
        outgoing.on_room = self._has_room
        if process is not None:
            process.hold(self)

    # -- what a process asks -----------------------------------------------------------------------

    @property
    def closed(self) -> bool:
        """Whether its process has closed it; a dead one has closed nothing."""
        return self._closed and not self._dead

    @property
    def over(self) -> bool:
        """Whether it is closed, by whomever."""
        return self._closed

    @property
    def fault(self) -> OSError | None:
        """Why the connection is broken; None if it is not. The error is new at each call."""
        if self._incoming.reset:
            return _error(errno.ECONNRESET)
        return None

    @property
    def at_end(self) -> bool:
        """Whether the peer has ended its stream, even if bytes before that are unread."""
        return self._incoming.ended

    @property
    def peer_gone(self) -> bool:
        """Whether there is nobody at the other end, and it is still open here."""
        return not self._closed and (self._incoming.ended or self._incoming.reset)

    @property
    def readable(self) -> bool:
        """Whether a read would return at once."""
        return not self._dead and (self._closed or self._incoming.has_news)

    @property
    def writable(self) -> bool:
        """Whether a write would return at once."""
        return self._dead or self._closed or self._incoming.reset or self._outgoing.room > 0

    def send(self, data: bytes) -> int:
        """Sends without waiting; returns how many bytes there was room for.

        Raises:
            OSError: the connection is broken.
            ValueError: the end is closed.
        """
        if self._dead:
            return len(data)
        if self._closed:
            raise ValueError("the end is closed")
        if self._incoming.reset or self._finished:
            raise _error(errno.EPIPE)
        if not self._may_act():
            return len(data)
        count = self._outgoing.write(data)
        if count:
            self._trace.sent(self.name, data[:count])
        return count

    def receive(self, limit: int) -> bytes | None:
        """Reads without waiting: bytes, b"" at the end, None if there is nothing yet.

        Raises:
            OSError: the connection is broken.
            ValueError: the end is closed.
        """
        if self._dead:
            return None
        if self._closed:
            raise ValueError("the end is closed")
        if self._incoming.unread:
            return self._incoming.read(limit)
        if self._incoming.reset:
            raise _error(errno.ECONNRESET)
        return b"" if self._incoming.ended else None

    async def wait_readable(self) -> None:
        """Waits until :attr:`readable`; only of a process, and not always a checkpoint."""
        assert self._readers is not None
        while not self.readable:
            await self._readers.wait()

    async def wait_writable(self) -> None:
        """Waits until :attr:`writable`; only of a process, and not always a checkpoint."""
        assert self._writers is not None
        while not self.writable:
            await self._writers.wait()

    def send_eof(self) -> None:
        """Ends its own stream and goes on reading; once is enough."""
        if not self._closed and not self._finished and self._may_act():
            self._finish()

    def close(self) -> None:
        """Closes the end: the peer gets a reset if bytes are unread, as from a kernel."""
        if not self._closed and self._may_act():
            self._close()

    def reset(self) -> None:
        """Closes the end with a reset."""
        if not self._closed and self._may_act():
            self._close(reset=True)

    def refused(self) -> None:
        """Closes the end with a reset, since its process never accepted it."""
        if not self._closed:
            self._close(reset=True)

    def released(self) -> None:
        """Closes the end, since its process is dead."""
        if not self._closed:
            self._close()

    # -- inside ------------------------------------------------------------------------------------

    @property
    def _dead(self) -> bool:
        return self._process is not None and not self._process.alive

    def _may_act(self) -> bool:
        return self._process is None or self._process.effect()

    def _finish(self) -> None:
        self._finished = True
        self._outgoing.finish()

    def _close(self, *, reset: bool = False) -> None:
        self._closed = True
        if self._process is not None:
            self._process.drop(self)
        if not self._incoming.reset:
            if self._incoming.unread or reset:
                self._outgoing.abort()
            elif not self._finished:
                self._finish()
        self._incoming.unread.clear()
        self._incoming.deaf = True
        for waiters in (self._readers, self._writers):
            if waiters is not None:
                waiters.wake()

    def _arrived(self) -> None:
        if self._readers is not None:
            self._readers.wake()
        if self.on_arrival is not None:
            self.on_arrival()
        if self._incoming.reset:
            self._has_room()

    def _has_room(self) -> None:
        if self._writers is not None:
            self._writers.wake()
        elif self.on_room is not None:
            self.on_room()


class Connection:
    """A connection between two ends.

    Args:
        timeline: delivers.
        stream: the connection's own random stream.
        quality: what its pipes are like.
        client: the process that connects; None for a model.
        server: the process that accepts; None for a model.
        names: of the two in the trace.
        trace: records what is sent.
    """

    def __init__(
        self,
        timeline: Timeline,
        stream: random.Random,
        quality: Quality,
        *,
        client: Process | None,
        server: Process | None,
        names: tuple[str, str],
        trace: Trace,
    ) -> None:
        # One stream for both: to make one takes as long as to send a request.
        self._to_server, self._to_client = (Pipe(timeline, stream, quality) for _ in range(2))
        self.client = End(names[0], client, self._to_client, self._to_server, trace)
        self.server = End(names[1], server, self._to_server, self._to_client, trace)

    @property
    def over(self) -> bool:
        """Whether both ends are closed."""
        return self.client.over and self.server.over

    def clog(self, *, to_server: bool = True, to_client: bool = True) -> None:
        """Holds back what arrives; in one direction only, the connection is half open."""
        if to_server:
            self._to_server.clog()
        if to_client:
            self._to_client.clog()

    def unclog(self) -> None:
        """Delivers what was held back."""
        self._to_server.unclog()
        self._to_client.unclog()

    def read_along(
        self,
        *,
        to_server: Callable[[bytes], object],
        to_client: Callable[[bytes], object],
        from_client: Callable[[bytes], object] | None = None,
    ) -> None:
        """Calls these with the bytes that arrive at the two ends, and that the client writes."""
        self._to_server.on_bytes = to_server
        self._to_client.on_bytes = to_client
        self._to_server.on_written = from_client

    def strain(self, strain: Strain = UNSTRAINED) -> None:
        """Changes what both pipes are like, see :meth:`Pipe.strain`."""
        self._to_server.strain(strain)
        self._to_client.strain(strain)

    def cut(self) -> None:
        """Resets the connection at both ends now."""
        self._to_server.cut()
        self._to_client.cut()


def _error(number: int) -> OSError:
    return OSError(number, os.strerror(number))
