"""One task reads for all channels: over real sockets, and over the ports in memory of the tests."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from typing import Final, Protocol

import attrs
import pytest
import trio
from trio.testing import MockClock

from hbtrio.nursery.host import read_hub
from hbtrio.nursery.host.daemon import Host
from hbtrio.nursery.host.read_hub import ReadHub
from hbtrio.nursery.port import ChannelPort, ChannelSocket, Readers, SocketReaders
from hbtrio.wire.vocabulary import Health
from support.guest_farm_process import channel_name, uuid_of
from support.host_world import HostWorld
from support.memory_port import MemoryDialer, MemoryPeer
from support.socket_guests import CHANNEL_DIR, SocketGuests, open_socket_guests

#: Connections that are read at a time in these tests.
_PER_WAKE: Final = 4


class Ports(Protocol):
    """Makes connections, and writes at their other ends."""

    @property
    def readers(self) -> Readers: ...
    def dial(self) -> ChannelPort: ...
    def write(self, port: ChannelPort, data: bytes) -> None: ...
    def end(self, port: ChannelPort) -> None: ...


class SocketPorts:
    """Socket pairs."""

    def __init__(self) -> None:
        self.readers = SocketReaders()
        self._others: dict[ChannelPort, socket.socket] = {}

    def dial(self) -> ChannelSocket:
        ours, other = socket.socketpair()
        for end in (ours, other):
            end.setblocking(False)
        port = ChannelSocket(ours, self.readers)
        self._others[port] = other
        return port

    def write(self, port: ChannelPort, data: bytes) -> None:
        self._others[port].send(data)

    def end(self, port: ChannelPort) -> None:
        self._others[port].close()

    def close(self) -> None:
        for port, other in self._others.items():
            port.close()
            other.close()
        self.readers.close()


class MemoryPorts:
    """Pairs in memory."""

    def __init__(self) -> None:
        self._dialer = MemoryDialer()
        self._peers: dict[ChannelPort, MemoryPeer] = {}
        self._dialer.listen("/run/x", self._connected)

    @property
    def readers(self) -> Readers:
        return self._dialer.readers

    def _connected(self, peer: MemoryPeer) -> None:
        self._peers[peer.port] = peer

    def dial(self) -> ChannelPort:
        return self._dialer.dial("/run/x")

    def write(self, port: ChannelPort, data: bytes) -> None:
        self._peers[port].send_bytes(data)

    def end(self, port: ChannelPort) -> None:
        self._peers[port].close()

    def close(self) -> None:
        for port in self._peers:
            port.close()


@pytest.fixture(params=[SocketPorts, MemoryPorts])
async def ports(request: pytest.FixtureRequest) -> AsyncIterator[Ports]:
    with contextlib.closing(request.param()) as made:
        yield made


@attrs.define(eq=False)
class Recorder:
    """Reads, or leaves everything unread, and counts how often it was called."""

    port: ChannelPort
    reads: bool = True
    received: bytes = b""
    calls: int = 0
    then: Callable[[], None] = attrs.field(default=lambda: None)

    def readable(self) -> None:
        self.calls += 1
        if self.reads:
            self.received += self.port.receive_nowait() or b"."
        self.then()


@pytest.fixture
async def hub(ports: Ports, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[ReadHub]:
    """A hub that runs, and reads from few at a time."""
    monkeypatch.setattr(read_hub, "PER_WAKE", _PER_WAKE)
    hub = ReadHub(ports.readers)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(hub.run)
        yield hub
        nursery.cancel_scope.cancel()


def watched(hub: ReadHub, ports: Ports, *, reads: bool = True) -> Recorder:
    """A new connection that the hub watches."""
    recorder = Recorder(ports.dial(), reads)
    hub.watch(recorder.port, recorder)
    return recorder


async def passes(count: int) -> None:
    """So many passes of trio's loop."""
    for _ in range(count):
        await trio.lowlevel.checkpoint()


async def settled() -> None:
    """All that is ready was read; not longer, as a hub that reads in vain never comes to rest."""
    await passes(3 * _PER_WAKE)


