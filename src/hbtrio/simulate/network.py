"""Simulates the network between machines, and the unix sockets within one."""

from __future__ import annotations

import errno
import os
import random
from collections import deque
from collections.abc import Callable
from typing import Final

import trio

from hbtrio.net.connections import ConnectionEnds
from hbtrio.net.endpoints import CONNECT_S, Unreachable
from hbtrio.net.tls import connection_reason
from hbtrio.simulate.connection import Connection, End
from hbtrio.simulate.observations import Resource
from hbtrio.simulate.pipe import LOCAL, NETWORK, UNSTRAINED, Quality, Strain
from hbtrio.simulate.process import Process, Waiters
from hbtrio.simulate.stream import SimulatedStream
from hbtrio.simulate.timeline import Timeline
from hbtrio.simulate.trace import Trace

#: Connections that wait to be accepted, at most; further ones try again after this many seconds.
_BACKLOG: Final = 1024
_AGAIN_S: Final = 1.0


class Network:
    """Connects processes with listeners.

    Addresses are texts: ``unix:/PATH`` is within a machine, anything else goes over the network.

    Args:
        timeline: delivers.
        trace: records what is sent.
    """

    def __init__(self, timeline: Timeline, trace: Trace) -> None:
        self._timeline = timeline
        self._trace = trace
        #: Called with each connection that is made, its address, and the machine that makes it.
        self.on_connection: Callable[[Connection, str, str], object] | None = None
        self._listeners: dict[str, NetworkListener] = {}
        self._routes: dict[tuple[str, str], Route] = {}

    def route(self, machine: str, address: str) -> Route:
        """Returns the way from a machine to an address; it outlives the processes at its ends."""
        key = machine, address
        if key not in self._routes:
            self._routes[key] = Route(f"{machine} to {address}")
        return self._routes[key]

    def listen(self, process: Process, address: str) -> NetworkListener:
        """Listens at an address until the listener is closed or its process dies.

        Raises:
            OSError: another listener is there.
        """
        if address in self._listeners:
            raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
        listener = NetworkListener(process, self._listeners, address)
        self._listeners[address] = listener
        return listener

    async def connect(
        self, process: Process, address: str, ends: ConnectionEnds | None = None
    ) -> SimulatedStream:
        """Connects a process to an address; on a clogged route that waits.

        A frozen process accepts nothing, but its kernel completes the connection.

        Args:
            process: whose connection it becomes.
            address: of the listener.
            ends: what the server sees.

        Raises:
            OSError: nothing listens there.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        if not process.effect():
            await trio.sleep_forever()
        route = self.route(process.machine.name, address)
        quality = LOCAL if address.startswith("unix:") else NETWORK
        stream = self._timeline.random(f"connection {route.number()} from {route.name}")
        # As of a socket, one task step: the process's kernel wakes it, not a timer of its own.
        handshake = Waiters(process)
        self._timeline.after(2 * quality.latency_s * (0.5 + stream.random()), handshake.wake)
        await handshake.wait()
        while True:
            await route.wait_open(process)
            listener = self._listeners.get(address)
            if listener is None:
                raise OSError(errno.ECONNREFUSED, os.strerror(errno.ECONNREFUSED))
            if len(listener.backlog) < _BACKLOG:
                break
            await trio.sleep(_AGAIN_S)
        return self._connected(process, listener, route, quality, ends or ConnectionEnds(), stream)

    async def reach(
        self, process: Process, address: str, ends: ConnectionEnds | None = None
    ) -> SimulatedStream:
        """Connects as :meth:`hbtrio.net.endpoints.Endpoint.connect` does.

        Raises:
            Unreachable: nothing listens there, or the route was clogged for ``CONNECT_S``.
        """
        try:
            with trio.fail_after(CONNECT_S):
                return await self.connect(process, address, ends)
        except OSError as error:
            raise Unreachable(f"{address}: {connection_reason(error)}") from error
        except trio.TooSlowError as error:
            raise Unreachable(f"{address}: no answer within {CONNECT_S:g} s") from error

    def _connected(
        self,
        process: Process,
        listener: NetworkListener,
        route: Route,
        quality: Quality,
        ends: ConnectionEnds,
        stream: random.Random,
    ) -> SimulatedStream:
        connection = Connection(
            self._timeline,
            stream,
            quality,
            client=process,
            server=listener.process,
            names=(process.name, listener.process.name),
            trace=self._trace,
        )
        route.add(connection)
        if self.on_connection is not None:
            self.on_connection(connection, listener.address, process.machine.name)
        listener.add(connection.server, ends)
        return SimulatedStream(connection.client, ends)


class Route:
    """The way from one machine to one address, with all connections on it.

    Args:
        name: names it in random streams.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        #: Connections so far, with those that were refused.
        self.count = 0
        self._connections: list[Connection] = []
        self._clogged = False
        self._strained = UNSTRAINED
        self._waiting: list[Waiters] = []

    @property
    def connections(self) -> int:
        """How many connections have an open end."""
        self._connections = [each for each in self._connections if not each.over]
        return len(self._connections)

    def number(self) -> int:
        """Draws the number of the next connection."""
        self.count += 1
        return self.count

    def add(self, connection: Connection) -> None:
        """Adds a connection that was made."""
        self._connections = [each for each in self._connections if not each.over]
        self._connections.append(connection)
        connection.strain(self._strained)

    async def wait_open(self, process: Process) -> None:
        """Waits until a connection can be made."""
        while self._clogged:
            waiters = Waiters(process)
            self._waiting.append(waiters)
            try:
                await waiters.wait()
            finally:
                if waiters in self._waiting:
                    self._waiting.remove(waiters)

    def clog(self, *, to_server: bool = True, to_client: bool = True) -> None:
        """Holds back all bytes in one or both directions; new connections wait."""
        self._clogged = True
        for connection in self._connections:
            connection.clog(to_server=to_server, to_client=to_client)

    def unclog(self) -> None:
        """Delivers what was held back; connections can be made again."""
        self._clogged = False
        for connection in self._connections:
            connection.unclog()
        waiting, self._waiting = self._waiting, []
        for waiters in waiting:
            waiters.wake()

    def strain(self, strain: Strain = UNSTRAINED) -> None:
        """Changes what all connections are like, see :meth:`Pipe.strain`."""
        self._strained = strain
        for connection in self._connections:
            connection.strain(strain)

    def cut(self) -> None:
        """Resets all connections at both ends; new ones can be made at once."""
        for connection in self._connections:
            connection.cut()


