"""Reads from all channels in one task, and hands each what its guest has sent.

A task of its own for each channel would cost more than all that is done with a message. So one task
waits for all ports and calls the connection of each that is ready: one bounded read each, and no
more than ``PER_WAKE`` connections before the pacer and everybody else had a turn. Those that are
left come first the next time, so that a guest that never stops sending delays nobody.

A channel's own task holds what lives and ends with the channel: its connection and its windows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NoReturn, Protocol

from hbtrio.nursery.port import ChannelPort, Readers

#: Connections that are read at a time. As many as send an answer within two slots of the pacer on a
#: host with 15,000 channels, so that reading keeps pace with sending; they take about 4 ms.
PER_WAKE: Final = 256


class Reader(Protocol):
    """Something that reads from a port, such as a connection."""

    def readable(self) -> None:
        """Does one bounded read. Must neither block nor raise: all readers share this task."""


class ReadHub:
    """Calls :meth:`Reader.readable` whenever the port has something to be read.

    Args:
        readers: of the dialer that made the ports.
    """

    def __init__(self, readers: Readers) -> None:
        self._readers = readers
        self._watching: dict[int, Reader] = {}

    def watch(self, port: ChannelPort, reader: Reader) -> None:
        """Calls ``reader`` until :meth:`forget`."""
        self._watching[port.number] = reader
        port.watch()

    def forget(self, port: ChannelPort, reader: Reader) -> None:
        """Ends :meth:`watch`; the reader is not called again, even if its port is ready already.

        Does nothing if the reader is not watching, for example because its port was closed and
        another one has its number now.
        """
        if self._watching.get(port.number) is reader:
            del self._watching[port.number]
            port.unwatch()

    def read_ready(self) -> None:
        """Reads once from each port that is ready, without waiting.

        For whoever decides by what has not arrived: the task may not have come to it yet.
        """
        left = len(self._watching)
        while left > 0:
            numbers = self._readers.ready(min(left, PER_WAKE))
            if not numbers:
                return
            left -= len(numbers)
            self._read(numbers)

    async def run(self) -> NoReturn:
        """Reads until cancelled."""
        while True:
            await self._readers.wait()
            self._read(self._readers.ready(PER_WAKE))

    def _read(self, numbers: Sequence[int]) -> None:
        watching = self._watching
        for number in numbers:
            reader = watching.get(number)
            if reader is not None:  # the one before may have ended it
                reader.readable()
