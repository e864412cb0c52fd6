"""Defines the guest's end of the channel, for every kind of device.

A virtio-serial port, a tty and a unix socket are all used as a :class:`ChannelStream`. They differ
in how they show that the host has disconnected: a unix socket ends and has to be reopened; a virtio
port stays open and reports it; a tty never shows it, so only the protocol's timeouts detect it.
"""

from __future__ import annotations

from typing import Protocol

#: Bytes of one read at most; the limit of a virtio port.
READ_BYTES = 4096


class DeviceFault(Exception):
    """The channel can't be opened, or has failed; the text is the reason. A retry may work."""


class DeviceMissing(DeviceFault):
    """The device does not exist (yet); checking again costs next to nothing."""


class ChannelStream(Protocol):
    """An open channel on the guest's side."""

    #: Whether the channel stays open while the host is disconnected: if so, call ``wait_connected``
    #: after an end of data.
    persistent: bool

    async def wait_connected(self) -> None:
        """Waits until the host may be connected.

        Raises:
            DeviceFault: the device is gone.
        """

    async def receive(self) -> bytes:
        """Receives the next bytes; b"" if the host is not connected.

        Raises:
            DeviceFault: the device is gone or broken.
        """

    async def send(self, data: bytes) -> None:
        """Sends all of ``data``.

        Raises:
            DeviceFault: the host is not connected; the rest of ``data`` is lost.
        """

    async def aclose(self) -> None:
        """Closes the channel, even in a cancelled scope."""


class Device(Protocol):
    """A channel device that can be opened repeatedly; tests pass in their own."""

    async def open(self) -> ChannelStream:
        """Opens the channel.

        Raises:
            DeviceMissing: the device does not exist yet.
            DeviceFault: opening failed; a retry may work.
        """
