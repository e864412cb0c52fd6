"""One session on the link between a host and its agent: lines both ways, and signs of life.

Either end sends through a bounded queue, so that a peer that does not read holds up whoever sends,
never memory; and either end asks for a sign of life, so that a peer that vanished without a word is
noticed within ``SILENT_S`` and a little more.

The task that reads must never wait for the task that writes: with both ends waiting so for each
other the link would stand still. So a sign of life is answered only if there is room for it (if
there is not, other bytes are on their way), and whoever handles messages leaves it to other tasks
to send.
"""

from __future__ import annotations

import math
import ssl
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final, Generic, TypeVar

import trio

from hbtrio.net.tls import connection_reason
from hbtrio.wire.lines import LineReader
from hbtrio.wire.link_codec import MAX_LINK_LINE, LinkError, encode_link
from hbtrio.wire.link_messages import MAX_TEXT, Goodbye, LinkMessage, Ping, Pong

#: A peer is asked for a sign of life this often.
PING_S: Final = 5.0

#: Without a byte for this long it is gone.
SILENT_S: Final = 15.0

#: How long a peer may take to read a goodbye.
_FAREWELL_S: Final = 1.0

#: Messages that may wait to be written.
_QUEUE: Final = 64

_READ_BYTES: Final = 65536

In = TypeVar("In")


class SessionEnded(Exception):
    """The session is over; the text says why."""


class LinkSession(Generic[In]):
    """A session over a connected stream.

    Args:
        stream: the connection; closed at the end.
        decode: a line to the other end's message, or ``LinkError``.
        farewell: what to tell the other end when the session is cancelled; by default nothing.
    """

    def __init__(
        self, stream: trio.abc.Stream, decode: Callable[[bytes], In], *, farewell: str = ""
    ) -> None:
        self._stream = stream
        self._decode = decode
        #: What to tell the other end when the session is cancelled; "" is nothing.
        self.farewell = farewell
        #: Why the other end took its leave; "" if it did not.
        self.goodbye = ""
        #: Whether a message that has arrived is being handled, or may be behind one that is.
        self.reading = False
        self._writing = False
        self._queue, self._written = trio.open_memory_channel[bytes](_QUEUE)
        self._all_written = trio.Event()
        self._heard_at = trio.current_time()

    async def send(self, message: LinkMessage) -> None:
        """Sends a message; waits while the peer does not read.

        Raises:
            SessionEnded: the session is over; the message may be lost.
            LinkError: it is too long; nothing was sent.
        """
        try:
            await self._queue.send(encode_link(message))
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            raise SessionEnded("the link is closed") from None

    async def run(self, handle: Callable[[In], Awaitable[None]]) -> str:
        """Carries the session until it ends; returns why it did.

        Args:
            handle: called with each message of the other end, in order; nothing is read meanwhile.
                It may raise ``LinkError``: the other end is told so, and the session ends.

        Cancelled, it says farewell, unless a message is half written, and closes the connection,
        which takes ``_FAREWELL_S`` at most.
        """
        ended = "stopped"
        try:
            async with trio.open_nursery() as nursery:

                async def until(task: Callable[[], Awaitable[str]]) -> None:
                    nonlocal ended
                    reason = await task()
                    if not nursery.cancel_scope.cancel_called:  # the first reason is the cause
                        ended = reason
                        nursery.cancel_scope.cancel()

                nursery.start_soon(until, self._write)
                nursery.start_soon(until, self._keep_alive)
                nursery.start_soon(until, lambda: self._read(handle))
        finally:
            self.reading = False
            # Whoever waits in send() is let go.
            self._written.close()
            cancelled = trio.current_effective_deadline() == -math.inf
            with trio.CancelScope(shield=True):
                if self.farewell and cancelled and not self._writing:
                    await self._say_farewell()
                await trio.aclose_forcefully(self._stream)
        return ended

    async def _say_farewell(self) -> None:
        with trio.move_on_after(_FAREWELL_S), suppress(trio.BrokenResourceError):
            await self._stream.send_all(encode_link(Goodbye(self.farewell)))

    async def _read(self, handle: Callable[[In], Awaitable[None]]) -> str:
        lines = LineReader(MAX_LINK_LINE)
        while True:
            self.reading = False
            try:
                data = await self._stream.receive_some(_READ_BYTES)
            except trio.BrokenResourceError as error:
                return f"the connection failed: {_cause(error)}"
            if not data:
                return "closed by the other end"
            self.reading = True
            self._heard_at = trio.current_time()
            for line in lines.feed(bytes(data)):
                try:
                    message = self._decode(line)
                    match message:
                        case Ping(number=number):
                            self._answer(number)
                        case Pong():
                            pass
                        case Goodbye(reason=reason):
                            self.goodbye = reason
                            return f"the other end said goodbye: {reason}"
                        case _:
                            await handle(message)
                except LinkError as error:
                    return await self._take_leave(f"unusable message: {error}")
            if lines.skipped:
                return await self._take_leave(f"a line longer than {MAX_LINK_LINE} bytes")

    def _answer(self, number: int) -> None:
        # What waits to be written is as good a sign.
        with suppress(trio.WouldBlock, trio.BrokenResourceError, trio.ClosedResourceError):
            self._queue.send_nowait(encode_link(Pong(number)))

    async def _take_leave(self, reason: str) -> str:
        """Tells the other end why; what was sent before goes out first."""
        with trio.move_on_after(_FAREWELL_S):
            await self._queue.send(encode_link(Goodbye(reason[:MAX_TEXT])))
            self._queue.close()
            await self._all_written.wait()
        return reason

    async def _write(self) -> str:
        try:
            async for data in self._written:
                self._writing = True
                await self._stream.send_all(data)
                self._writing = False
        except trio.BrokenResourceError as error:
            return f"the connection failed: {_cause(error)}"
        # A goodbye was the last; whoever said it ends the session.
        self._all_written.set()
        return await trio.sleep_forever()

    async def _keep_alive(self) -> str:
        number = 0
        while trio.current_time() - self._heard_at < SILENT_S:
            await trio.sleep(PING_S)
            number += 1
            with trio.move_on_after(PING_S):
                try:
                    await self.send(Ping(number))
                except SessionEnded:
                    await trio.sleep_forever()  # a goodbye was said
        return f"nothing heard for {SILENT_S:g} s"


def _cause(error: BaseException) -> str:
    cause = error.__cause__ or error
    if isinstance(cause, ssl.SSLEOFError):
        return "closed by the other end"  # which is killed, or ends without TLS's own goodbye
    # What OpenSSL and the system say names their own source lines and numbers.
    return connection_reason(cause) if isinstance(cause, OSError) else str(cause)
