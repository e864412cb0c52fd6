"""Runs the guest's channel: opens the device, reads and writes, and reopens it."""

from __future__ import annotations

import logging
import math
from typing import Final, NoReturn

import msgspec
import trio

from hbtrio.log import LogOnce
from hbtrio.nursery.guest.device import ChannelStream, Device, DeviceFault, DeviceMissing
from hbtrio.nursery.guest.outbox import QUEUE, Outbox
from hbtrio.nursery.guest.session_driver import SessionDriver
from hbtrio.policy.backoff import Backoff
from hbtrio.policy.quota import Quota
from hbtrio.wire.channel_codec import MessageError, decode
from hbtrio.wire.channel_messages import (
    ActionResponse,
    ChallengeResponse,
    Exit,
    Init,
    Message,
    MoreTime,
    Nack,
    RejectWithdrawn,
    VoterState,
)
from hbtrio.wire.lines import MAX_LINE_BYTES, LineReader

_log = logging.getLogger("hbtrio.guest")

#: Longest wait for a missing device, in seconds: a look costs next to nothing, and a VM with a
#: newly plugged port must not stay silent for another minute.
_MISSING_S: Final = 3.0

#: Reads per second above which the host floods the channel: an honest one sends a challenge each
#: interval, and a vote or notice now and then.
READS_PER_S: Final = 64

#: Seconds between two lines about a flood.
_FLOOD_S: Final = 60.0


class _Use(msgspec.Struct):
    """What has happened on an open channel so far."""

    #: Whether any data was received.
    received: bool = False
    #: Whether reading failed: even a persistent channel has to be reopened then.
    failed: bool = False


class GuestChannel:
    """The channel to the host.

    Args:
        device: the device or socket to open.
        outbox: the queue of messages to send.
        session: handles received messages.
    """

    def __init__(self, device: Device, outbox: Outbox, session: SessionDriver) -> None:
        self._device = device
        self._outbox = outbox
        self._session = session
        self._reads = Quota(READS_PER_S, 1.0)
        self._flood_lines = Quota(1, _FLOOD_S)

    async def run(self) -> NoReturn:
        """Keeps the channel open until cancelled."""
        backoff = Backoff()
        fault_log = LogOnce()
        first = True
        while True:
            longest_s = math.inf
            try:
                stream = await self._device.open()
            except DeviceFault as fault:
                if fault_log.is_new(str(fault)):
                    _log.warning("channel can't be opened: %s; retrying", fault)
                if isinstance(fault, DeviceMissing):
                    longest_s = _MISSING_S
                self._session.channel_down()
            else:
                if fault_log.clear():
                    _log.info("channel is open again")
                try:
                    received = await self._converse(stream, quiet=first)
                finally:
                    await stream.aclose()
                if received:
                    backoff.reset()
                _log.warning("channel closed")
            first = False
            await trio.sleep(backoff.next_delay_s(longest_s))

    async def _converse(self, stream: ChannelStream, *, quiet: bool) -> bool:
        """Uses an open channel until it fails; returns whether any data was received.

        Args:
            stream: the open channel.
            quiet: whether the daemon has just started. The session's timer then releases the
                session, which gives a host that has just connected the same time.
        """
        use = _Use()
        try:
            while True:
                if not quiet:
                    await stream.wait_connected()
                    if self._session.stopped:
                        return use.received
                    self._session.channel_up()
                quiet = False
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._write, stream, nursery.cancel_scope)
                    await self._read(stream, use)
                    nursery.cancel_scope.cancel()
                if use.failed or not stream.persistent:
                    return use.received
                self._session.channel_down()
        except DeviceFault as fault:
            _log.info("channel: %s", fault)
            return use.received
        finally:
            self._session.channel_down()

    async def _read(self, stream: ChannelStream, use: _Use) -> None:
        """Reads until the host disconnects or the channel fails."""
        lines = LineReader()
        skipped = 0
        try:
            while data := await stream.receive():
                use.received = True
                self._count_read()
                await self._received(lines.feed(data))
                if lines.skipped > skipped:
                    skipped = lines.skipped
                    _log.warning("message dropped: longer than %d bytes", MAX_LINE_BYTES)
        except DeviceFault as fault:
            _log.info("channel: %s", fault)
            use.failed = True

    async def _write(self, stream: ChannelStream, connection: trio.CancelScope) -> None:
        sequence = 0
        while True:
            sequence += 1
            data = await self._outbox.next(sequence)
            try:
                await stream.send(data)
            except DeviceFault as fault:
                # A persistent channel only lost this message: the host may be back already, without
                # an end of data.
                _log.info("channel: %s", fault)
                if not stream.persistent:
                    connection.cancel()
            self._outbox.sent()

    def _count_read(self) -> None:
        now = trio.current_time()
        if not self._reads.take(now) and self._flood_lines.take(now):
            _log.warning("the host floods the channel: more than %d reads a second", READS_PER_S)

    async def _received(self, lines: list[bytes]) -> None:
        for line in lines:
            if self._session.stopped:
                return  # nothing may follow the farewell, which may not be sent yet
            try:
                message = decode(line)
            except MessageError as error:
                _log.warning("message dropped: %s", error.text)
            else:
                _log_unexpected(message)
                self._session.received(message)
                await self._let_writer_run()

    async def _let_writer_run(self) -> None:
        """Handles no more than the host reads answers, so that none is dropped; a deaf host waits.

        The writer sends one message in each pass of the loop, so that one for each of the queue
        shows whether it gets on.
        """
        for _ in range(QUEUE):
            if not self._outbox.half_full:
                return
            await trio.lowlevel.checkpoint()


def _log_unexpected(message: Message) -> None:
    match message:
        case Nack(log_msg=text):
            _log.warning("the host refuses a message: %s", text)
        case (
            Init()
            | Exit()
            | ChallengeResponse()
            | ActionResponse()
            | VoterState()
            | MoreTime()
            | RejectWithdrawn()
        ):
            _log.warning("message dropped: %s, which hosts don't send", message.TYPE)
