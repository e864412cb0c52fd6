"""Connections, streams, listeners and routes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
import trio

from hbtrio.net.connections import ConnectionEnds
from hbtrio.net.endpoints import Unreachable
from hbtrio.simulate.network import Network
from hbtrio.simulate.process import Process
from hbtrio.simulate.stream import SimulatedStream
from support.simulation import Simulation

ADDRESS = "tcp:agent:5405"

Talk = Callable[[SimulatedStream], Awaitable[object]]


class Talks:
    """A server that accepts at 0 s, and a client that connects at 1 s."""

    def __init__(self, serve: Talk, talk: Talk, seed: int = 1) -> None:
        self.simulation = Simulation(seed)
        self.network = Network(self.simulation.timeline, self.simulation.trace)
        self.route = self.network.route("machine of client", ADDRESS)
        self.server = self.simulation.process("server")
        self.client = self.simulation.process("client")
        self.accepted = 0

        async def accept() -> None:
            async with trio.open_nursery() as nursery, self.listen() as listener:
                while True:
                    stream = await listener.accept()
                    self.accepted += 1
                    nursery.start_soon(serve, stream)

        async def connect() -> None:
            await trio.sleep(1.0)
            await talk(await self.network.connect(self.client, ADDRESS))

        self.server.start(accept)
        self.client.start(connect)

    def listen(self):
        return self.network.listen(self.server, ADDRESS)

    def at(self, time: float, action: Callable[[], object]) -> None:
        self.simulation.timeline.at(time, action)

    def run(self, until: float = 10.0) -> None:
        self.simulation.run(until)
        for process in (self.server, self.client):
            if process.error is not None:
                raise process.error


async def echo(stream: SimulatedStream) -> None:
    async with stream:
        async for data in stream:
            await stream.send_all(data)


async def nothing(stream: SimulatedStream) -> None:
    await trio.sleep_forever()


def test_bytes_go_both_ways_and_the_end_too() -> None:
    received: list[bytes] = []

    async def talk(stream: SimulatedStream) -> None:
        await stream.send_all(b"hello")
        received.append(await stream.receive_some())
        await stream.send_eof()
        received.append(await stream.receive_some())
        await stream.aclose()

    talks = Talks(echo, talk)
    talks.run()
    assert b"".join(received) == b"hello"
    assert received[-1] == b""
    assert not talks.client.alive
    assert talks.route.connections == 0
    assert list(talks.server.held) == [next(iter(talks.server.held))]  # the listener alone


def test_the_same_seed_gives_the_same_bytes_at_the_same_times() -> None:
    def digest(seed: int) -> str:
        async def talk(stream: SimulatedStream) -> None:
            for number in range(50):
                await stream.send_all(b"%d " % number * 20)
                await stream.receive_some(30)
            await trio.sleep_forever()

        talks = Talks(echo, talk, seed)
        talks.run()
        return talks.simulation.trace.digest

    assert digest(1) == digest(1) != digest(2)


def test_a_connection_to_nobody_is_refused() -> None:
    simulation = Simulation()
    network = Network(simulation.timeline, simulation.trace)
    client = simulation.process("client")
    faults: list[str] = []

    async def main() -> None:
        with pytest.raises(ConnectionRefusedError):
            await network.connect(client, ADDRESS)
        with pytest.raises(Unreachable) as caught:
            await network.reach(client, ADDRESS)
        faults.append(str(caught.value))

    client.start(main)
    simulation.run(1.0)
    assert faults == [f"{ADDRESS}: connection refused"]


def test_an_address_is_taken_once_and_free_after_a_death() -> None:
    talks = Talks(echo, nothing)
    talks.run(2.0)
    with pytest.raises(OSError, match="in use"):
        talks.listen()
    talks.server.kill()
    other = talks.simulation.start(trio.sleep_forever, "other")
    talks.network.listen(other, ADDRESS)


def test_the_server_sees_the_ends() -> None:
    seen: list[ConnectionEnds] = []
    ends = ConnectionEnds(client=("10.0.0.1", 4000))
    simulation = Simulation()
    network = Network(simulation.timeline, simulation.trace)
    server, client = simulation.process("server"), simulation.process("client")

    async def serve() -> None:
        async with network.listen(server, ADDRESS) as listener:
            seen.append((await listener.accept()).ends)

    async def connect() -> None:
        await trio.sleep(1.0)
        await network.connect(client, ADDRESS, ends)

    server.start(serve)
    client.start(connect)
    simulation.run(2.0)
    assert seen == [ends]


def test_a_sender_waits_for_a_reader_that_does_not_read() -> None:
    sent: list[float] = []

    async def talk(stream: SimulatedStream) -> None:
        await stream.send_all(bytes(65536))
        sent.append(talks.simulation.timeline.now)
        with trio.move_on_after(3.0):
            await stream.send_all(b"one more")
            sent.append(talks.simulation.timeline.now)

    talks = Talks(nothing, talk)
    talks.run()
    assert len(sent) == 1


def test_a_sender_goes_on_when_there_is_room() -> None:
    received: list[int] = []

    async def read(stream: SimulatedStream) -> None:
        await trio.sleep(5.0)
        while data := await stream.receive_some(1000):
            received.append(len(data))

    async def talk(stream: SimulatedStream) -> None:
        await stream.send_all(bytes(200_000))
        await stream.aclose()

    Talks(read, talk).run()
    assert sum(received) == 200_000


# -- ends ------------------------------------------------------------------------------------------


async def outcome(stream: SimulatedStream, outcomes: list[str]) -> None:
    """Notes how the connection ends."""
    try:
        while data := await stream.receive_some():
            outcomes.append(data.decode())
        outcomes.append("end")
    except trio.BrokenResourceError as error:
        outcomes.append("reset" if isinstance(error.__cause__, ConnectionResetError) else "broken")
    except trio.ClosedResourceError:
        outcomes.append("closed")


def test_a_killed_process_ends_its_connections() -> None:
    outcomes: list[str] = []

    async def talk(stream: SimulatedStream) -> None:
        await stream.send_all(b"x")
        await outcome(stream, outcomes)

    async def read(stream: SimulatedStream) -> None:
        await stream.receive_some()
        await trio.sleep_forever()

    talks = Talks(read, talk)
    talks.at(3.0, talks.server.kill)
    talks.run()
    assert outcomes == ["end"]


def test_a_process_that_is_killed_with_unread_bytes_resets() -> None:
    outcomes: list[str] = []

    async def talk(stream: SimulatedStream) -> None:
        await stream.send_all(b"x")
        await outcome(stream, outcomes)

    talks = Talks(nothing, talk)
    talks.at(3.0, talks.server.kill)
    talks.run()
    assert outcomes == ["reset"]


def test_what_was_never_accepted_is_reset() -> None:
    outcomes: list[str] = []
    talks = Talks(nothing, lambda stream: outcome(stream, outcomes))
    talks.at(0.5, talks.server.freeze)
    talks.at(3.0, talks.server.kill)
    talks.run()
    assert talks.accepted == 0
    assert outcomes == ["reset"]


def test_a_frozen_server_accepts_after_the_thaw() -> None:
    received: list[bytes] = []

    async def talk(stream: SimulatedStream) -> None:
        await stream.send_all(b"hello")
        received.append(await stream.receive_some())

    talks = Talks(echo, talk)
    talks.at(0.5, talks.server.freeze)
    talks.at(4.0, talks.server.thaw)
    talks.run(3.9)
    assert talks.accepted == 0
    assert talks.client.alive
    talks.run()
    assert b"hello".startswith(received[0])


def test_writing_to_a_closed_end_breaks() -> None:
    outcomes: list[str] = []

    async def close(stream: SimulatedStream) -> None:
        await stream.aclose()

    async def talk(stream: SimulatedStream) -> None:
        await trio.sleep(1.0)
        await stream.send_all(b"into the void")
        await trio.sleep(1.0)
        with pytest.raises(trio.BrokenResourceError) as caught:
            await stream.send_all(b"more")
        assert isinstance(caught.value.__cause__, BrokenPipeError)
        outcomes.append("broken")

    Talks(close, talk).run()
    assert outcomes == ["broken"]


def test_a_closed_stream_says_so_to_its_own_tasks() -> None:
    outcomes: list[str] = []

    async def talk(stream: SimulatedStream) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(outcome, stream, outcomes)
            await trio.sleep(1.0)
            await stream.aclose()
        for use in (stream.send_all(b"x"), stream.send_eof(), stream.receive_some()):
            with pytest.raises(trio.ClosedResourceError):
                await use

    Talks(nothing, talk).run()
    assert outcomes == ["closed"]


def test_two_tasks_cannot_read_at_once() -> None:
    refused: list[str] = []

    async def talk(stream: SimulatedStream) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stream.receive_some)
            await trio.sleep(1.0)
            with pytest.raises(trio.BusyResourceError, match="another task is receiving"):
                await stream.receive_some()
            refused.append("second")
            nursery.cancel_scope.cancel()

    Talks(nothing, talk).run()
    assert refused == ["second"]


def test_has_unread_tells_bytes_and_ends() -> None:
    seen: list[bool] = []

    async def late(stream: SimulatedStream) -> None:
        await trio.sleep(1.0)
        await stream.send_all(b"x")
        await stream.send_eof()
        await trio.sleep_forever()

    async def talk(stream: SimulatedStream) -> None:
        seen.append(stream.has_unread())
        await trio.sleep(2.0)
        seen.append(stream.has_unread())
        await stream.receive_some()
        seen.append(stream.has_unread())  # the end
        await stream.aclose()
        seen.append(stream.has_unread())

    Talks(late, talk).run()
    assert seen == [False, True, True, False]


# -- faults of a process ---------------------------------------------------------------------------


def test_of_a_process_that_dies_at_a_send_nothing_more_arrives() -> None:
    received: list[bytes] = []
    unwound: list[str] = []

    async def read(stream: SimulatedStream) -> None:
        while data := await stream.receive_some():
            received.append(data)

    async def talk(stream: SimulatedStream) -> None:
        try:
            for word in (b"one", b"two", b"three"):
                await stream.send_all(word)
                await trio.sleep(0.1)
        finally:
            unwound.append("unwound")

    talks = Talks(read, talk)
    talks.client.at_effect(3, talks.client.kill)  # 1: the connect
    talks.run()
    assert b"".join(received) == b"one"
    assert unwound == []


# -- routes ----------------------------------------------------------------------------------------


def test_a_cut_resets_both_ends_and_the_next_connection_is_made() -> None:
    outcomes: list[str] = []
    talks = Talks(
        lambda stream: outcome(stream, outcomes), lambda stream: outcome(stream, outcomes)
    )
    talks.at(3.0, talks.route.cut)
    talks.run()
    assert outcomes == ["reset", "reset"]


@pytest.mark.parametrize(
    ("to_server", "to_client", "heard"),
    [(True, True, []), (True, False, ["server"]), (False, True, ["client"])],
)
def test_a_clog_holds_back_one_direction_or_both(
    to_server: bool, to_client: bool, heard: list[str]
) -> None:
    seen: list[str] = []

    def talker(peer: str) -> Talk:
        async def talk(stream: SimulatedStream) -> None:
            await trio.sleep_until(start + 3.0)
            await stream.send_all(b"x")
            await stream.receive_some()
            seen.append(peer)
            await trio.sleep_forever()

        return talk

    start = 0.0
    talks = Talks(talker("client"), talker("server"))
    for process in (talks.server, talks.client):
        process.machine._monotonic_s = 0.0  # one clock for both
    talks.at(2.0, lambda: talks.route.clog(to_server=to_server, to_client=to_client))
    talks.run(5.0)
    assert seen == heard
    talks.route.unclog()
    talks.run(6.0)
    assert sorted(seen) == ["client", "server"]


def test_on_a_clogged_route_a_connection_waits_and_is_unreachable_after_5_s() -> None:
    simulation = Simulation()
    network = Network(simulation.timeline, simulation.trace)
    server, client = simulation.process("server"), simulation.process("client")
    route = network.route("machine of client", ADDRESS)
    seen: list[tuple[str, float]] = []

    async def serve() -> None:
        async with network.listen(server, ADDRESS):
            await trio.sleep_forever()

    async def connect() -> None:
        await trio.sleep(1.0)
        try:
            await network.reach(client, ADDRESS)
        except Unreachable as fault:
            seen.append((str(fault), round(simulation.timeline.now, 1)))
        await network.reach(client, ADDRESS)
        seen.append(("connected", round(simulation.timeline.now, 1)))

    route.clog()
    server.start(serve)
    client.start(connect)
    simulation.timeline.at(8.0, route.unclog)
    simulation.run(10.0)
    assert seen == [(f"{ADDRESS}: no answer within 5 s", 6.0), ("connected", 8.0)]


def test_a_full_backlog_lets_connections_wait() -> None:
    simulation = Simulation()
    network = Network(simulation.timeline, simulation.trace)
    server, client = simulation.process("server"), simulation.process("client")
    made: list[float] = []

    async def serve() -> None:
        async with network.listen(server, ADDRESS) as listener:
            await trio.sleep(10.0)
            await listener.accept()
            await trio.sleep_forever()

    async def connect(process: Process) -> None:
        await network.connect(process, ADDRESS)
        made.append(simulation.timeline.now)

    async def main() -> None:
        await trio.sleep(1.0)
        async with trio.open_nursery() as nursery:
            for _ in range(1025):
                nursery.start_soon(connect, client)

    server.start(serve)
    client.start(main)
    simulation.run(9.0)
    assert len(made) == 1024
    simulation.run(12.0)
    assert len(made) == 1025
