"""One connection of an instance's channel, from its opening to its end.

It reads what comes within the host's bounds, hands over messages, refuses what is none, and sends.
Who it is connected to, and what follows from its end, is for :mod:`hbtrio.nursery.host.channel` to
say.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress
from typing import Final

import attrs
import trio

from hbtrio.nursery.port import ChannelFault, Port
from hbtrio.nursery.port_writer import PortWriter
from hbtrio.policy.quota import ByteBucket, Quota
from hbtrio.wire.channel_codec import MessageError, decode, encode
from hbtrio.wire.channel_messages import Message, Nack
from hbtrio.wire.lines import LineReader

_log = logging.getLogger("hbtrio.channel")

#: A message is at least this long; a flood of tiny lines is charged as if they were.
_LINE_COST: Final = 128

#: More lines than this in one read are no messages any more.
_LINES_PER_READ: Final = 64

#: Faulty messages of an instance that are answered and logged each second.
_REFUSALS_PER_S: Final = 5


@attrs.frozen
class ReadLimits:
    """What a guest may send: the length of a line, and bytes in a second and at once."""

    line_bytes: int
    bytes_per_s: float
    burst_bytes: int


class BadMessages:
    """Messages of one instance that could not be used, over all its connections."""

    def __init__(self) -> None:
        self.count = 0
        self._quota = Quota(_REFUSALS_PER_S, 1.0)

    def may_be_answered(self, now: float) -> bool:
        """Counts one; whether the guest and the log are to hear of it."""
        self.count += 1
        return self._quota.take(now)


class ChannelConnection:
    """A connection.

    Args:
        uuid: the instance, for the log.
        port: what it goes over; closed by :meth:`close`.
        limits: what the guest may send.
        bad_messages: where faulty messages are counted.
        handle: called with each message and the time it was read.
    """

    def __init__(
        self,
        uuid: str,
        port: Port,
        limits: ReadLimits,
        bad_messages: BadMessages,
        handle: Callable[[Message, float], None],
    ) -> None:
        #: Why it ended.
        self.end_reason = ""
        #: Whether anything was heard on it.
        self.heard = False
        #: Whether the next one is to follow at once.
        self.reconnect = False
        self._uuid = uuid
        self._port = port
        self._limits = limits
        self._bad_messages = bad_messages
        self._handle = handle
        self._lines = LineReader(limits.line_bytes)
        self._writer: PortWriter | None = None
        self._scope = trio.CancelScope()
        self._sequence = 0

    @property
    def held_bytes(self) -> int:
        """Bytes of a line that is not complete."""
        return self._lines.held_bytes

    async def carry(self, opened: Callable[[], None]) -> None:
        """Reads and writes until the other end closes it, it fails, or :meth:`end`.

        Args:
            opened: called once messages can be sent.
        """
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    self._writer = PortWriter(self._port, nursery)
                    opened()
                    # Not awaited here: each frame it hangs from costs at each of its wake-ups.
                    nursery.start_soon(self._read)
        except* ChannelFault as faults:
            self.end_reason = str(faults.exceptions[0])
        finally:
            self._writer = None

    def end(self, reason: str) -> None:
        """Ends it."""
        self.end_reason = reason
        self._scope.cancel()

    def close(self, *, last_words: bool) -> None:
        """Closes the port.

        Args:
            last_words: hand over what is still to be read. Who sends may find the connection broken
                before its reader has come to what the guest said at the end: a reject must not turn
                into consent because the guest left after it.
        """
        if last_words:
            with suppress(ChannelFault):
                if data := self._port.receive_nowait():
                    self._take(data, trio.current_time())
        self._port.close()

    def send(self, message: Message) -> None:
        """Sends a message; on a connection that is broken or over it is lost."""
        if self._writer is None:
            return
        self._sequence += 1
        try:
            # A challenge that does not fit is one that the guest would not have answered.
            self._writer.send(encode(message, self._sequence))
        except ChannelFault as fault:
            # Whoever wanted to say something (the pacer, an operator's request) is not at fault.
            self.end(str(fault))

    def read_now(self, now: float) -> None:
        """Takes what has arrived, though its reader has not run yet.

        Raises:
            ChannelFault: it is broken.
        """
        if self._writer is not None:
            data = self._port.receive_nowait()
            if data:
                self._take(data, now)

    async def _read(self) -> None:
        port, limits = self._port, self._limits
        bucket = ByteBucket(limits.bytes_per_s, limits.burst_bytes, trio.current_time())
        while True:
            await port.wait_readable()
            data = port.receive_nowait()
            if data is None:
                continue
            if not data:
                self.end("closed by its peer")
                return
            now = trio.current_time()
            lines = self._take(data, now)
            # One read per wake-up keeps the neighbours on time, the bucket keeps the CPU.
            pause_s = bucket.take(max(len(data), lines * _LINE_COST), now)
            if pause_s > 0:
                await trio.sleep(pause_s)

    def _take(self, data: bytes, now: float) -> int:
        self.heard = True
        lines = self._lines.feed(data)
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

    def _refuse(self, error: MessageError, now: float) -> None:
        if self._bad_messages.may_be_answered(now):
            _log.warning("%s: %s", self._uuid, error.text)
            self.send(Nack(error.invocation_id, error.text))
