"""Gives a process of the guest its open virtio-serial port."""

from __future__ import annotations

from typing import Protocol

import trio

from hbtrio.nursery.guest.device import READ_BYTES, DeviceFault
from hbtrio.simulate.observations import Resource
from hbtrio.simulate.process import Process, Waiters


class GuestPort(Protocol):
    """The guest's side of a port, as its kernel has it."""

    #: Whether the guest's kernel knows of a host.
    host_known: bool
    #: What the guest's kernel holds for the process that has the port open.
    ring: bytearray

    def has_room_again(self) -> None:
        """The guest has read from the ring."""

    def write(self, data: bytes) -> int:
        """Takes bytes of the guest; returns how many there was room for."""

    def release(self) -> None:
        """Closes the guest's device; what its kernel held is gone."""


class PortHandle:
    """A process's open device; implements :class:`~hbtrio.nursery.guest.device.ChannelStream`.

    Args:
        port: the device.
        process: whose it is.
    """

    persistent = True

    resource = Resource.DESCRIPTOR

    def __init__(self, port: GuestPort, process: Process) -> None:
        self._port = port
        self._process = process
        self._waiters = Waiters(process)
        self._closed = False
        process.hold(self)

    def wake(self) -> None:
        """Bytes have arrived, there is room again, or the host has come or gone."""
        self._waiters.wake()

    async def wait_connected(self) -> None:
        """Waits until the host is connected."""
        await trio.lowlevel.checkpoint()
        while not self._port.host_known:
            await self._waiters.wait()

    async def receive(self) -> bytes:
        """Receives at most 4096 bytes; b"" if the host is not connected now."""
        if self._port.ring or not self._port.host_known:
            await trio.lowlevel.checkpoint()
        while not self._port.ring and self._port.host_known:
            await self._waiters.wait()
        data = bytes(self._port.ring[:READ_BYTES])
        del self._port.ring[:READ_BYTES]
        if data:
            self._port.has_room_again()
        return data

    async def send(self, data: bytes) -> None:
        """Sends all of ``data``; waits while the buffers are full and the host is connected.

        Raises:
            DeviceFault: the host is not connected.
        """
        await trio.lowlevel.checkpoint()
        while data:
            if not self._port.host_known:
                raise DeviceFault("the host is not connected")
            if not self._process.effect():
                return
            count = self._port.write(data)
            data = data[count:]
            if not count:
                await self._waiters.wait()

    async def aclose(self) -> None:
        """Closes the device, even in a cancelled scope; the host can't detect that."""
        if not self._closed and self._process.effect():
            self._process.drop(self)
            self.released()
        await trio.lowlevel.cancel_shielded_checkpoint()

    def released(self) -> None:
        """Closes the device, since its process is dead."""
        self._closed = True
        self._port.release()
