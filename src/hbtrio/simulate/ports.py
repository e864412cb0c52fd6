"""Gives the host its end of a channel, without waiting, as a socket does."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import trio

from hbtrio.errors import os_reason
from hbtrio.nursery.port import READ_BYTES, ChannelFault
from hbtrio.simulate.connection import End
from hbtrio.simulate.process import Process, Waiters
from hbtrio.simulate.readers import MemoryReaders
from hbtrio.simulate.virtio import VirtioPort


class SimulatedPort:
    """Implements :class:`~hbtrio.nursery.port.ChannelPort` over an end.

    Args:
        end: of the host's process; the port closes it.
        readers: watch it.
    """

    def __init__(self, end: End, readers: MemoryReaders) -> None:
        self.number = readers.next_number()
        self._end = end
        self._readers = readers

    @property
    def readable(self) -> bool:
        """See :class:`~hbtrio.simulate.readers.MemoryPort`."""
        return self._end.readable

    def watch(self) -> None:
        """See :class:`~hbtrio.nursery.port.ChannelPort`."""
        self._end.on_arrival = partial(self._readers.look, self)
        self._readers.look(self)

    def unwatch(self) -> None:
        """See :class:`~hbtrio.nursery.port.ChannelPort`."""
        self._end.on_arrival = None
        self._readers.forget(self)

    def send_nowait(self, data: bytes) -> int:
        """See :class:`~hbtrio.nursery.port.Port`."""
        try:
            return self._end.send(data)
        except OSError as error:
            raise ChannelFault(os_reason(error)) from error

    def receive_nowait(self) -> bytes | None:
        """See :class:`~hbtrio.nursery.port.Port`."""
        try:
            return self._end.receive(READ_BYTES)
        except OSError as error:
            raise ChannelFault(os_reason(error)) from error

    async def wait_writable(self) -> None:
        """See :class:`~hbtrio.nursery.port.Port`."""
        self._check()
        # As below epoll, one task step.
        if self._end.writable:
            await trio.lowlevel.checkpoint()
        else:
            await self._end.wait_writable()
        self._check()

    def close(self) -> None:
        """See :class:`~hbtrio.nursery.port.Port`."""
        self.unwatch()
        self._end.close()

    def _check(self) -> None:
        if self._end.closed:
            raise trio.ClosedResourceError("the port was closed")


class SimulatedDialer:
    """Implements :class:`~hbtrio.nursery.port.Dialer` for one process of a host.

    Args:
        process: whose ports they become.
        ports: the channels by the paths of their sockets; read at each dial.
    """

    def __init__(self, process: Process, ports: Mapping[str, VirtioPort]) -> None:
        #: See :class:`~hbtrio.nursery.port.Dialer`.
        self.readers = MemoryReaders(Waiters(process))
        self._process = process
        self._ports = ports

    def dial(self, path: str) -> SimulatedPort:
        """See :class:`~hbtrio.nursery.port.Dialer`."""
        port = self._ports.get(path)
        if port is None:
            raise ChannelFault("no such file or directory")
        return SimulatedPort(port.connect(self._process), self.readers)
