"""Runs one session of the link between a host and its agent: messages both ways and keep-alives.

Both ends send through a bounded queue, so a peer that doesn't read blocks the senders but costs no
memory. Both ends send pings, so a vanished peer is noticed shortly after ``SILENT_S``. Silence is
counted in intervals between pings in which this end listened: one that was stopped itself, or was
busy with what the peer had sent before, does not take the peer for dead.

The reading task must never wait for the writing task: if both ends did, the link would deadlock. So
a ping is answered only if the queue has room (if it has none, other bytes are on their way), and
handlers of messages leave it to other tasks to send.
"""

from __future__ import annotations

import math
import ssl
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import Final, Generic, TypeVar

import trio

from hbtrio.net.link_turns import Turns
from hbtrio.net.tls import connection_reason
from hbtrio.policy.begin_by import PeerClock
from hbtrio.system.boot_clock import boot_clock
from hbtrio.wire.lines import LineReader
from hbtrio.wire.link_codec import MAX_LINK_LINE, LinkError, encode_link
from hbtrio.wire.link_messages import MAX_TEXT, Goodbye, LinkMessage, Ping, Pong

#: Seconds between pings.
PING_S: Final = 5.0

#: A peer that sends nothing during so many intervals between pings is gone.
_SILENT_PINGS: Final = 3

#: The same in seconds, for an end that is never late.
SILENT_S: Final = _SILENT_PINGS * PING_S

#: How long a peer may take to read a goodbye.
_FAREWELL_S: Final = 1.0

#: The most messages that wait to be written; those that are sent together count as one.
_QUEUE: Final = 64

_READ_BYTES: Final = 65536

#: Messages of one read that are handled at once: a peer with no more to say waits for nobody.
_MESSAGES_AT_ONCE: Final = 8

#: Of those beyond them, how many are handled before others have their turn. A read holds thousands
#: of pings, and each pass of the loop that handles them all is a twentieth of a second.
_MESSAGES_A_TURN: Final = 32

#: How the first record of TLS begins: a handshake, or an alert to a client that does not use TLS.
_TLS_RECORDS: Final = (b"\x16\x03", b"\x15\x03")

In = TypeVar("In")

#: Sleeps until a time on trio's clock has passed and what had arrived by then is read; the second
#: argument returns whether something is still being handled, the third whether reading is in vain.
Sleep = Callable[[float, Callable[[], bool], Callable[[], bool]], Awaitable[None]]


class SessionEnded(Exception):
    """The session is over; the text is the reason."""


class LinkSession(Generic[In]):
    """A session over a connected stream.

    Args:
        stream: the connection; closed at the end.
        decode: decodes a line of the peer, or raises ``LinkError``.
        sleep: sleeps until a deadline that can be trusted.
        farewell: the reason to send in a goodbye when the session is cancelled; "" for none.
        clock: this process's clock, which the peer is told in each pong.
        turns: shared with the process's other sessions; None if it has no others.
    """

    def __init__(
        self,
        stream: trio.abc.Stream,
        decode: Callable[[bytes], In],
        *,
        sleep: Sleep,
        farewell: str = "",
        clock: Callable[[], float] = boot_clock,
        turns: Turns | None = None,
    ) -> None:
        self.clock = clock
        self._turns = turns or Turns()
        #: The peer's clock, by its pongs.
        self.peer_clock = PeerClock()
        self._stream = stream
        self._decode = decode
        self._sleep = sleep
        #: The reason to send in a goodbye when the session is cancelled; "" for none.
        self.farewell = farewell
        #: The reason of the peer's goodbye; "" if there was none.
        self.goodbye = ""
        #: Whether received messages are still being handled. Stays true from the end of the session
        #: on: its owner has to handle that, too.
        self.reading = False
        self._writing = False
        self._queue, self._written = trio.open_memory_channel[bytes](_QUEUE)
        self._all_written = trio.Event()
        #: Reads that returned something.
        self._heard = 0

    async def send(self, *messages: LinkMessage) -> None:
        """Queues messages; waits while the queue is full because the peer doesn't read.

        Several at once cost one system call and one switch of tasks.

        Raises:
            SessionEnded: the session is over; the messages may be lost.
            LinkError: a message is too long; nothing was sent.
        """
        try:
            await self._queue.send(b"".join(map(encode_link, messages)))
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            raise SessionEnded("the link is closed") from None

    async def sleep(self, deadline: float, unless: Callable[[], bool] = lambda: False) -> None:
        """Sleeps until a deadline has passed and what the peer had sent by then is handled.

        Args:
            deadline: on trio's clock.
            unless: asked once it has passed: whether nothing is left to decide.
        """
        await self._sleep(deadline, lambda: self.reading, unless)

    async def run(self, handle: Callable[[In], Awaitable[None]]) -> str:
        """Runs the session until it ends; returns the reason.

        Args:
            handle: called with each message of the peer, in order; nothing is read meanwhile. If it
                raises ``LinkError``, the session sends a goodbye with that text and ends.

        Cancellation sends a goodbye, unless a message is half written, and closes the connection
        within ``_FAREWELL_S``.
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
            self.reading = True
            # Wakes the callers that wait in send().
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
                self.reading = True
                return f"the connection failed: {_cause(error)}"
            self.reading = True
            if not data:
                return "closed by the other end"
            self._heard += 1
            if self._heard == 1 and bytes(data[:2]) in _TLS_RECORDS:
                return await self._take_leave("the other end uses TLS, this end does not")
            for count, line in enumerate(lines.feed(bytes(data)), 1):
                if count % _MESSAGES_A_TURN == _MESSAGES_AT_ONCE + 1:
                    await self._turns.wait()
                try:
                    message = self._decode(line)
                    match message:
                        case Ping(number=number):
                            self._answer(number)
                        case Pong(clock_s=clock_s):
                            if clock_s is not None:
                                self.peer_clock.read(clock_s, self.clock())
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
        # If the queue is full, its messages serve as the keep-alive.
        with suppress(trio.WouldBlock, trio.BrokenResourceError, trio.ClosedResourceError):
            self._queue.send_nowait(encode_link(Pong(number, self.clock())))

    async def _take_leave(self, reason: str) -> str:
        """Sends a goodbye after all queued messages."""
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
        # The goodbye is sent; _take_leave() ends the session.
        self._all_written.set()
        return await trio.sleep_forever()

    async def _keep_alive(self) -> str:
        number = silent = 0
        while True:
            heard, due = self._heard, trio.current_time() + PING_S
            if number:
                # If the queue is full, the peer doesn't read: its messages are the ping.
                with trio.move_on_at(due):
                    try:
                        await self.send(Ping(number))
                    except SessionEnded:
                        await trio.sleep_forever()  # a goodbye was sent
            number += 1
            await self.sleep(due, unless=partial(self._has_heard_since, heard))
            if self._has_heard_since(heard):
                silent = 0
            elif not self.reading:  # else this end was not listening
                silent += 1
                if silent == _SILENT_PINGS:
                    return f"nothing heard for {SILENT_S:g} s"

    def _has_heard_since(self, reads: int) -> bool:
        return self._heard != reads


def _cause(error: BaseException) -> str:
    cause = error.__cause__ or error
    if isinstance(cause, ssl.SSLEOFError):
        return "closed by the other end"  # killed, or closed without TLS's close_notify
    # The texts of OpenSSL and the system contain source lines and numbers.
    return connection_reason(cause) if isinstance(cause, OSError) else str(cause)
