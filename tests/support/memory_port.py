"""Channels in memory: a dialer, the host's end as a `Port`, and the other end for a script.

Nothing here waits, sleeps or starts a task by itself. What one end writes is there for the other in
the same instant, and what the script is to do about it is a plain function, called from within the
host's send. So thousands of channels cost no task of their own, and what happens is decided by the
clock and the script alone.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial
from typing import NoReturn

import attrs
import trio

from hbtrio.nursery.port import READ_BYTES, ChannelFault, NoDescriptor
from hbtrio.simulate.readers import MemoryReaders
from hbtrio.wire.channel_codec import MessageError, decode, encode
from hbtrio.wire.channel_messages import Message
from hbtrio.wire.lines import LineReader

#: What a unix socket holds for an end that does not read, by default.
CAPACITY_BYTES = 65536


class _Pipe:
    """One direction: the pieces as they were written, and a place to wait for a change.

    A read takes from one piece only, so that whoever writes decides how the bytes are cut.
    """

    __slots__ = ("_pieces", "capacity", "change", "held", "on_arrival")

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.on_arrival: Callable[[], None] = _ignore
        #: Bytes written and not read.
        self.held = 0
        self.change = trio.lowlevel.ParkingLot()
        self._pieces: deque[bytes] = deque()

    def write(self, data: bytes) -> int:
        piece = data[: max(0, self.capacity - self.held)]
        if piece:
            self._pieces.append(piece)
            self.held += len(piece)
            self.change.unpark_all()
            self.on_arrival()
        return len(piece)

    def read(self, limit: int) -> bytes:
        if not self._pieces:
            return b""
        piece = self._pieces.popleft()
        if len(piece) > limit:
            self._pieces.appendleft(piece[limit:])
            piece = piece[:limit]
        self.held -= len(piece)
        self.change.unpark_all()
        return piece

    def clear(self) -> None:
        self._pieces.clear()
        self.held = 0


class ParkedReader:
    """Where the host's task waits for its ports in memory."""

    def __init__(self) -> None:
        self._lot = trio.lowlevel.ParkingLot()

    async def wait(self) -> None:
        await self._lot.park()
        # A readiness is noticed a pass after it came about, as the system's is; until then, whoever
        # waits may be cancelled with the bytes unread.
        await trio.lowlevel.checkpoint()

    def wake(self) -> None:
        self._lot.unpark_all()


class MemoryPeer:
    """The other end of one connection: QEMU's socket, with the guest behind it.

    What the host sends is decoded and handed to ``on_message`` for as long as ``reading`` is true,
    else it stays where it is, up to ``capacity`` bytes.

    Args:
        path: where the host connected.
        capacity: bytes that either direction holds unread.
        readers: of the dialer.
    """

    def __init__(
        self,
        path: str,
        capacity: int = CAPACITY_BYTES,
        readers: MemoryReaders | None = None,
    ) -> None:
        self.path = path
        #: Called with each message of the host and the line it came on.
        self.on_message: Callable[[Message, bytes], None] = _ignore
        #: Called once when the host closes the connection.
        self.on_closed: Callable[[], None] = _ignore
        #: Whether the host has closed the connection, or this end has.
        self.host_closed = False
        self.closed = False
        #: Lines of the host that are no message: a fault of the host.
        self.garbled: list[bytes] = []
        self.readers = readers or MemoryReaders(ParkedReader())
        self.port = MemoryPort(self)
        self.to_host = _Pipe(capacity)
        self.to_guest = _Pipe(capacity)
        #: What reading and writing raise on the host's side, once this end was reset.
        self.fault = ""
        self._lines = LineReader()
        self._reading = True
        self._sequence = 0

    # -- what a script does -----------------------------------------------------------------

    def send(self, message: Message) -> None:
        """Sends a message, framed and numbered as a guest does."""
        self._sequence += 1
        self.send_bytes(encode(message, self._sequence))

    def send_bytes(self, data: bytes, *, cut: int | None = None) -> None:
        """Sends any bytes, in pieces of ``cut`` bytes; all of them must find room."""
        cut = cut or max(1, len(data))
        for start in range(0, len(data), cut):
            piece = data[start : start + cut]
            assert self.write(piece) == len(piece), "the host does not read"

    def write(self, data: bytes) -> int:
        """Sends what finds room and returns how many bytes that were."""
        self._must_be_open()
        return self.to_host.write(data)

    async def wait_room(self) -> None:
        """Waits until the host has read something, or has closed the connection."""
        await trio.lowlevel.checkpoint()
        while not self.host_closed and self.to_host.held >= self.to_host.capacity:
            await self.to_host.change.park()

    @property
    def reading(self) -> bool:
        """Whether what the host sends is read at once."""
        return self._reading

    @reading.setter
    def reading(self, reading: bool) -> None:
        self._reading = reading
        self._hear()

    def read(self) -> bytes:
        """Takes what is unread, as it is; for a peer that does not read by itself."""
        data = b""
        while piece := self.to_guest.read(READ_BYTES):
            data += piece
        return data

    def close(self) -> None:
        """Closes this end: the host reads what was sent, then the end."""
        self._must_be_open()
        self.closed = True
        self._wake_host()

    def reset(self, fault: str = "connection reset by peer") -> None:
        """Closes this end with what the host has not read: that is lost."""
        self._must_be_open()
        self.closed = True
        self.fault = fault
        self.to_host.clear()
        self._wake_host()

    # -- what its port needs ----------------------------------------------------------------

    def take(self, data: bytes) -> int:
        """The host sends; returns how much of it found room."""
        taken = self.to_guest.write(data)
        self._hear()
        return taken

    def host_has_closed(self) -> None:
        """The host closed its end."""
        self.host_closed = True
        self.to_host.change.unpark_all()
        self.on_closed()

    def _hear(self) -> None:
        while self._reading and (piece := self.to_guest.read(READ_BYTES)):
            for line in self._lines.feed(piece):
                try:
                    message = decode(line)
                except MessageError:
                    self.garbled.append(line)
                else:
                    self.on_message(message, line)

    def _wake_host(self) -> None:
        self.to_host.change.unpark_all()
        self.to_guest.change.unpark_all()
        self.to_host.on_arrival()

    def _must_be_open(self) -> None:
        assert not self.closed, "this end is closed"
        assert not self.host_closed, "the host has closed the connection"