async def test_bytes_and_the_end_are_handed_over(hub: ReadHub, ports: Ports) -> None:
    first, second = watched(hub, ports), watched(hub, ports)
    ports.write(first.port, b"answer")
    await settled()
    assert (first.received, second.received) == (b"answer", b"")
    ports.write(first.port, b"more")
    ports.write(second.port, b"other")
    await settled()
    assert (first.received, second.received) == (b"answermore", b"other")
    second.then = lambda: hub.forget(second.port, second)
    ports.end(second.port)
    await settled()
    assert (second.received, second.calls) == (b"other.", 2)


async def test_what_came_before_it_was_watched_is_read(hub: ReadHub, ports: Ports) -> None:
    recorder = Recorder(ports.dial())
    ports.write(recorder.port, b"init")
    hub.watch(recorder.port, recorder)
    await settled()
    assert recorder.received == b"init"


async def test_those_that_are_always_ready_are_read_in_turns(hub: ReadHub, ports: Ports) -> None:
    greedy = [watched(hub, ports, reads=False) for _ in range(5 * _PER_WAKE)]
    for each in greedy:
        ports.write(each.port, b"x")
    await passes(40)
    calls = [each.calls for each in greedy]
    assert min(calls) > 0
    assert max(calls) - min(calls) <= 1
    modest = watched(hub, ports)
    ports.write(modest.port, b"y")
    await passes(20)
    assert modest.received == b"y"
    for each in greedy:
        hub.forget(each.port, each)


async def test_other_tasks_run_between_two_wakes(hub: ReadHub, ports: Ports) -> None:
    greedy = [watched(hub, ports, reads=False) for _ in range(3 * _PER_WAKE)]
    for each in greedy:
        ports.write(each.port, b"x")
    for _ in range(20):
        before = sum(each.calls for each in greedy)
        await trio.lowlevel.checkpoint()
        assert sum(each.calls for each in greedy) - before <= 2 * _PER_WAKE
    for each in greedy:
        hub.forget(each.port, each)


async def test_nothing_is_handed_to_one_that_was_forgotten(hub: ReadHub, ports: Ports) -> None:
    pair = [watched(hub, ports), watched(hub, ports)]

    def forget_both() -> None:
        for each in pair:
            hub.forget(each.port, each)

    for each in pair:
        each.then = forget_both
        ports.write(each.port, b"x")
    await settled()
    assert sorted(each.calls for each in pair) == [0, 1]
    for each in pair:
        hub.forget(each.port, each)  # again, which is harmless


async def test_one_that_was_forgotten_can_be_watched_again(hub: ReadHub, ports: Ports) -> None:
    recorder = watched(hub, ports)
    hub.forget(recorder.port, recorder)
    ports.write(recorder.port, b"while it is held back")
    await settled()
    assert recorder.calls == 0
    hub.watch(recorder.port, recorder)
    await settled()
    assert recorder.received == b"while it is held back"


async def test_a_port_that_is_closed_while_it_is_watched(hub: ReadHub, ports: Ports) -> None:
    closed, other = watched(hub, ports), watched(hub, ports)
    ports.write(closed.port, b"unread")
    closed.port.close()
    ports.write(other.port, b"x")
    await settled()
    assert (closed.calls, other.received) == (0, b"x")
    hub.forget(closed.port, closed)


@contextmanager
def copied(descriptor: int) -> Iterator[None]:
    """Another descriptor of the same socket, such as a process has that is just being started."""
    copy = os.dup(descriptor)
    try:
        yield
    finally:
        os.close(copy)


@pytest.mark.parametrize("ports", [SocketPorts], indirect=True)
@pytest.mark.parametrize("forgets", [True, False])
async def test_a_closed_descriptor_s_bytes_are_not_those_of_the_next_with_its_number(
    forgets: bool, hub: ReadHub, ports: Ports
) -> None:
    old = watched(hub, ports)
    with copied(old.port.number):
        ports.write(old.port, b"unread")
        if forgets:
            hub.forget(old.port, old)
        old.port.close()
        new = watched(hub, ports)
        assert new.port.number == old.port.number
        await settled()
        assert (old.calls, new.calls) == (0, 0)
        hub.forget(old.port, old)
        ports.write(new.port, b"init")
        await settled()
        assert (old.calls, new.received) == (0, b"init")