class NetworkListener(trio.abc.Listener[SimulatedStream]):
    """Accepts connections at one address.

    Args:
        process: whose it is.
        listeners: of the network, from which it removes itself at its end.
        address: where it listens.
    """

    resource = Resource.DESCRIPTOR

    def __init__(
        self, process: Process, listeners: dict[str, NetworkListener], address: str
    ) -> None:
        self.process = process
        #: What waits to be accepted.
        self.backlog: deque[tuple[End, ConnectionEnds]] = deque()
        self._listeners = listeners
        self.address = address
        self._closed = False
        self._waiters = Waiters(process)
        process.hold(self)

    def add(self, end: End, ends: ConnectionEnds) -> None:
        """Adds a connection that the kernel has completed."""
        self.backlog.append((end, ends))
        self._waiters.wake()

    async def accept(self) -> SimulatedStream:
        """Accepts the next connection.

        Raises:
            trio.ClosedResourceError: the listener is closed.
        """
        # As of a socket, one task step: to wait, or for others' sake.
        if self.backlog or self._closed:
            await trio.lowlevel.checkpoint()
        while not self.backlog and not self._closed:
            await self._waiters.wait()
        if self._closed:
            if not self.process.alive:
                await trio.sleep_forever()
            raise trio.ClosedResourceError("the listener was closed")
        return SimulatedStream(*self.backlog.popleft())

    async def aclose(self) -> None:
        """Closes it and resets what waits, even in a cancelled scope."""
        if not self._closed and self.process.effect():
            self.process.drop(self)
            self._close()
        await trio.lowlevel.checkpoint()

    def released(self) -> None:
        """Closes it, since its process is dead."""
        self._close()

    def _close(self) -> None:
        self._closed = True
        del self._listeners[self.address]
        while self.backlog:
            self.backlog.popleft()[0].refused()
        self._waiters.wake()
