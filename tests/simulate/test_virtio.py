"""A VM's channel, with the host's port and the guest's device at its ends."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

import pytest
import trio

from hbtrio.errors import BACKLOG_FULL
from hbtrio.nursery.guest.device import DeviceFault
from hbtrio.nursery.port import ChannelFault
from hbtrio.simulate.port_handle import PortHandle
from hbtrio.simulate.ports import SimulatedDialer, SimulatedPort
from hbtrio.simulate.process import Process
from hbtrio.simulate.readers import MemoryReaders
from hbtrio.simulate.virtio import RING_BYTES, SimulatedDevice, VirtioPort
from support.simulation import Simulation

E = TypeVar("E")
Talk = Callable[[E], Awaitable[object]]

PATH = "/run/channels/vm-1"


class Channel:
    """The channel of vm-1; processes of host and guest are started by the tests."""

    def __init__(self, seed: int = 1) -> None:
        self.simulation = Simulation(seed)
        self.port = VirtioPort(self.simulation.timeline, self.simulation.trace, "vm-1")
        self.ports = {PATH: self.port}
        self.to_host = bytearray()
        self.to_guest = bytearray()
        self.processes: list[Process] = []
        self.readers: dict[SimulatedPort, MemoryReaders] = {}

    def host(self, talk: Talk[SimulatedPort], name: str = "host") -> Process:
        process = self.simulation.process(name)
        dialer = SimulatedDialer(process, self.ports)

        async def main() -> None:
            port = dialer.dial(PATH)
            port.watch()
            self.readers[port] = dialer.readers
            await talk(port)
            await trio.sleep_forever()

        return self._started(process, main)

    def guest(self, talk: Talk[PortHandle], name: str = "guest") -> Process:
        process = self.simulation.process(name)
        device = SimulatedDevice(self.port, process)

        async def main() -> None:
            await talk(await device.open())
            await trio.sleep_forever()

        return self._started(process, main)

    def _started(self, process: Process, main: Callable[[], Awaitable[None]]) -> Process:
        process.start(main)
        self.processes.append(process)
        return process

    def run(self, until: float) -> None:
        self.simulation.run(until)
        for process in self.processes:
            if process.error is not None:
                raise process.error

    async def readable(self, port: SimulatedPort) -> None:
        while not self.readers[port].ready(1):
            await self.readers[port].wait()

    async def read_at_host(self, port: SimulatedPort) -> None:
        while True:
            await self.readable(port)
            data = port.receive_nowait()
            if data == b"":
                return
            self.to_host += data or b""

    async def read_at_guest(self, handle: PortHandle) -> None:
        while True:
            await handle.wait_connected()
            self.to_guest += await handle.receive()


async def nothing(end: object) -> None:
    pass


def sender(data: bytes, at_s: float = 1.0) -> Callable[[PortHandle], Awaitable[None]]:
    async def send(handle: PortHandle) -> None:
        await trio.sleep(at_s)
        await handle.send(data)

    return send


def test_bytes_go_both_ways() -> None:
    channel = Channel()

    async def host(port: SimulatedPort) -> None:
        assert port.send_nowait(b"challenge") == 9
        await channel.read_at_host(port)

    async def guest(handle: PortHandle) -> None:
        while len(channel.to_guest) < 9:
            await handle.wait_connected()
            channel.to_guest += await handle.receive()
        await handle.send(b"response")

    channel.host(host)
    channel.guest(guest)
    channel.run(2.0)
    assert (channel.to_guest, channel.to_host) == (b"challenge", b"response")


def test_without_a_host_the_guest_is_told_and_nothing_is_kept() -> None:
    channel = Channel()
    faults: list[str] = []

    async def guest(handle: PortHandle) -> None:
        assert await handle.receive() == b""
        try:
            await handle.send(b"lost")
        except DeviceFault as fault:
            faults.append(str(fault))

    channel.guest(guest)
    channel.run(1.0)
    channel.host(channel.read_at_host)
    channel.run(2.0)
    assert faults == ["the host is not connected"]
    assert channel.to_host == b""


def test_a_dead_host_is_noticed_and_the_next_one_is_served() -> None:
    channel = Channel()
    received: list[bytes] = []

    async def guest(handle: PortHandle) -> None:
        await handle.wait_connected()
        received.append(await handle.receive())  # until the host has gone
        await handle.wait_connected()
        await handle.send(b"welcome")

    first = channel.host(nothing, "first")
    channel.guest(guest)
    channel.run(1.0)
    first.kill()
    channel.run(2.0)
    assert received == [b""]
    assert channel.port.clients == 0
    channel.host(channel.read_at_host, "second")
    channel.run(3.0)
    assert channel.to_host == b"welcome"


def test_a_host_that_comes_back_at_once_leaves_no_end_of_data() -> None:
    channel = Channel()
    received: list[bytes] = []

    async def guest(handle: PortHandle) -> None:
        await handle.wait_connected()
        received.append(await handle.receive())

    channel.guest(guest)
    first = channel.host(nothing, "first")
    channel.run(1.0)
    channel.host(nothing, "second")  # waits in the backlog
    channel.run(2.0)
    first.kill()
    channel.run(3.0)
    assert received in ([], [b""])
    assert channel.port.clients == 1
    assert channel.port.host_known


def test_what_a_dead_host_has_not_read_does_not_reach_the_next_one() -> None:
    channel = Channel()

    async def flood(handle: PortHandle) -> None:
        await handle.wait_connected()
        await handle.send(bytes(65536 + RING_BYTES))  # more than the socket holds

    first = channel.host(nothing, "first")
    channel.guest(flood)
    channel.run(2.0)
    first.kill()
    channel.run(3.0)
    channel.host(channel.read_at_host, "second")
    channel.run(4.0)
    assert channel.to_host == b""


def test_a_second_host_waits_and_a_fourth_is_refused() -> None:
    channel = Channel()
    faults: list[str] = []
    first = channel.host(nothing, "first")
    channel.run(1.0)
    channel.host(channel.read_at_host, "second")
    channel.host(nothing, "third")
    channel.run(2.0)

    async def refused() -> None:
        with pytest.raises(ChannelFault) as caught:
            SimulatedDialer(fourth, channel.ports).dial(PATH)
        faults.append(str(caught.value))

    fourth = channel.simulation.process("fourth")
    fourth.start(refused)
    channel.guest(sender(b"hello", 3.0))
    channel.run(3.0)
    assert faults == [BACKLOG_FULL]
    assert channel.port.clients == 3
    first.kill()
    channel.run(6.0)
    assert channel.to_host == b"hello"


def test_what_the_host_sent_to_a_dead_guest_process_reaches_the_next_one() -> None:
    channel = Channel()

    async def host(port: SimulatedPort) -> None:
        await trio.sleep(2.0)
        port.send_nowait(b"stale challenge")

    channel.host(host)
    first = channel.guest(nothing, "first")
    channel.run(1.0)
    first.kill()
    channel.run(3.0)
    channel.guest(channel.read_at_guest, "second")
    channel.run(4.0)
    assert channel.to_guest == b"stale challenge"


def test_what_the_kernel_held_for_a_dead_process_is_gone() -> None:
    channel = Channel()

    async def host(port: SimulatedPort) -> None:
        port.send_nowait(b"held in the ring")

    channel.host(host)
    first = channel.guest(nothing, "first")
    channel.run(1.0)
    assert channel.port.ring == b"held in the ring"
    first.kill()
    channel.guest(channel.read_at_guest, "second")
    channel.run(2.0)
    assert channel.to_guest == b""


def test_one_process_at_a_time_has_the_device_open() -> None:
    channel = Channel()
    faults: list[str] = []
    first = channel.guest(nothing, "first")
    channel.run(1.0)

    async def second() -> None:
        with pytest.raises(DeviceFault) as caught:
            await SimulatedDevice(channel.port, process).open()
        faults.append(str(caught.value))

    process = channel.simulation.process("second")
    process.start(second)
    channel.run(2.0)
    assert faults == ["device or resource busy"]
    first.kill()
    channel.guest(nothing, "third")
    channel.run(3.0)


def test_a_closed_device_can_be_opened_again() -> None:
    channel = Channel()

    async def reopen(handle: PortHandle) -> None:
        await handle.aclose()
        await handle.aclose()
        await SimulatedDevice(channel.port, channel.processes[0]).open()

    channel.guest(reopen)
    channel.run(1.0)


def test_a_guest_waits_for_a_host_that_does_not_read() -> None:
    channel = Channel()
    sent: list[float] = []

    async def flood(handle: PortHandle) -> None:
        await handle.wait_connected()
        for _ in range(100):
            await handle.send(bytes(4096))
            sent.append(channel.simulation.timeline.now)

    channel.host(nothing)
    channel.guest(flood)
    channel.run(5.0)
    assert RING_BYTES <= len(sent) * 4096 <= 65536 + RING_BYTES  # the socket and QEMU's buffer


def test_a_waiting_guest_goes_on_when_the_host_reads() -> None:
    channel = Channel()

    async def slow(port: SimulatedPort) -> None:
        await trio.sleep(5.0)
        await channel.read_at_host(port)

    async def flood(handle: PortHandle) -> None:
        await handle.wait_connected()
        await handle.send(bytes(300_000))

    channel.host(slow)
    channel.guest(flood)
    channel.run(4.0)
    assert channel.to_host == b""
    channel.run(10.0)
    assert len(channel.to_host) == 300_000


def test_a_host_waits_for_a_guest_that_does_not_read() -> None:
    channel = Channel()
    sent: list[int] = []

    async def flood(port: SimulatedPort) -> None:
        while True:
            sent.append(port.send_nowait(bytes(4096)))
            if not sent[-1]:
                await port.wait_writable()

    channel.guest(nothing)
    channel.host(flood)
    channel.run(5.0)
    assert sum(sent) == 65536 + RING_BYTES
    assert len(channel.port.ring) == RING_BYTES


@pytest.mark.parametrize(
    ("to_guest", "to_host", "arrived"),
    [(True, False, (b"", b"up")), (False, True, (b"down", b"")), (True, True, (b"", b""))],
)
def test_a_clog_holds_back_one_direction_or_both(
    to_guest: bool, to_host: bool, arrived: tuple[bytes, bytes]
) -> None:
    channel = Channel()

    async def host(port: SimulatedPort) -> None:
        await trio.sleep(2.0)
        port.send_nowait(b"down")
        await channel.read_at_host(port)

    async def guest(handle: PortHandle) -> None:
        await trio.sleep(2.0)
        await handle.send(b"up")
        await channel.read_at_guest(handle)

    channel.host(host)
    channel.guest(guest)
    channel.run(1.0)
    channel.port.clog(to_guest=to_guest, to_host=to_host)
    channel.run(4.0)
    assert (channel.to_guest, channel.to_host) == arrived
    channel.port.unclog()
    channel.run(5.0)
    assert (channel.to_guest, channel.to_host) == (b"down", b"up")


def test_old_bytes_are_replayed_to_the_next_host_from_the_middle_of_a_line() -> None:
    starts = set()
    for seed in range(10):
        channel = Channel(seed)
        first = channel.host(channel.read_at_host, "first")
        guest = channel.guest(sender(b"0123456789\n"))
        channel.run(2.0)
        first.kill()
        guest.kill()
        channel.port.replay()
        channel.run(3.0)
        channel.to_host.clear()
        channel.host(channel.read_at_host, "second")
        channel.run(4.0)
        assert b"0123456789\n".endswith(bytes(channel.to_host))
        assert channel.to_host
        starts.add(bytes(channel.to_host))
        channel.processes[-1].kill()
        channel.run(4.5)
        channel.to_host.clear()
        channel.host(channel.read_at_host, "third")
        channel.run(5.0)
        assert channel.to_host == b""  # once only
    assert len(starts) > 3


def test_a_cut_channel_is_dialled_again() -> None:
    channel = Channel()
    ended: list[str] = []

    async def host(port: SimulatedPort) -> None:
        await channel.readable(port)
        try:
            port.receive_nowait()
        except ChannelFault as fault:
            ended.append(str(fault))

    channel.guest(nothing)
    channel.host(host)
    channel.run(1.0)
    channel.port.cut()
    channel.run(2.0)
    assert ended == ["connection reset by peer"]
    assert not channel.port.host_known
    channel.host(nothing, "again")
    channel.run(3.0)
    assert channel.port.host_known


def test_a_vm_that_has_ended_closes_and_refuses() -> None:
    channel = Channel()
    ended: list[bool] = []

    async def host(port: SimulatedPort) -> None:
        await channel.read_at_host(port)
        ended.append(True)
        for path, reason in ((PATH, "connection refused"), ("/gone", "no such file or directory")):
            with pytest.raises(ChannelFault, match=reason):
                SimulatedDialer(channel.processes[0], channel.ports).dial(path)

    channel.host(host)
    channel.run(1.0)
    channel.port.end()
    channel.run(2.0)
    assert ended == [True]


def test_a_closed_port_says_so() -> None:
    channel = Channel()
    closed: list[str] = []

    async def host(port: SimulatedPort) -> None:
        while port.send_nowait(b"x" * 1000):
            pass

        async def wait() -> None:
            with pytest.raises(trio.ClosedResourceError):
                await port.wait_writable()
            closed.append("while waiting")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            await trio.sleep(0.1)
            port.close()
            port.close()
        with pytest.raises(trio.ClosedResourceError):
            await port.wait_writable()

    channel.host(host)
    channel.run(1.0)
    assert closed == ["while waiting"]
    assert channel.port.clients == 0


@pytest.mark.parametrize(("effect", "arrived"), [(1, b""), (2, b""), (3, b"one")])
def test_a_host_that_dies_at_an_effect_ends_its_step_without_noticing(
    effect: int, arrived: bytes
) -> None:
    channel = Channel()
    steps: list[str] = []

    async def host(port: SimulatedPort) -> None:
        await trio.sleep(1.0)
        port.send_nowait(b"one")
        port.send_nowait(b"two")
        assert port.receive_nowait() is None
        steps.append("ended")

    channel.guest(channel.read_at_guest)
    process = channel.host(host)
    process.at_effect(effect, process.kill)  # 1: the dial
    channel.run(2.0)
    assert channel.to_guest == arrived
    assert steps == (["ended"] if effect > 1 else [])
    assert not process.alive
    assert channel.port.clients == 0


def test_of_a_guest_that_dies_at_a_send_nothing_is_sent() -> None:
    channel = Channel()
    channel.host(channel.read_at_host)
    guest = channel.guest(sender(b"never"))
    guest.at_effect(1, guest.kill)
    channel.run(2.0)
    assert channel.to_host == b""
    assert not guest.alive
