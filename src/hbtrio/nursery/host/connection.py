"""Serves one connection of an instance's channel, from its opening to its end.

A connection reads within the host's limits, passes on valid messages, answers invalid ones with a
nack, and sends. :mod:`hbtrio.nursery.host.channel` decides where to connect, and what follows the
end of a connection.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Final

import attrs
import trio

from hbtrio.nursery.host.errands import Errands
from hbtrio.nursery.host.read_hub import ReadHub
from hbtrio.nursery.port import ChannelFault, ChannelPort
from hbtrio.nursery.port_writer import PortWriter
from hbtrio.policy.flood import HELD_S, Flood
from hbtrio.policy.quota import ByteBucket, Quota
from hbtrio.wire.channel_codec import MessageError, decode, encode
from hbtrio.wire.channel_messages import Message, Nack
from hbtrio.wire.lines import LineReader

_log = logging.getLogger("hbtrio.channel")

#: Why a connection ended whose peer has closed it.
_CLOSED: Final = "closed by the peer"

#: Bytes charged for a line at least, the size of a small message: so tiny lines cost as much.
_LINE_COST: Final = 128

#: Lines of one read that are decoded; the rest is dropped and counted as bad.
_LINES_PER_READ: Final = 64

#: Reads at a time where more may have arrived than the hub had a chance to read: more than a guest
#: sends that is no flooder.
READS: Final = 8

#: Bad messages of an instance that are answered and logged, per second.
_REFUSALS_PER_S: Final = 5


@attrs.frozen
class ReadLimits:
    """Limits on what a guest may send: bytes per line, per second and in a burst."""

    line_bytes: int
    bytes_per_s: float
    burst_bytes: int


class BadMessages:
    """Counts the unusable messages of one instance, over all its connections.

    Attributes:
        count: how many there were.
        flood: how long it is held back.
    """

    __slots__ = ("_quota", "count", "flood")

    def __init__(self) -> None:
        self.count = 0
        self.flood = Flood()
        self._quota = Quota(_REFUSALS_PER_S, 1.0)

    def may_be_answered(self, now: float) -> bool:
        """Counts a message; returns whether it may be answered and logged."""
        self.count += 1
        return self._quota.take(now)


class ChannelConnection:
    """A connection to an instance.

    Args:
        uuid: the instance, for the log.
        port: the connected port; :meth:`close` closes it.
        limits: what the guest may send.
        bad_messages: counts the unusable messages.
        hub: calls :meth:`readable`.
        handle: called with each message and the time it was read.
        fail: called with what ``handle`` raises; it has to end the connection.
    """

    __slots__ = (
        "_bad_messages",
        "_bucket",
        "_errands",
        "_fail",
        "_handle",
        "_hub",
        "_limits",
        "_lines",
        "_port",
        "_sequence",
        "_uuid",
        "_writer",
        "end_reason",
        "has_received",
        "reconnect",
    )

    def __init__(
        self,
        uuid: str,
        port: ChannelPort,
        limits: ReadLimits,
        bad_messages: BadMessages,
        hub: ReadHub,
        handle: Callable[[Message, float], None],
        fail: Callable[[Exception], None],
    ) -> None:
        #: Why the connection ended.
        self.end_reason = ""
        #: Whether any data was received.
        self.has_received = False
        #: Whether the channel is to dial again at once.
        self.reconnect = False
        self._uuid = uuid
        self._port = port
        self._limits = limits
        self._bad_messages = bad_messages
        self._hub = hub
        self._handle = handle
        self._fail = fail
        self._lines = LineReader(limits.line_bytes)
        self._bucket = ByteBucket(limits.bytes_per_s, limits.burst_bytes, trio.current_time())
        self._errands = Errands()
        self._writer: PortWriter | None = None
        self._sequence = 0

    @property
    def held_bytes(self) -> int:
        """Buffered bytes of an incomplete line."""
        return self._lines.held_bytes

    async def carry(self, opened: Callable[[], None]) -> None:
        """Reads and writes until the peer closes the connection, it fails, or :meth:`end`.

        Args:
            opened: called once messages can be sent.
        """
        try:
            self._writer = PortWriter(self._port, self._errands)
            opened()
            if not self.ended:
                self._hub.watch(self._port, self)
            await self._errands.run()
        except* ChannelFault as faults:
            self.end_reason = str(faults.exceptions[0])
        finally:
            self._hub.forget(self._port, self)
            self._errands.end()  # they may not have run, if ``opened`` has raised
            self._writer = None

    def end(self, reason: str) -> None:
        """Ends the connection: :meth:`carry` returns.

        Args:
            reason: kept as :attr:`end_reason`.
        """
        self.end_reason = reason
        self._hub.forget(self._port, self)
        self._errands.end()

    def close(self, *, last_words: bool) -> None:
        """Closes the port.

        Args:
            last_words: first handle what is still unread. A sender may find the connection broken
                before the hub has reached the guest's last message: a reject must not turn into
                consent because the guest left after it.
        """
        if last_words:
            with suppress(ChannelFault):
                for _ in range(READS):
                    if not (data := self._port.receive_nowait()):
                        break
                    self._take(data, trio.current_time())
        self._port.close()

    def send(self, message: Message) -> None:
        """Sends a message; on a broken or ended connection the message is dropped."""
        if self._writer is None:
            return
        self._sequence += 1
        try:
            # If a challenge does not fit, the guest is not reading and would not have answered.
            self._writer.send(encode(message, self._sequence))
        except ChannelFault as fault:
            # The fault is not the caller's (the pacer, an operator's request).
            self.end(str(fault))

    @property
    def ended(self) -> bool:
        """Whether :meth:`end` was called; :meth:`carry` may not have returned yet."""
        return self._errands.ended

    def read_now(self, now: float, reads: int = 1) -> None:
        """Handles what has arrived, ahead of the hub; also the end of the stream.

        Args:
            now: the time.
            reads: how many times to read at most, so that a flooder postpones nothing.

        Raises:
            ChannelFault: the connection is broken.
        """
        for _ in range(reads):
            if self._writer is None or self.ended:
                return
            data = self._port.receive_nowait()
            if data is None:
                return
            if not data:
                self.end(_CLOSED)
                return
            self._take(data, now)

    def readable(self) -> None:
        """Does one bounded read; see :class:`~hbtrio.nursery.host.read_hub.Reader`."""
        try:
            data = self._port.receive_nowait()
            if data:
                now = trio.current_time()
                lines = self._take(data, now)
                # One read at a time keeps other channels on time; the bucket bounds the CPU time.
                pause_s = self._bucket.take(max(len(data), lines * _LINE_COST), now)
                if pause_s > 0:
                    self._hold_back(pause_s, now)
            elif data is not None:
                self.end(_CLOSED)
        except ChannelFault as fault:
            self.end(str(fault))
        except Exception as crash:  # noqa: BLE001 - raised again by this channel's own task
            self._fail(crash)

    def _hold_back(self, pause_s: float, now: float) -> None:
        if self._bad_messages.flood.is_news(pause_s, now):
            text = "%s: it sends more than %g bytes/s: held back for %g s within a minute"
            _log.warning(text, self._uuid, self._limits.bytes_per_s, HELD_S)
        if not self.ended:
            self._hub.forget(self._port, self)
            self._errands.start_soon(partial(self._read_later, pause_s))

    async def _read_later(self, pause_s: float) -> None:
        await trio.sleep(pause_s)
        self._hub.watch(self._port, self)

    def _take(self, data: bytes, now: float) -> int:
        self.has_received = True
        skipped = self._lines.skipped
        lines = self._lines.feed(data)
        if self._lines.skipped > skipped:
            self._skip(self._lines.skipped - skipped, now)
        for line in lines[:_LINES_PER_READ]:
            try:
                message = decode(line)
            except MessageError as error:
                self._refuse(error, now)
            else:
                self._handle(message, now)
        if len(lines) > _LINES_PER_READ:
            self._bad_messages.count += len(lines) - _LINES_PER_READ
        return len(lines)

    def _skip(self, count: int, now: float) -> None:
        for _ in range(count):
            if self._bad_messages.may_be_answered(now):
                text = "%s: a line of more than %d bytes was dropped"
                _log.warning(text, self._uuid, self._limits.line_bytes)

    def _refuse(self, error: MessageError, now: float) -> None:
        if self._bad_messages.may_be_answered(now):
            _log.warning("%s: %s", self._uuid, error.text)
            self.send(Nack(error.invocation_id, error.text))
