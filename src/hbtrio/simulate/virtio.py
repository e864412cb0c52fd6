"""Simulates the channel of a VM: QEMU's socket, its virtio-serial port and the guest's kernel.

The port outlives both daemons, as measured on QEMU 7.2 and Linux 6.1:

- QEMU serves one client of the socket; the next ones wait in its backlog.
- Without a client, what the guest writes is dropped, and soon the guest sees that.
- While no process of the guest has the port open, QEMU reads nothing from the socket: the next
  process gets what the host has sent to the last one.
- If the host reads nothing, the guest has to wait once QEMU's buffer is full.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final

import trio

from hbtrio.errors import BACKLOG_FULL
from hbtrio.nursery.guest.device import DeviceFault
from hbtrio.nursery.port import ChannelFault
from hbtrio.simulate.connection import Connection, End
from hbtrio.simulate.pipe import LOCAL, UNSTRAINED, Strain
from hbtrio.simulate.port_handle import PortHandle
from hbtrio.simulate.process import Process
from hbtrio.simulate.timeline import Timeline
from hbtrio.simulate.trace import Trace

#: Bytes that the guest's kernel, and QEMU towards the host, hold at most.
RING_BYTES: Final = 32768

#: Clients that wait for QEMU at most: listen(2) with a backlog of 1 lets two wait.
_BACKLOG: Final = 2

#: From QEMU's news of the host to the guest's kernel, in seconds.
_TOLD_S: Final = 100e-6

#: Of what the guest has sent last, how many bytes are kept for :meth:`VirtioPort.replay`.
_RECENT_BYTES: Final = 1000


class VirtioPort:
    """A VM's channel between its host's socket and its guest's device.

    Args:
        timeline: delivers.
        trace: records what is sent.
        name: of the VM.
    """

    def __init__(self, timeline: Timeline, trace: Trace, name: str) -> None:
        self.name = name
        #: Whether the guest's kernel knows of a host.
        self.host_known = False
        #: What the guest's kernel holds for the process that has the port open.
        self.ring = bytearray()
        self._timeline = timeline
        self._trace = trace
        self._random = timeline.random(f"channel of {name}")
        self._connections = 0
        self._client: End | None = None
        self._backlog: list[End] = []
        self._handle: PortHandle | None = None
        self._ended = False
        self._unsent = bytearray()
        self._recent = bytearray()
        self._replays = False
        self._told_at = 0.0
        #: Called with each connection of a host, and the machine that it comes from.
        self.on_connection: Callable[[Connection, str], object] | None = None
        #: Changes what the guest sends; None: nothing.
        self.mangle: Callable[[bytes], bytes] | None = None
        self._strained = UNSTRAINED
        self._served: list[Connection] = []
        self._clogged_to_guest = self._clogged_to_host = False

    # -- the host's side ---------------------------------------------------------------------------

    @property
    def clients(self) -> int:
        """How many connections QEMU serves or has in its backlog."""
        return len(self._backlog) + (self._client is not None)

    def connect(self, process: Process) -> End:
        """Connects a process of the host to the socket; returns its end.

        Raises:
            ChannelFault: the VM has ended, or the backlog is full.
        """
        if self._ended:
            raise ChannelFault("connection refused")
        if len(self._backlog) == _BACKLOG:
            raise ChannelFault(BACKLOG_FULL)
        self._connections += 1
        connection = Connection(
            self._timeline,
            self._timeline.random(f"host {self._connections} at {self.name}"),
            LOCAL,
            client=process,
            server=None,
            names=(f"{process.name} to {self.name}", f"QEMU of {self.name}"),
            trace=self._trace,
        )
        connection.strain(self._strained)
        if self.on_connection is not None:
            self.on_connection(connection, process.machine.name)
        self._served = [*(each for each in self._served if not each.over), connection]
        end = connection.server
        end.on_arrival = partial(self._arrived, end)
        end.on_room = self._pump_to_host
        if process.effect():
            self._backlog.append(end)
            # QEMU accepts a little later, as it is a process of its own.
            self._timeline.after(LOCAL.latency_s, self._accept)
        return connection.client

    def _accept(self) -> None:
        if self._client is None and self._backlog and not self._ended:
            self._client = self._backlog.pop(0)
            if self._replays and self._recent:
                self._replays = False
                start = self._random.randrange(len(self._recent))
                self._unsent += self._recent[start:]
            self._tell_guest()
            self._pump_to_host()
            self._arrived(self._client)

    def _arrived(self, end: End) -> None:
        if end is self._client and not self._clogged_to_guest:
            self._pump_to_guest()

    def _pump_to_guest(self) -> None:
        """Moves bytes from the socket to the guest, as far as it has the port open and room."""
        while (client := self._client) is not None:
            room = RING_BYTES - len(self.ring)
            if client.fault is None and self._handle is not None and room > 0:
                data = client.receive(room)
                if data:
                    self.ring += data
                    self._handle.wake()
                    continue
            elif client.fault is not None or client.at_end:
                data = b""
            else:
                return
            if data is not None:
                self._host_gone()
            return

    def _host_gone(self) -> None:
        assert self._client is not None
        self._client.close()
        self._client = None
        self._unsent.clear()
        self._tell_guest()
        self._accept()

    def _tell_guest(self) -> None:
        # One after the other: at the same time, their order would be drawn.
        self._told_at = max(self._told_at + 1e-7, self._timeline.now + _TOLD_S)
        self._timeline.at(self._told_at, partial(self._told, self._client is not None))

    def _told(self, connected: bool) -> None:  # noqa: FBT001 - a callback with this one argument
        self.host_known = connected
        if self._handle is not None:
            self._handle.wake()

    # -- the guest's side --------------------------------------------------------------------------

    def open(self, process: Process) -> PortHandle:
        """Opens the port for a process of the guest.

        Raises:
            DeviceFault: another process has it open.
        """
        if self._handle is not None:
            raise DeviceFault("device or resource busy")
        self._handle = PortHandle(self, process)
        if not self._clogged_to_guest:
            self._pump_to_guest()
        return self._handle

    def release(self) -> None:
        """Closes the guest's device; what its kernel held is gone."""
        self._handle = None
        self.ring.clear()

    def has_room_again(self) -> None:
        """The guest has read from the ring."""
        if not self._clogged_to_guest:
            self._pump_to_guest()

    def write(self, data: bytes) -> int:
        """Takes bytes of the guest; returns how many there was room for.

        Without a host they are taken, and dropped.
        """
        if self._client is None:
            return len(data)
        taken = sent = data[: max(0, RING_BYTES - len(self._unsent))]
        if self.mangle is not None:
            sent = self.mangle(taken)
        if taken:
            self._trace.sent(self.name, sent)
            self._recent += sent
            del self._recent[:-_RECENT_BYTES]
            self._unsent += sent
            self._pump_to_host()
        return len(taken)

    def _pump_to_host(self) -> None:
        client = self._client
        if client is None or self._clogged_to_host or not self._unsent or client.fault is not None:
            return
        was_full = len(self._unsent) >= RING_BYTES
        del self._unsent[: client.send(bytes(self._unsent))]
        if was_full and len(self._unsent) < RING_BYTES and self._handle is not None:
            self._handle.wake()

    # -- faults ------------------------------------------------------------------------------------

    def clog(self, *, to_guest: bool = True, to_host: bool = True) -> None:
        """Holds back bytes in one or both directions."""
        self._clogged_to_guest |= to_guest
        self._clogged_to_host |= to_host

    def unclog(self) -> None:
        """Lets bytes go on."""
        self._clogged_to_guest = self._clogged_to_host = False
        self._pump_to_guest()
        self._pump_to_host()

    def strain(self, strain: Strain = UNSTRAINED) -> None:
        """Changes what connections are like, see :meth:`~hbtrio.simulate.pipe.Pipe.strain`."""
        self._strained = strain
        for connection in self._served:
            connection.strain(strain)

    def replay(self) -> None:
        """Sends old bytes of the guest to the next client first, from the middle of a line on."""
        self._replays = True

    def cut(self) -> None:
        """Closes the present client's connection, as a restarted chardev does."""
        if self._client is not None:
            self._client.reset()
            self._client = None
            self._unsent.clear()
            self._tell_guest()
            self._accept()

    def end(self) -> None:
        """The VM ends: its socket's connections are closed, new ones refused."""
        self._ended = True
        clients = [self._client] if self._client is not None else []
        self._client = None
        for end in [*clients, *self._backlog]:
            end.close()
        self._backlog.clear()


class SimulatedDevice:
    """Implements :class:`~hbtrio.nursery.guest.device.Device` for one process of a guest.

    Args:
        port: the VM's channel.
        process: opens it.
    """

    def __init__(self, port: VirtioPort, process: Process) -> None:
        self._port = port
        self._process = process

    async def open(self) -> PortHandle:
        """Opens the port.

        Raises:
            DeviceFault: another process has it open.
        """
        await trio.lowlevel.checkpoint()
        return self._port.open(self._process)
