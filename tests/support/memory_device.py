"""A guest's channel in memory: the guest opens it, the test plays the host at its other end."""

from __future__ import annotations

import json
from collections import deque

import attrs
import trio

from hbtrio.nursery.guest.device import READ_BYTES, ChannelStream, DeviceFault, DeviceMissing
from hbtrio.wire.channel_codec import MessageError, decode, encode
from hbtrio.wire.channel_messages import Message
from hbtrio.wire.lines import LineReader

#: The longest that a test waits for the guest to say something, on the fake clock.
PATIENCE_S = 1000.0


@attrs.frozen
class Received:
    """What the guest said, and when; times are rounded to microseconds, to compare as they read."""

    at_s: float
    message: Message
    sequence: int


class MemoryDevice:
    """A Device whose host is scripted by a test.

    As a unix socket (the default) each opening is a connection of its own, and the host's going
    away ends it. As a persistent port there is one stream: it outlives the host, shows its absence
    as an end of data, and does not show at all that a host was away between two reads.

    Args:
        persistent: behave as a virtio-serial port.
        capacity: bytes on their way to a host that has stopped reading.
    """

    def __init__(self, *, persistent: bool = False, capacity: int = 4096) -> None:
        #: When the guest tried to open it, and when it closed it.
        self.opened: list[float] = []
        self.closed: list[float] = []
        #: All that the guest said to any host.
        self.received: list[Received] = []
        #: Lines that were no messages.
        self.garbled: list[bytes] = []
        self._persistent = persistent
        self._capacity = capacity
        self._refusal: DeviceFault | None = None
        self._reading = True
        self._sequence = 0
        self._next = 0
        self._something_heard = trio.Event()
        self._stream = _Stream(self)

    async def open(self) -> ChannelStream:
        """See :class:`hbtrio.nursery.guest.device.Device`."""
        self.opened.append(_now())
        await trio.lowlevel.checkpoint()
        if self._refusal is not None:
            raise self._refusal
        if not self._persistent:
            self._stream = _Stream(self)
        return self._stream

    # -- the host's end ---------------------------------------------------------------------

    def send(self, *messages: Message) -> None:
        """Sends messages to the guest, each in a chunk of its own."""
        self.send_bytes(*(self._encoded(message) for message in messages))

    def send_bytes(self, *chunks: bytes) -> None:
        """Sends bytes; the guest reads each chunk by itself."""
        self._stream.incoming.extend(chunk for chunk in chunks if chunk)
        self._stream.changed.unpark_all()

    def encoded(self, *messages: Message) -> bytes:
        """What :meth:`say` would send, for a test that cuts it up itself."""
        return b"".join(self._encoded(message) for message in messages)

    def disconnect(self) -> None:
        """The host goes away."""
        self._stream.gone = True
        self._stream.outgoing.clear()
        self._stream.changed.unpark_all()

    def connect(self) -> None:
        """A host comes (back) to a persistent port."""
        self._stream.gone = False
        self._stream.lines = LineReader()
        self._sequence = 0
        self._stream.changed.unpark_all()

    def fail(self, why: str) -> None:
        """The open channel fails: an unplugged port, a reset connection."""
        self._stream.fault = why
        self._stream.changed.unpark_all()

    def lose_next(self) -> None:
        """The host is away at the very moment at which the guest sends something next."""
        self._stream.losing = True

    def refuse(self, why: str = "connection refused") -> None:
        """Cannot be opened from now on."""
        self._refusal = DeviceFault(why)

    def remove(self) -> None:
        """Is not there from now on."""
        self._refusal = DeviceMissing("no such file or directory")

    def allow(self) -> None:
        """Is there and can be opened again."""
        self._refusal = None

    def stop_reading(self) -> None:
        """The host stays connected and reads no more."""
        self._reading = False

    def resume_reading(self) -> None:
        """The host reads again, first what has been held up."""
        self._reading = True
        held, self._stream.outgoing = bytes(self._stream.outgoing), bytearray()
        self._hear(held)
        self._stream.changed.unpark_all()

    async def next(self) -> Received:
        """The next thing that the guest says, or has said and was not asked for yet."""
        with trio.fail_after(PATIENCE_S):
            while self._next >= len(self.received):
                self._something_heard = trio.Event()
                await self._something_heard.wait()
        self._next += 1
        return self.received[self._next - 1]

    def unread(self) -> list[Received]:
        """What was heard since the last :meth:`next` or :meth:`unread`."""
        heard = self.received[self._next :]
        self._next = len(self.received)
        return heard

    def _encoded(self, message: Message) -> bytes:
        self._sequence += 1
        return encode(message, self._sequence)

    def _hear(self, data: bytes) -> None:
        for line in self._stream.lines.feed(data):
            try:
                message = decode(line)
            except MessageError:
                self.garbled.append(line)
            else:
                self.received.append(Received(_now(), message, json.loads(line)["sequence"]))
        self._something_heard.set()


class _Stream:
    """The guest's end."""

    def __init__(self, device: MemoryDevice) -> None:
        self.persistent = device._persistent
        self.incoming: deque[bytes] = deque()
        self.outgoing = bytearray()
        self.changed = trio.lowlevel.ParkingLot()
        self.gone = False
        self.fault: str | None = None
        self.losing = False
        self.lines = LineReader()
        self._device = device

    async def wait_connected(self) -> None:
        await trio.lowlevel.checkpoint()
        while self.gone and self.fault is None:
            await self.changed.park()
        self._check()

    async def receive(self) -> bytes:
        await trio.lowlevel.checkpoint()
        while not self.incoming:
            self._check()
            if self.gone:
                return b""
            await self.changed.park()
        data = self.incoming.popleft()
        if len(data) > READ_BYTES:
            self.incoming.appendleft(data[READ_BYTES:])
        return data[:READ_BYTES]

    async def send(self, data: bytes) -> None:
        await trio.lowlevel.checkpoint()
        while data:
            self._check()
            if self.gone or self.losing:
                self.losing = False
                raise DeviceFault("the host is not connected")
            room = len(data) if self._device._reading else self._capacity_left()
            if room > 0:
                self._pass(data[:room])
                data = data[room:]
            else:
                await self.changed.park()

    async def aclose(self) -> None:
        self._device.closed.append(_now())
        await trio.lowlevel.cancel_shielded_checkpoint()

    def _capacity_left(self) -> int:
        return self._device._capacity - len(self.outgoing)

    def _pass(self, data: bytes) -> None:
        if self._device._reading:
            self._device._hear(data)
        else:
            self.outgoing += data

    def _check(self) -> None:
        if self.fault is not None:
            raise DeviceFault(self.fault)


def _now() -> float:
    return round(trio.current_time(), 6)
