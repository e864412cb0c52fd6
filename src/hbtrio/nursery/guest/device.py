"""The guest's end of the channel, whatever it is made of.

A virtio-serial port, a tty or a unix socket all become a :class:`ChannelStream`. They differ in how
the host's absence shows: a unix socket ends and has to be opened anew; a virtio port stays open and
tells; a tty never tells, there only the protocol's own timeouts do.
"""

from __future__ import annotations

from typing import Protocol

#: One read takes at most this; a virtio port gives no more anyway.
READ_BYTES = 4096


class DeviceFault(Exception):
    """The channel can't be opened or has failed for now; the text says why."""


class DeviceMissing(DeviceFault):
    """There is no such device yet, which is found out at next to no cost."""


class ChannelStream(Protocol):
    """An open channel, seen from the guest."""

    #: Whether it outlives the host's absence: if so ``wait_connected`` follows an end of data.
    persistent: bool

    async def wait_connected(self) -> None:
        """Returns once the host may be listening.

        Raises:
            DeviceFault: the device is gone.
        """

    async def receive(self) -> bytes:
        """The next bytes; b"" when the host is not there (any more).

        Raises:
            DeviceFault: the device is gone or broken.
        """

    async def send(self, data: bytes) -> None:
        """Sends all of ``data``.

        Raises:
            DeviceFault: the host is not there; the rest of ``data`` is lost.
        """

    async def aclose(self) -> None:
        """Closes it; also in a cancelled scope."""


class Device(Protocol):
    """Something that can be opened again and again; handed in, so that tests hand in another."""

    async def open(self) -> ChannelStream:
        """Opens the channel.

        Raises:
            DeviceMissing: there is nothing to open yet.
            DeviceFault: not now; trying again makes sense.
        """
