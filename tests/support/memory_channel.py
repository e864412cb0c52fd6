"""A VM's channel in memory between a host that dials and a guest that opens its device."""

from __future__ import annotations

from typing import Final

import trio

from hbtrio.nursery.guest.device import READ_BYTES, DeviceFault
from hbtrio.nursery.port import ChannelFault
from hbtrio.simulate.readers import MemoryReaders
from support.memory_port import ParkedReader

#: What waits unread in either direction at most.
CAPACITY: Final = 65536


class _Pipe:
    def __init__(self) -> None:
        self.data = bytearray()
        self.changed = trio.lowlevel.ParkingLot()

    def put(self, data: bytes) -> int:
        taken = data[: CAPACITY - len(self.data)]
        self.data += taken
        self.changed.unpark_all()
        return len(taken)

    def take(self) -> bytes:
        taken = bytes(self.data[:READ_BYTES])
        del self.data[: len(taken)]
        self.changed.unpark_all()
        return taken


class MemoryChannel:
    """The channel: the guest's device, and the host's dialer for it.

    A persistent port: what the guest sends without a host is lost, as QEMU drops it.
    """

    persistent = True

    def __init__(self) -> None:
        self.readers = MemoryReaders(ParkedReader())
        self.to_host = _Pipe()
        self.to_guest = _Pipe()
        self._host: _HostEnd | None = None
        self._plugged = trio.lowlevel.ParkingLot()

    # -- the host's side ---------------------------------------------------------------------------

    def dial(self, path: str) -> _HostEnd:
        """See :class:`~hbtrio.nursery.port.Dialer`."""
        if self._host is not None:
            raise ChannelFault(f"{path}: another client is connected")
        self._host = _HostEnd(self)
        self._plugged.unpark_all()
        return self._host

    def hang_up(self) -> None:
        """The host has closed its end."""
        self._host = None
        self.to_host.data.clear()
        self.to_guest.changed.unpark_all()

    # -- the guest's side --------------------------------------------------------------------------

    async def open(self) -> MemoryChannel:
        """See :class:`~hbtrio.nursery.guest.device.Device`."""
        await trio.lowlevel.checkpoint()
        return self

    async def wait_connected(self) -> None:
        await trio.lowlevel.checkpoint()
        while self._host is None:
            await self._plugged.park()

    async def receive(self) -> bytes:
        await trio.lowlevel.checkpoint()
        while not self.to_guest.data and self._host is not None:
            await self.to_guest.changed.park()
        return self.to_guest.take()

    async def send(self, data: bytes) -> None:
        await trio.lowlevel.checkpoint()
        while data:
            if self._host is None:
                raise DeviceFault("the host is not connected")
            data = data[self.to_host.put(data) :]
            self._host.look()
            if data:
                await self.to_host.changed.park()

    async def aclose(self) -> None:
        await trio.lowlevel.cancel_shielded_checkpoint()


class _HostEnd:
    """See :class:`~hbtrio.nursery.port.ChannelPort`."""

    def __init__(self, channel: MemoryChannel) -> None:
        self.number = channel.readers.next_number()
        self._channel = channel
        self._closed = False
        self._watched = False

    @property
    def readable(self) -> bool:
        return self._watched and bool(self._channel.to_host.data)

    def look(self) -> None:
        self._channel.readers.look(self)

    def watch(self) -> None:
        self._watched = True
        self.look()

    def unwatch(self) -> None:
        self._watched = False
        self._channel.readers.forget(self)

    def send_nowait(self, data: bytes) -> int:
        return self._channel.to_guest.put(data)

    def receive_nowait(self) -> bytes | None:
        return self._channel.to_host.take() or None

    async def wait_writable(self) -> None:
        await trio.lowlevel.checkpoint()
        pipe = self._channel.to_guest
        while not self._closed and len(pipe.data) >= CAPACITY:
            await pipe.changed.park()
        if self._closed:
            raise trio.ClosedResourceError

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self.unwatch()
            self._channel.to_host.changed.unpark_all()
            self._channel.to_guest.changed.unpark_all()
            self._channel.hang_up()
