"""Watches ports in memory as the system watches sockets: one place to wait for many of them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Protocol

import trio


class MemoryPort(Protocol):
    """A port in memory that these readers can watch."""

    @property
    def number(self) -> int:
        """See :class:`~hbtrio.nursery.port.ChannelPort`."""

    @property
    def readable(self) -> bool:
        """Whether a read would return at once."""


class Lot(Protocol):
    """Where a task waits."""

    async def wait(self) -> None:
        """Waits for the next :meth:`wake`; can be cancelled."""

    def wake(self) -> None:
        """Wakes whoever waits."""


class MemoryReaders:
    """Implements :class:`~hbtrio.nursery.port.Readers` for ports in memory.

    As below epoll, a port is ready until it was read, and those that were returned go to the end.

    Args:
        lot: where the host's task waits.
    """

    def __init__(self, lot: Lot) -> None:
        self._lot = lot
        self._numbers = 0
        #: Ports that have become readable, and may have been read since.
        self._changed: OrderedDict[int, MemoryPort] = OrderedDict()

    def next_number(self) -> int:
        """Returns a number for a new port, which no other one has."""
        self._numbers += 1
        return self._numbers

    def look(self, port: MemoryPort) -> None:
        """A watched port may have become readable."""
        if port.readable:
            self._changed[port.number] = port
            self._lot.wake()

    def forget(self, port: MemoryPort) -> None:
        """A port is not watched any more."""
        self._changed.pop(port.number, None)

    async def wait(self) -> None:
        """See :class:`~hbtrio.nursery.port.Readers`."""
        while self._changed and not next(iter(self._changed.values())).readable:
            self._changed.popitem(last=False)
        # As below epoll, one task step at least.
        if self._changed:
            await trio.lowlevel.checkpoint()
        else:
            await self._lot.wait()

    def ready(self, limit: int) -> Sequence[int]:
        """See :class:`~hbtrio.nursery.port.Readers`."""
        found: list[int] = []
        for _ in range(len(self._changed)):
            number, port = self._changed.popitem(last=False)
            if port.readable:
                self._changed[number] = port
                found.append(number)
                if len(found) == limit:
                    break
        return found