async def test_what_is_ready_can_be_read_at_once(
    ports: Ports, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a task: its turn may come too late for who decides."""
    monkeypatch.setattr(read_hub, "PER_WAKE", _PER_WAKE)
    hub = ReadHub(ports.readers)
    hub.read_ready()
    many = [watched(hub, ports) for _ in range(3 * _PER_WAKE)]
    endless = watched(hub, ports, reads=False)
    for each in [*many, endless]:
        ports.write(each.port, b"x")
    hub.read_ready()
    assert [each.received for each in many] == [b"x"] * len(many)
    assert 1 <= endless.calls <= 4


# -- a host ---------------------------------------------------------------------------------


async def test_a_decision_about_one_reads_what_others_have_sent(
    world: HostWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(read_hub, "PER_WAKE", 1)
    guests = await world.all_heartbeating(10)
    for guest in guests:
        guest.health = Health.UNHEALTHY
        guest.answers_after_s = None
    await world.at(3.0)
    for guest in guests:
        guest.answer_challenge()
    world.channel(guests[0]).take_in()
    assert [world.channel(guest).heartbeat.health for guest in guests] == [Health.UNHEALTHY] * 10


async def answer(guests: SocketGuests, seconds: float) -> None:
    """Lets the guests answer for so long."""
    for _ in range(round(seconds / 0.05)):
        guests.answer()
        await trio.sleep(0.05)


def number_of(host: Host, index: int) -> int:
    """The descriptor of a guest's channel."""
    connection = host.channels[uuid_of(index)].link._connection
    assert connection is not None
    return connection._port.number


async def test_a_guest_that_never_stops_sending_holds_nobody_up(autojump_clock: MockClock) -> None:
    async with open_socket_guests() as (host, guests):
        guests.appear(0, 40)
        await guests.all_heartbeating(host, 40)
        flooder = guests.ends.pop(f"{CHANNEL_DIR}/{channel_name(0)}")
        sent = 0
        with flooder:
            for _ in range(400):
                with contextlib.suppress(BlockingIOError):
                    while True:
                        sent += flooder.send(b"x" * 999 + b"\n")
                guests.answer()
                await trio.sleep(0.05)
            unread = host.channels[uuid_of(0)].link
            assert unread.is_held_back(trio.current_time())
            # 20 s of 8 KiB each, a burst, and what the socket holds unread.
            assert sent < 20 * 8192 + 8192 + 4096 + 500_000
            others = [host.channels[uuid_of(index)].heartbeat for index in range(1, 40)]
            assert {each.missed for each in others} == {0}
            assert min(each.beats for each in others) >= 19
            assert max(each.round_trip_s for each in others) <= 0.06


async def test_a_handler_that_raises_ends_its_own_channel_only(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("a fault of the program")

    async with open_socket_guests() as (host, guests):
        guests.appear(0, 5)
        await guests.all_heartbeating(host, 5)
        await answer(guests, 3)
        with monkeypatch.context() as patch, caplog.at_level(logging.ERROR):
            patch.setattr(host.channels[uuid_of(2)].heartbeat, "received", fail)
            await answer(guests, 1)
        assert host.supervisor.crashes == 1
        (record,) = [each for each in caplog.records if each.exc_info]
        assert record.getMessage() == f"channel {uuid_of(2)} failed and will be restarted"
        assert "in fail" in logging.Formatter().format(record)
        await answer(guests, 4)
        assert host.heartbeating == 5
        beats = [host.channels[uuid_of(index)].heartbeat for index in range(5)]
        assert [each.missed for each in beats] == [0] * 5
        assert min(each.beats for index, each in enumerate(beats) if index != 2) >= 8


async def test_a_guest_that_connects_again_gets_its_own_bytes(autojump_clock: MockClock) -> None:
    async with open_socket_guests() as (host, guests):
        guests.appear(0, 3)
        await guests.all_heartbeating(host, 3)
        before = number_of(host, 1)
        end = guests.ends.pop(f"{CHANNEL_DIR}/{channel_name(1)}")
        end.close()
        await settled()
        assert host.heartbeating == 2
        assert host.channels[uuid_of(1)].why == "closed by the peer"
        await answer(guests, 4)
        assert number_of(host, 1) == before
        assert host.heartbeating == 3
        assert host.supervisor.crashes == 0
        assert [host.channels[uuid_of(index)].link.faulty for index in range(3)] == [0] * 3