class MemoryPort:
    """The host's end; see :class:`hbtrio.nursery.port.ChannelPort`."""

    def __init__(self, peer: MemoryPeer) -> None:
        self.number = peer.readers.next_number()
        self._readers = peer.readers
        self._peer = peer
        self._closed = False

    @property
    def readable(self) -> bool:
        return not self._closed and (self._peer.closed or self._peer.to_host.held > 0)

    def watch(self) -> None:
        assert not self._closed, "used after it was closed"
        self._peer.to_host.on_arrival = partial(self._readers.look, self)
        self._readers.look(self)

    def unwatch(self) -> None:
        self._peer.to_host.on_arrival = _ignore
        self._readers.forget(self)

    def send_nowait(self, data: bytes) -> int:
        assert not self._closed, "used after it was closed"
        if self._peer.closed:
            raise ChannelFault(self._peer.fault or "broken pipe")
        return self._peer.take(data)

    def receive_nowait(self) -> bytes | None:
        assert not self._closed, "used after it was closed"
        if self._peer.fault:
            raise ChannelFault(self._peer.fault)
        data = self._peer.to_host.read(READ_BYTES)
        if data or self._peer.closed:
            return data
        return None

    async def wait_writable(self) -> None:
        pipe = self._peer.to_guest
        while not (self._closed or self._peer.closed or pipe.held < pipe.capacity):
            await pipe.change.park()
        # Noticed a pass after it came about, as above.
        await trio.lowlevel.checkpoint()
        if self._closed:
            raise trio.ClosedResourceError

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self.unwatch()
        self._peer.to_guest.change.unpark_all()
        self._peer.host_has_closed()


@attrs.frozen
class Dial:
    """An attempt to connect."""

    time_s: float
    path: str


class MemoryDialer:
    """A `Dialer`: connects to what was told to listen."""

    def __init__(self) -> None:
        self.dials: list[Dial] = []
        self.readers = MemoryReaders(ParkedReader())
        #: Whether the host has no descriptor left.
        self.is_spent = False
        self._listeners: dict[str, Callable[[MemoryPeer], None]] = {}
        self._refusals: dict[str, str] = {}

    def listen(self, path: str, on_connect: Callable[[MemoryPeer], None]) -> None:
        """From now on ``on_connect`` is called with the other end of each connection to ``path``.

        It is called from within the host's dial; what it sends is there with the connection.
        """
        self._listeners[path] = on_connect
        self._refusals.pop(path, None)

    def refuse(self, path: str, fault: str = "connection refused") -> None:
        """From now on nobody can connect to ``path``."""
        self._refusals[path] = fault

    def forget(self, path: str) -> None:
        """From now on there is nothing at ``path``."""
        self._listeners.pop(path, None)

    def dial(self, path: str) -> MemoryPort:
        self.dials.append(Dial(trio.current_time(), path))
        listener = self._listeners.get(path)
        if self.is_spent:
            raise NoDescriptor("no descriptor is left")
        if path in self._refusals:
            _fail(self._refusals[path])
        if listener is None:
            _fail("no such file or directory")
        peer = MemoryPeer(path, readers=self.readers)
        listener(peer)
        return peer.port


def _fail(fault: str) -> NoReturn:
    raise ChannelFault(fault)


def _ignore(*_: object) -> None:
    pass
