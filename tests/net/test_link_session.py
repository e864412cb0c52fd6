"""A session of the link on the fake clock, its other end by hand: framing, signs of life, ends."""

from __future__ import annotations

import json
import math
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
import trio
from trio.testing import (
    MemorySendStream,
    MockClock,
    memory_stream_one_way_pair,
    wait_all_tasks_blocked,
)

from hbtrio.net.link_session import PING_S, SILENT_S, LinkSession, SessionEnded
from hbtrio.net.link_turns import Turns
from hbtrio.nursery.time_guard import sleep_on_time
from hbtrio.policy.time_guard import OnTimeGuard
from hbtrio.wire.link_codec import MAX_LINK_LINE, LinkError, decode_from_host
from hbtrio.wire.link_messages import Ack, FromHost, Gone, LinkReport, Pong

pytestmark = pytest.mark.usefixtures("autojump_clock")


class Narrow(trio.abc.SendStream):
    """Takes nothing while it is shut, as a socket whose reader does not read; and may break."""

    def __init__(self) -> None:
        self.taken = MemorySendStream()
        self.writes = 0
        self.broken = False
        self.open = trio.Event()
        self.open.set()

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        self.writes += 1
        await self.open.wait()
        if self.broken:
            raise trio.BrokenResourceError
        await self.taken.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self.open.wait()

    async def aclose(self) -> None:
        await self.taken.aclose()


class Peer:
    """The session and its other end."""

    def __init__(self, farewell: str = "", turns: Turns | None = None) -> None:
        self.to_session, from_peer = memory_stream_one_way_pair()
        self.narrow = Narrow()
        stream = trio.StapledStream(self.narrow, from_peer)
        self.session: LinkSession[FromHost] = LinkSession(
            stream,
            decode_from_host,
            sleep=sleep_on_time(OnTimeGuard(math.inf)),
            farewell=farewell,
            clock=lambda: 1000 + trio.current_time(),
            turns=turns,
        )
        self.handled: list[FromHost] = []
        self.handle: Callable[[FromHost], Awaitable[None]] = self._keep
        self.ended: tuple[float, str] | None = None

    async def _keep(self, message: FromHost) -> None:
        self.handled.append(message)

    async def run(self) -> None:
        async def handle(message: FromHost) -> None:
            await self.handle(message)

        why = await self.session.run(handle)
        self.ended = (trio.current_time(), why)

    async def send(self, *pieces: bytes) -> None:
        """The other end writes these pieces, each in a read of its own."""
        for piece in pieces:
            await self.to_session.send_all(piece)
            await wait_all_tasks_blocked()

    def received(self) -> list[dict[str, Any]]:
        """What the session has sent since the last time."""
        try:
            data = bytes(self.narrow.taken.get_data_nowait())
        except trio.WouldBlock:
            return []
        if not data:
            return []  # it is closed
        assert data.endswith(b"\n")
        return [json.loads(line) for line in data.splitlines()]


@asynccontextmanager
async def peer(turns: Turns | None = None) -> AsyncIterator[Peer]:
    one = Peer(turns=turns)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(one.run)
        await wait_all_tasks_blocked()
        yield one
        nursery.cancel_scope.cancel()


def gone(uuid: str) -> bytes:
    return json.dumps({"type": "gone", "uuid": uuid, "reason": ""}).encode() + b"\n"


