"""A tenant that does its worst on its channel: bounded memory, and no neighbour notices."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from itertools import cycle

import msgspec
import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

from hbtrio.nursery.host.channel import Channel
from hbtrio.nursery.host.refusals import UnknownInstance
from hbtrio.nursery.host.round import NotHeartbeating, RoundOpen
from hbtrio.nursery.port_writer import BACKLOG_BYTES
from hbtrio.wire.channel_codec import decode, encode
from hbtrio.wire.channel_messages import (
    OFFERED,
    ActionResponse,
    ChallengeResponse,
    Init,
    InitAck,
    Nack,
)
from hbtrio.wire.lines import LineReader
from hbtrio.wire.vocabulary import CorrectiveAction, Event, Health, VoteResult
from support.host_world import (
    FIRST_ID,
    VOTE,
    HostWorld,
    Reply,
    ScriptedGuest,
    host_world,
    stay_silent,
)
from support.hostile_guests_process import FLOODS as REAL_FLOODS
from support.memory_port import CAPACITY_BYTES, MemoryPeer

pytestmark = pytest.mark.usefixtures("autojump_clock")

RATE = BURST = 8192

#: More than any flood of these tests can get rid of.
FLOOD_BYTES = 4_000_000

INIT = Init(FIRST_ID, "vm", 1000, 9, 10, 11, 14, 121, CorrectiveAction.REBOOT)
ANSWER = ChallengeResponse(1, Health.UNHEALTHY, CorrectiveAction.REBOOT, "ill " * 40)
ACTION = ActionResponse(1, Event.STOP, VOTE, VoteResult.REJECT, "no")

FLOODS = {
    "newlines": b"\n" * 4096,
    "tiny lines": b"x\n" * 2048,
    "garbage": bytes(range(256)) * 16,
    "endless line": b"x" * 4096,
    "long lines": b"x" * 4095 + b"\n",
    "nesting": b"[" * 4000 + b"\n",
    "answers": encode(ANSWER, 1) * 16,
    "inits": encode(INIT, 1) * 16,
    "actions": encode(ACTION, 1) * 16,
    "quotes": b'{"version":3,"revision":1,"msg_type":"init","log_msg":"'
    + b'"name":"' * 400
    + b"\n",
}


class Flooder:
    """Sends as fast as the host reads, up to a bound."""

    def __init__(self, peer: MemoryPeer, data: bytes) -> None:
        self.peer = peer
        self.data = data
        self.sent = 0

    async def run(self) -> None:
        rest = b""
        while self.sent < FLOOD_BYTES and not self.peer.host_closed:
            rest = rest or self.data
            taken = self.peer.write(rest)
            rest = rest[taken:]
            self.sent += taken
            await self.peer.wait_room()


def held_bytes(channel: Channel) -> int:
    """What the host keeps of a line begun."""
    return channel.link.held_bytes


# -- floods ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", FLOODS)
async def test_a_flood_delays_no_neighbour_and_is_left_unread(kind: str, world: HostWorld) -> None:
    neighbour = await world.heartbeating()
    hostile = await world.heartbeating()
    hostile.answers_after_s = None
    await world.at(2.5)
    flooder = Flooder(hostile.peer, FLOODS[kind])
    async with trio.open_nursery() as nursery:
        nursery.start_soon(flooder.run)
        await world.at(12.5)
        nursery.cancel_scope.cancel()
    assert neighbour.challenged_at() == [float(second) for second in range(1, 13)]
    assert world.channel(neighbour).heartbeat.round_trip_s == 0
    assert world.channel(neighbour).heartbeat.missed == 0
    assert world.reports(neighbour, since=2) == []
    # Ten seconds' worth, what the socket holds, one read that emptied the bucket, and the last
    # look before each beat.
    read = flooder.sent - hostile.peer.to_host.held
    assert read <= BURST + 10 * RATE + 4096 + 10 * 4096
    assert hostile.peer.to_host.held >= CAPACITY_BYTES - 4096
    channel = world.channel(hostile)
    assert held_bytes(channel) <= 4096


async def test_a_hundred_floods_delay_nobody(world: HostWorld) -> None:
    neighbours = await world.all_heartbeating(100)
    await world.at(1.5)
    hostile = await world.all_heartbeating(100)
    await world.at(2.5)
    kinds = cycle(FLOODS.values())
    async with trio.open_nursery() as nursery:
        for guest in hostile:
            guest.answers_after_s = None
            nursery.start_soon(Flooder(guest.peer, next(kinds)).run)
        await world.at(5.5)
        nursery.cancel_scope.cancel()
    for guest in neighbours:
        assert guest.challenged_at() == [1.0, 2.0, 3.0, 4.0, 5.0]
        assert world.channel(guest).heartbeat.round_trip_s == 0
    assert world.host.pacer.worst_lateness_s < 1e-6


async def test_a_pause_is_as_long_as_the_bytes_were_too_many(world: HostWorld) -> None:
    guest = world.guest()
    guest.sends_init = False
    guest.appear()
    await world.at(1.5)
    guest.peer.send_bytes(b"\n" * 4096 * 3)
    await world.at(1.5)
    # The third read went 4096 bytes over the burst: that is half a second.
    guest.send_init()
    await world.at(1.999)
    assert guest.received == []
    await world.at(2.001)
    assert guest.messages[0] == InitAck(FIRST_ID, OFFERED)


async def test_a_tiny_line_costs_as_much_as_a_message(world: HostWorld) -> None:
    guest = world.guest()
    guest.sends_init = False
    guest.appear()
    await world.at(1.5)
    guest.peer.send_bytes(b"x\n" * 128)
    await world.settle()
    # 128 lines count for 16 KB, twice the burst: a second without reading.
    guest.send_init()
    await world.at(2.499)
    assert [type(message) for message in guest.messages] == [Nack] * 5
    await world.at(2.501)
    assert guest.messages[5] == InitAck(FIRST_ID, OFFERED)
    assert world.channel(guest).link.faulty == 128


async def test_of_one_read_only_so_many_lines_are_looked_at(world: HostWorld) -> None:
    guest = world.guest()
    guest.sends_init = False
    guest.appear()
    await world.settle()
    guest.peer.send_bytes(b"x\n" * 64 + encode(INIT, 1))
    await world.sleep(5)
    assert [type(message) for message in guest.messages] == [Nack] * 5
    assert world.channel(guest).link.faulty == 65
    guest.peer.send_bytes(b"x\n" * 63 + encode(INIT, 1))
    await world.settle()
    assert guest.messages[-2] == InitAck(FIRST_ID, OFFERED)
    assert world.channel(guest).link.faulty == 128


async def test_a_deployed_guest_is_never_paused(world: HostWorld) -> None:
    # The fastest interval, the longest message, and answers to everything.
    guest = world.guest(heartbeat_interval_ms=400)
    guest.log_msg = "x" * 223
    guest.answers_after_s = 0.001
    guest.appear()
    await world.sleep(1)
    for _ in range(100):
        world.vote(guest, Event.LIVE_MIGRATE_BEGIN)
        await world.sleep(0.2)
    beat = world.channel(guest).heartbeat
    assert beat.missed == 0
    assert beat.round_trip_s == pytest.approx(0.001)
    assert len([told for told in world.reports() if told[1] == "vote"]) == 100


async def test_a_flood_is_named_once_a_minute(
    world: HostWorld, caplog: pytest.LogCaptureFixture
) -> None:
    hostile = world.guest()
    calm = await world.heartbeating()
    async with trio.open_nursery() as nursery:

        def connected(peer: MemoryPeer) -> None:
            nursery.start_soon(Flooder(peer, FLOODS["answers"]).run)

        hostile.appear()
        world.dialer.listen(hostile.path, connected)
        await world.sleep(170)
        nursery.cancel_scope.cancel()
    text = "it sends more than 8192 bytes/s: held back for 5 s within a minute"
    assert [line for line in caplog.messages if "it sends more" in line] == [
        f"{hostile.uuid}: {text}"
    ] * 3
    assert not any(calm.uuid in line for line in caplog.messages if "sends" in line)


async def _write_again(guest: ScriptedGuest, write: Callable[[], bytes], *, reads: bool) -> None:
    """Has a guest write for as long as the host reads, on each connection anew."""
    peer = MemoryPeer("")
    rest = b""
    while True:
        if guest.peer is not peer:
            peer, rest = guest.peer, b""
            peer.reading = reads
        if peer.host_closed or peer.closed:
            await trio.sleep(0.1)
            continue
        rest = rest or write()
        rest = rest[peer.write(rest) :]
        if rest:
            await trio.sleep(0.1)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [*REAL_FLOODS, "deaf", "replaced"])
async def test_an_offender_is_named_again_in_the_second_minute(
    kind: str, world: HostWorld, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "hbtrio")
    calm = await world.heartbeating()
    hostile = world.guest()
    hostile.answers_after_s = None
    hostile.sends_init = False
    hostile.appear()
    await world.settle()
    named = []
    async with trio.open_nursery() as nursery:
        if kind == "replaced":
            nursery.start_soon(_replace_again, hostile)
        write = REAL_FLOODS.get(kind, REAL_FLOODS["numbers"])
        nursery.start_soon(partial(_write_again, hostile, write, reads=kind != "deaf"))
        for _ in range(2):
            caplog.clear()
            await world.sleep(60)
            named.append(any(hostile.uuid in line for line in caplog.messages))
        nursery.cancel_scope.cancel()
    assert named == [True, True]
    assert world.channel(calm).heartbeat.missed == 0


async def _replace_again(guest: ScriptedGuest) -> None:
    while True:
        guest.vanish()
        guest.appear()
        await trio.sleep(0.13)


# -- bytes that are no message --------------------------------------------------------------

ODD_LINES = [
    b"[" * 4000,
    b'{"a":' * 700,
    b'{"version":' + b"9" * 3000 + b"}",
    b'{"version":1e400}',
    b'{"version":NaN}',
    b'{"version":3,"revision":1,"msg_type":"init","sequence":' + b"1" * 100 + b"}",
    b'{"version":3,"revision":1,"msg_type":"\\ud800","sequence":1}',
    b'{"version":3,"revision":1,"msg_type":"' + b"x" * 3000 + b'","sequence":1}',
    b"\xff\xfe\x00",
    b"\x00" * 100,
    b"null",
    b'"text"',
    b"{}",
    encode(INIT, 1).strip().replace(b"1000", b"-1e9"),
    encode(INIT, 1).strip().replace(b"1000", b"4294967296"),
    encode(ANSWER, 1).strip().replace(b"ill", b"\xff\\u"),
]


@pytest.mark.parametrize("odd", ODD_LINES)
async def test_an_odd_line_is_nacked_at_worst(odd: bytes, world: HostWorld) -> None:
    guest = await world.heartbeating()
    guest.peer.send_bytes(b"\n" + odd + b"\n")
    await world.settle()
    nacks = [message for message in guest.messages if isinstance(message, Nack)]
    assert len(nacks) == world.channel(guest).link.faulty <= 1
    assert all(len(nack.log_msg.encode()) <= 223 for nack in nacks)
    await world.at(5.5)
    assert world.channel(guest).heartbeat.missed == 0


async def test_a_line_of_any_length_takes_4096_bytes_and_is_skipped(
    world: HostWorld, caplog: pytest.LogCaptureFixture
) -> None:
    guest = world.guest()
    guest.sends_init = False
    guest.appear()
    await world.settle()
    channel = world.channel(guest)
    for _ in range(300):
        guest.peer.send_bytes(b"x" * 4096)
        await world.sleep(0.5)
        assert held_bytes(channel) <= 4096
    # One on each connection: in 150 s the host has connected again for once.
    assert [line for line in caplog.messages if "a line of" in line] == [
        f"{guest.uuid}: a line of more than 4096 bytes was dropped"
    ] * 2
    assert channel.link.faulty == 2
    guest.peer.send_bytes(b"the end of it\n")
    guest.send_init()
    await world.sleep(1)
    assert guest.messages[0] == InitAck(FIRST_ID, OFFERED)
    assert channel.heartbeating


async def test_what_legacy_loses(world: HostWorld) -> None:
    # Fifteen messages in one write, and a log_msg of 1200 bytes.
    guest = await world.heartbeating()
    guest.reply = stay_silent
    await world.at(1.5)
    current = world.vote(guest)
    answer = msgspec.structs.replace(ACTION, invocation_id=current.invocation_id)
    reject = encode(answer, 15).replace(b'"no"', b'"%s"' % (b"n" * 1200))
    guest.peer.send_bytes(encode(ANSWER, 1) * 14 + reject)
    await world.settle()
    assert world.reports(since=1.5) == [(1.5, "vote", "stop", "reject", "n" * 1200)]
    assert world.channel(guest).link.faulty == 0


@settings(max_examples=40, deadline=None)
@given(st.lists(st.binary(max_size=400) | st.sampled_from([*ODD_LINES, *FLOODS.values()])))
def test_no_bytes_harm_the_host(pieces: list[bytes]) -> None:
    async def main() -> None:
        async with host_world() as world:
            guest, neighbour = await world.all_heartbeating(2)
            for piece in pieces:
                guest.peer.write(piece)
                await world.sleep(0.3)
            assert world.channel(neighbour).heartbeat.missed == 0

    trio.run(main, clock=MockClock(autojump_threshold=0))


# -- a guest that comes and goes ------------------------------------------------------------


async def test_what_is_read_after_its_socket_was_replaced_is_dropped(world: HostWorld) -> None:
    guest = await world.heartbeating()
    channel = world.channel(guest)
    guest.send_init()
    channel.remove("its socket was removed")
    # As its reader does that was woken up just before, or a window that looks once more.
    channel.take_in()
    await world.settle()
    assert guest.peer.to_host.held == 0
    assert channel.gone
    assert world.host.supervisor.crashes == 0


async def test_a_guest_that_always_hangs_up_is_named(
    world: HostWorld, caplog: pytest.LogCaptureFixture
) -> None:
    guest = world.guest()
    guest.appear()
    world.dialer.listen(guest.path, MemoryPeer.close)
    await world.sleep(300)
    line = (
        f"{guest.uuid}: {guest.path}: the connection ended before a first heartbeat: "
        "closed by the peer; retrying"
    )
    assert [text for text in caplog.messages if "ended before" in text] == [line]
    # It behaves for a while, so it is named again.
    world.dialer.listen(guest.path, guest.connected)
    await world.sleep(70)
    assert world.channel(guest).heartbeating
    world.dialer.listen(guest.path, MemoryPeer.close)
    guest.peer.close()
    await world.sleep(5)
    assert [text for text in caplog.messages if "ended before" in text] == [line, line]


# -- a guest that does not read -------------------------------------------------------------


def all_decoded(data: bytes) -> list[int]:
    """The sequence numbers of whole, well-framed messages; anything else fails."""
    lines = LineReader().feed(data)
    for line in lines:
        decode(line)
    return [json.loads(line)["sequence"] for line in lines]


async def test_a_guest_that_never_reads_holds_a_bounded_backlog(world: HostWorld) -> None:
    neighbour = await world.heartbeating()
    guest = await world.heartbeating()
    guest.peer.reading = False
    guest.peer.to_guest.capacity = 1000
    for _ in range(60):
        guest.peer.write(encode(ACTION, 1) * 40)
        await world.sleep(0.5)
    assert neighbour.challenged_at()[-1] == 31.0
    # It begins to read: what was cut off continues, and no message is in pieces.
    first = guest.peer.read()
    assert len(first) == 1000
    rest = b""
    await world.settle()
    while piece := guest.peer.read():
        rest += piece
        await world.settle()
    assert 16000 < len(rest) <= BACKLOG_BYTES
    numbers = all_decoded(first + rest)
    # What did not fit was dropped whole; what is sent now gets through.
    assert numbers == sorted(set(numbers))
    assert numbers[-1] - numbers[0] >= len(numbers)
    guest.peer.reading = True
    await world.sleep(10)
    guest.send_init()
    await world.sleep(1)
    assert world.channel(guest).heartbeating


@pytest.mark.parametrize("capacity", [1, 7, 90])
async def test_sent_in_part_it_is_completed(capacity: int, world: HostWorld) -> None:
    guest = world.guest()

    def connected(peer: MemoryPeer) -> None:
        peer.to_guest.capacity = capacity
        guest.connected(peer)

    guest.appear()
    world.dialer.listen(guest.path, connected)
    await world.at(4.5)
    world.vote(guest)
    await world.at(6.5)
    assert guest.challenged_at() == [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
    assert [heard.sequence for heard in guest.received] == list(range(1, 9))
    assert world.reports(since=2) == [(4.5, "vote", "stop", "accept", "")]


async def test_a_reader_that_comes_late_gets_everything_in_order(world: HostWorld) -> None:
    guest = world.guest()
    guest.reads = False
    guest.appear()
    await world.settle()
    guest.peer.to_guest.capacity = 100
    await world.at(1.9)
    data = b""
    for _ in range(20):
        data += guest.peer.read()
        await world.settle()
    assert all_decoded(data) == [1, 2]


async def test_a_reject_with_the_end_is_heard_though_nothing_can_be_sent(world: HostWorld) -> None:
    # The task that sends the rest finds the end before the reader does, or after it.
    guests = await world.all_heartbeating(60)
    await world.at(1.5)
    for guest in guests:
        guest.reply = stay_silent
        world.vote(guest)
        guest.peer.reading = False
        guest.peer.to_guest.capacity = 1
    await world.at(2.5)
    for guest in guests:
        guest.answer_vote(guest.asked, Reply(VoteResult.REJECT, "busy"))
        guest.peer.close()
    await world.settle()
    votes = [told for told in world.reports() if told[1] == "vote"]
    assert votes == [(2.5, "vote", "stop", "reject", "busy")] * 60


# -- any order ------------------------------------------------------------------------------

Step = Callable[[HostWorld, ScriptedGuest], None]


def _if_open(say: Callable[[ScriptedGuest], None]) -> Step:
    def step(_: HostWorld, guest: ScriptedGuest) -> None:
        if guest.connections and not guest.peer.closed and not guest.peer.host_closed:
            say(guest)

    return step


def _if_known(do: Callable[[Channel], None]) -> Step:
    def step(world: HostWorld, guest: ScriptedGuest) -> None:
        if guest.uuid in world.host.channels:
            do(world.channel(guest))

    return step


def _asks(ask: Callable[[HostWorld, ScriptedGuest, Event], object], event: Event) -> Step:
    def step(world: HostWorld, guest: ScriptedGuest) -> None:
        with suppress(NotHeartbeating, RoundOpen, UnknownInstance):
            ask(world, guest, event)

    return step


def _goes(world: HostWorld, guest: ScriptedGuest) -> None:
    if guest.name in world.directory.names:
        guest.vanish()


def _comes(_: HostWorld, guest: ScriptedGuest) -> None:
    guest.appear()


def _set(name: str, value: object) -> Step:
    return lambda _, guest: setattr(guest, name, value)


STEPS: list[Step] = [
    _if_open(lambda guest: guest.send_init()),
    _if_open(lambda guest: guest.send_init(heartbeat_interval_ms=400, restart_secs=3)),
    _if_open(lambda guest: guest.answer_challenge(1)),
    _if_open(lambda guest: guest.send_exit()),
    _if_open(lambda guest: guest.peer.close()),
    _if_open(lambda guest: guest.peer.reset()),
    _if_open(lambda guest: guest.peer.send_bytes(b"{")),
    _set("answers_after_s", 0.0),
    _set("answers_after_s", 0.5),
    _set("answers_after_s", None),
    _set("reply", stay_silent),
    _set("reply", lambda _: Reply(VoteResult.REJECT, "no", after_s=0.7)),
    _set("health", Health.UNHEALTHY),
    _goes,
    _comes,
    _if_known(lambda channel: channel.outages.restarts("acted")),
    _if_known(lambda channel: channel.outages.stops("acted")),
    _if_known(lambda channel: channel.outages.call_off("acted", "failed")),
    *(_asks(HostWorld.vote, event) for event in (Event.STOP, Event.PAUSE)),
    *(_asks(HostWorld.notice, event) for event in Event if event is not Event.UNKNOWN),
]


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from(STEPS), st.sampled_from([0.0, 0.02, 0.3, 1.0, 4.0, 15.0])),
        max_size=30,
    ),
    st.booleans(),
)
def test_in_whatever_order_things_happen(steps: list[tuple[Step, float]], freezes: bool) -> None:
    clock = MockClock(autojump_threshold=0)

    async def main() -> None:
        async with host_world() as world:
            guest = await world.heartbeating(restart_secs=5)
            for step, pause_s in steps:
                step(world, guest)
                if freezes and pause_s == 4.0:
                    clock.jump(pause_s)
                else:
                    await world.sleep(pause_s)
                # Without a socket it is waited for, or it is not there.
                for channel in world.host.channels.values():
                    assert not channel.dialling.absent or channel.restart.window is not None
            # As many beat as are counted, and whoever appears and answers beats again.
            assert world.host.heartbeating == sum(
                c.heartbeating for c in world.host.channels.values()
            )
            guest.answers_after_s, guest.sends_init, guest.reply = 0.0, True, stay_silent
            if guest.name not in world.directory.names:
                guest.appear()
            await world.sleep(20)
            assert world.host.heartbeating <= 1
        verdicts = [told for told in world.reports() if told[1] in ("vote", "notice")]
        assert len(verdicts) == len(world.rounds)
        for current, (_, _, event, result, why) in zip(world.rounds, verdicts, strict=True):
            assert current.outcome is not None
            outcome = (str(current.event), str(current.outcome.result), current.outcome.reason)
            assert outcome == (event, result, why)

    trio.run(main, clock=clock)
