"""The guest's channel: opens the device, reads and writes, and opens it again."""

from __future__ import annotations

import logging
import math
from typing import Final, NoReturn

import attrs
import trio

from hbtrio.log import LogOnce
from hbtrio.nursery.guest.device import ChannelStream, Device, DeviceFault, DeviceMissing
from hbtrio.nursery.guest.outbox import Outbox
from hbtrio.nursery.guest.session_driver import SessionDriver
from hbtrio.policy.backoff import Backoff
from hbtrio.wire.channel_codec import MessageError, decode
from hbtrio.wire.lines import LineReader

_log = logging.getLogger("hbtrio.guest")

#: The longest wait for a device that is missing, in seconds: looking for it costs next to nothing,
#: and a VM whose port has come is not to be silent for another minute.
_MISSING_S: Final = 3.0


@attrs.define
class _Heard:
    """What has come of an open channel so far."""

    anything: bool = False
    #: It can't be read any more: even one that outlives its host has to be opened anew.
    failed: bool = False


class GuestChannel:
    """The channel to the host.

    Args:
        device: is opened.
        outbox: holds what is to be sent.
        session: hears what is received.
    """

    def __init__(self, device: Device, outbox: Outbox, session: SessionDriver) -> None:
        self._device = device
        self._outbox = outbox
        self._session = session

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
                    heard = await self._converse(stream, quiet=first)
                finally:
                    await stream.aclose()
                if heard:
                    backoff.reset()
                _log.warning("channel is closed")
            first = False
            await trio.sleep(backoff.next_delay_s(longest_s))

    async def _converse(self, stream: ChannelStream, *, quiet: bool) -> bool:
        """Uses an open channel until it fails; whether anything was heard on it.

        Args:
            stream: the open channel.
            quiet: the daemon has just started: the session is released by its timer, and a host
                that has only just connected too is given that time.
        """
        heard = _Heard()
        try:
            while True:
                if not quiet:
                    await stream.wait_connected()
                    if self._session.stopped:
                        return heard.anything
                    self._session.channel_up()
                quiet = False
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._write, stream, nursery.cancel_scope)
                    await self._read(stream, heard)
                    nursery.cancel_scope.cancel()
                if heard.failed or not stream.persistent:
                    return heard.anything
                self._session.channel_down()
        except DeviceFault as fault:
            _log.info("channel: %s", fault)
            return heard.anything
        finally:
            self._session.channel_down()

    async def _read(self, stream: ChannelStream, heard: _Heard) -> None:
        """Reads until the host is gone or the channel fails."""
        lines = LineReader()
        try:
            while data := await stream.receive():
                heard.anything = True
                self._received(lines.feed(data))
        except DeviceFault as fault:
            _log.info("channel: %s", fault)
            heard.failed = True

    async def _write(self, stream: ChannelStream, connection: trio.CancelScope) -> None:
        sequence = 0
        while True:
            sequence += 1
            data = await self._outbox.next(sequence)
            try:
                await stream.send(data)
            except DeviceFault as fault:
                # A persistent channel only lost this message: its host may be back already, with
                # no end of data seen.
                _log.info("channel: %s", fault)
                if not stream.persistent:
                    connection.cancel()
            self._outbox.sent()

    def _received(self, lines: list[bytes]) -> None:
        if self._session.stopped:
            return  # nothing may follow the farewell, which may still be on its way
        for line in lines:
            try:
                message = decode(line)
            except MessageError as error:
                _log.warning("message dropped: %s", error.text)
            else:
                self._session.received(message)