def answers(sent: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What was sent, but for the signs of life that were asked for."""
    return [one for one in sent if one["type"] != "ping"]


# -- framing -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "pieces",
    [
        [gone("a") + gone("b")],
        [gone("a"), gone("b")],
        [b"\n\n" + gone("a")[:5], gone("a")[5:] + b"\n" + gone("b")[:-1], b"\n"],
        [gone("a")[i : i + 1] for i in range(len(gone("a")))] + [gone("b")],
    ],
)
async def test_messages_however_they_are_cut(pieces: list[bytes]) -> None:
    async with peer() as one:
        await one.send(*pieces)
        assert one.handled == [Gone("a", ""), Gone("b", "")]
        assert one.ended is None


async def test_it_says_whether_something_that_has_arrived_is_still_being_handled() -> None:
    """A window waits for it before its deadline decides."""
    async with peer() as one:
        seen: list[bool] = []

        async def slowly(message: FromHost) -> None:
            await trio.sleep(1)
            seen.append(one.session.reading)
            if message == Gone("c", ""):
                raise LinkError("no")

        one.handle = slowly
        assert not one.session.reading
        await one.send(gone("a") + gone("b"))
        assert one.session.reading
        await trio.sleep(2.5)
        assert seen == [True, True]
        assert not one.session.reading
        await one.send(gone("c"))
        await trio.sleep(2.5)
        assert one.ended is not None
        assert one.session.reading, "its owner has to handle the end"


async def test_messages_are_handled_one_after_the_other() -> None:
    async with peer() as one:
        begun: list[FromHost] = []
        resume = trio.Event()

        async def slowly(message: FromHost) -> None:
            begun.append(message)
            await resume.wait()

        one.handle = slowly
        await one.send(gone("a") + gone("b"))
        assert begun == [Gone("a", "")]
        resume.set()
        await wait_all_tasks_blocked()
        assert begun == [Gone("a", ""), Gone("b", "")]


async def test_a_flood_of_messages_leaves_others_their_turn() -> None:
    async with peer() as one:
        each_turn = []
        at_once = 1000 * gone("a")
        await one.to_session.send_all(at_once)
        while len(one.handled) < 1000:
            before = len(one.handled)
            await trio.lowlevel.checkpoint()
            each_turn.append(len(one.handled) - before)
        # Its turn may come at the end of one pass and at the start of the next.
        assert max(each_turn) <= 2 * 32


async def test_floods_of_many_peers_leave_others_their_turn() -> None:
    """A thousand hosts that send their snapshots at once: a pass handles a part of one of them."""
    turns = Turns()
    async with AsyncExitStack() as stack:
        floods = [await stack.enter_async_context(peer(turns)) for _ in range(50)]
        other = await stack.enter_async_context(peer(turns))
        for one in floods:
            await one.to_session.send_all(100 * gone("a"))

        def handled() -> int:
            return sum(len(one.handled) for one in floods)

        while handled() < 50 * 8:
            await trio.lowlevel.checkpoint()
        each_turn = []
        await other.to_session.send_all(8 * gone("b"))
        while not other.handled:
            before = handled()
            await trio.lowlevel.checkpoint()
            each_turn.append(handled() - before)
        assert len(each_turn) <= 3
        assert len(other.handled) == 8
        while handled() < 50 * 100:
            before = handled()
            await trio.lowlevel.checkpoint()
            each_turn.append(handled() - before)
        # Two turns may end in one pass as this task sees it.
        assert max(each_turn) <= 2 * 32


async def test_messages_that_are_sent_together_are_written_at_once() -> None:
    async with peer() as one:
        await one.session.send(*(Pong(number, 0.0) for number in range(40)))
        await wait_all_tasks_blocked()
        assert [line["number"] for line in answers(one.received())] == list(range(40))
        assert one.narrow.writes == 1


async def test_the_longest_line_and_one_byte_more() -> None:
    report = {"type": "report", "number": 1, "time": "", "kind": "loss", "uuid": "a", "reason": ""}
    line = json.dumps(report).encode()
    padded = line[:-1] + b" " * (MAX_LINK_LINE - len(line)) + b"}"
    assert len(padded) == MAX_LINK_LINE
    async with peer() as one:
        await one.send(padded + b"\n")
        assert one.handled == [LinkReport(1, "", "loss", "a", "")]
        await one.send(padded[:-1] + b" }")
        assert one.ended == (0.0, "a line longer than 16384 bytes")
        assert one.received() == [{"type": "goodbye", "reason": "a line longer than 16384 bytes"}]


async def test_a_peer_that_never_ends_its_line_costs_no_more_than_one_line() -> None:
    async with peer() as one:
        await one.send(b"x" * 10_000)
        assert one.ended is None
        await one.send(b"x" * 10_000)
        assert one.ended is not None


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (b"{}\n", "unusable message: Object missing required field `type`"),
        (b'{"type":"welcome"}\n', "unusable message: unknown type 'welcome'"),
        (b"\x00\xff\n", "unusable message: JSON is malformed: invalid character (byte 0)"),
        (
            b'{"type":"ping","number":-1}\n',
            "unusable message: Expected `int` >= 0 - at `$.number`",
        ),
    ],
)
async def test_what_is_no_message_ends_the_session_and_is_told(line: bytes, why: str) -> None:
    async with peer() as one:
        await one.send(gone("a") + line + gone("b"))
        assert one.handled == [Gone("a", "")]
        assert one.ended == (0.0, why)
        assert one.received() == [{"type": "goodbye", "reason": why}]


async def test_what_its_handler_refuses_ends_the_session_and_is_told() -> None:
    async with peer() as one:

        async def refuse(_: FromHost) -> None:
            await one.session.send(Ack(7))
            raise LinkError("not like that")

        one.handle = refuse
        await one.send(gone("a"))
        why = "unusable message: not like that"
        assert one.ended == (0.0, why)
        # What was said before the goodbye is not lost with it.
        assert one.received() == [
            {"type": "ack", "number": 7},
            {"type": "goodbye", "reason": why},
        ]


async def test_a_goodbye_waits_a_second_for_a_peer_that_does_not_read() -> None:
    async with peer() as one:
        one.narrow.open = trio.Event()
        await one.send(b"?\n")
        assert one.ended is None
        await trio.sleep(1.01)
        assert one.ended is not None
        assert one.ended[0] == 1.0


# -- ends --------------------------------------------------------------------------------------


async def test_closed_by_the_other_end() -> None:
    async with peer() as one:
        one.to_session.close()
        await wait_all_tasks_blocked()
        assert one.ended == (0.0, "closed by the other end")
        with pytest.raises(trio.ClosedResourceError):
            await one.session._stream.send_all(b"x")
        with pytest.raises(SessionEnded):
            await one.session.send(Ack(1))


async def test_the_other_end_says_goodbye() -> None:
    async with peer() as one:
        await one.send(b'{"type":"goodbye","reason":"replaced"}\n' + gone("a"))
        assert one.ended == (0.0, "the other end said goodbye: replaced")
        assert one.handled == []


async def test_a_connection_that_breaks_while_it_is_written_to() -> None:
    async with peer() as one:
        one.narrow.broken = True
        await one.session.send(Ack(1))
        await wait_all_tasks_blocked()
        assert one.ended is not None
        assert one.ended[1].startswith("the connection failed")


async def test_cancelled_it_closes_the_connection() -> None:
    async with peer() as one:
        pass
    assert one.ended is None
    with pytest.raises(trio.ClosedResourceError):
        await one.session._stream.receive_some(1)


# -- signs of life -----------------------------------------------------------------------------


async def test_a_ping_is_answered_with_its_number_and_the_clock() -> None:
    async with peer() as one:
        await one.send(b'{"type":"ping","number":41}\n{"type":"ping","number":42}\n')
        assert one.received() == [
            {"type": "pong", "number": 41, "clock_s": 1000},
            {"type": "pong", "number": 42, "clock_s": 1000},
        ]
        assert one.handled == []


async def test_a_pong_says_what_the_peers_clock_is() -> None:
    async with peer() as one:
        await one.send(b'{"type":"pong","number":1}\n')
        assert not one.session.peer_clock.is_known
        await one.send(b'{"type":"pong","number":2,"clock_s":500.5}\n')
        now = one.session.clock()
        assert one.session.peer_clock.at(now, now) == 500.5


async def test_a_silent_peer_is_asked_and_then_given_up() -> None:
    async with peer() as one:
        await trio.sleep(SILENT_S - 0.001)
        assert one.ended is None
        assert one.received() == [{"type": "ping", "number": n} for n in (1, 2)]
        await trio.sleep(0.002)
        assert one.ended == (SILENT_S, "nothing heard for 15 s")


@pytest.mark.parametrize("sign", [b'{"type":"pong","number":1}\n', b"\n", gone("a")])
async def test_any_byte_is_a_sign_of_life(sign: bytes) -> None:
    async with peer() as one:
        for _ in range(10):
            await trio.sleep(SILENT_S - 1)
            await one.send(sign)
        assert one.ended is None
        await trio.sleep(SILENT_S + PING_S)
        assert one.ended is not None


async def test_silence_is_noticed_though_nothing_can_be_written() -> None:
    async with peer() as one:
        one.narrow.open = trio.Event()
        await trio.sleep(SILENT_S + 2 * PING_S + 0.001)
        assert one.ended is not None
        assert SILENT_S <= one.ended[0] <= SILENT_S + 2 * PING_S


async def test_an_end_that_was_stopped_listens_before_it_gives_the_peer_up(
    autojump_clock: MockClock,
) -> None:
    """However long it was stopped, that is one interval of silence."""
    async with peer() as one:
        await trio.sleep(PING_S - 1)
        for _ in range(2):
            autojump_clock.jump(20 * SILENT_S)
            await trio.sleep(PING_S)
        assert one.ended is None
        began = trio.current_time()
        await one.send(b"\n")
        await trio.sleep(SILENT_S + PING_S)
        assert one.ended is not None
        assert SILENT_S <= one.ended[0] - began <= SILENT_S + PING_S


async def test_an_end_that_is_busy_with_what_it_has_read_hears_no_silence() -> None:
    """The peer's next signs of life wait in the socket meanwhile."""
    async with peer() as one:
        resume = trio.Event()

        async def wait(_: FromHost) -> None:
            await resume.wait()

        one.handle = wait
        await one.send(gone("a"))
        await trio.sleep(10 * SILENT_S)
        assert one.ended is None
        resume.set()
        await trio.sleep(SILENT_S + 2 * PING_S)
        assert one.ended is not None


# -- a peer that does not read -----------------------------------------------------------------


async def test_whoever_sends_waits_for_a_peer_that_does_not_read() -> None:
    async with peer() as one:
        one.narrow.open = trio.Event()
        sent = 0

        async def send_many() -> None:
            nonlocal sent
            for number in range(1000):
                await one.session.send(Ack(number))
                sent += 1

        async with trio.open_nursery() as nursery:
            nursery.start_soon(send_many)
            await wait_all_tasks_blocked()
            assert 64 <= sent <= 66
            one.narrow.open.set()
        await wait_all_tasks_blocked()
        assert answers(one.received()) == [{"type": "ack", "number": n} for n in range(1000)]


async def test_whoever_waits_to_send_is_let_go_at_the_end() -> None:
    async with peer() as one:
        one.narrow.open = trio.Event()
        let_go: list[int] = []

        async def send_many() -> None:
            for number in range(1000):
                try:
                    await one.session.send(Ack(number))
                except SessionEnded:
                    let_go.append(number)
                    return

        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(send_many)
            await wait_all_tasks_blocked()
            one.to_session.close()
        assert len(let_go) == 3


async def test_two_ends_that_both_send_more_than_either_reads_do_not_stand_still() -> None:
    """Each end's reader must go on although its own queue is full and it owes a pong."""
    async with peer() as one:
        one.narrow.open = trio.Event()
        async with trio.open_nursery() as nursery:
            for number in range(70):
                nursery.start_soon(one.session.send, Ack(number))
            await wait_all_tasks_blocked()
            # The queue is full; the peer asks for a sign of life, and says something else.
            await one.send(b'{"type":"ping","number":1}\n' + gone("a"))
            assert one.handled == [Gone("a", "")]
            one.narrow.open.set()
        await wait_all_tasks_blocked()
        assert len(answers(one.received())) == 70


# -- farewells ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("farewell", "heard"),
    [("", []), ("stopping", [{"type": "goodbye", "reason": "stopping"}])],
)
async def test_a_session_that_is_cancelled_takes_its_leave(
    farewell: str, heard: list[dict[str, Any]]
) -> None:
    one = Peer(farewell)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(one.run)
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert one.received() == heard
    assert one.ended is None


async def test_a_session_that_ends_otherwise_does_not() -> None:
    one = Peer("stopping")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(one.run)
        await one.to_session.aclose()
    assert one.ended == (0.0, "closed by the other end")
    assert one.received() == []


async def test_no_farewell_in_the_middle_of_a_message() -> None:
    one = Peer("stopping")
    one.narrow.open = trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(one.run)
        nursery.start_soon(one.session.send, Ack(1))
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    one.narrow.open.set()
    assert one.received() == []
    assert trio.current_time() == 0.0


async def test_a_farewell_that_nobody_reads_is_bounded() -> None:
    one = Peer("stopping")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(one.run)
        await wait_all_tasks_blocked()
        one.narrow.open = trio.Event()
        nursery.cancel_scope.cancel()
    assert trio.current_time() == 1.0


async def test_the_other_ends_reason_is_remembered() -> None:
    async with peer() as one:
        assert one.session.goodbye == ""
        await one.send(b'{"type":"goodbye","reason":"stopping"}\n')
        assert one.session.goodbye == "stopping"
        assert one.ended == (0.0, "the other end said goodbye: stopping")
