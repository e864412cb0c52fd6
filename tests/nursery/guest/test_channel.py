"""The guest and its channel: opening it again, a host that goes, comes back, or does not read."""

from __future__ import annotations

import logging
from itertools import pairwise
from pathlib import Path

import msgspec
import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

from hbtrio.fsm.guest_session import SessionSettings
from hbtrio.fsm.guest_session_table import SessionState
from hbtrio.nursery.guest.channel import READS_PER_S
from hbtrio.nursery.guest.daemon import Guest
from hbtrio.nursery.guest.device import ChannelStream, DeviceFault
from hbtrio.nursery.guest.outbox import QUEUE
from hbtrio.wire.channel_messages import (
    ActionNotify,
    Challenge,
    ChallengeResponse,
    Exit,
    InitAck,
    Message,
    Nack,
)
from hbtrio.wire.lines import MAX_LINE_BYTES
from hbtrio.wire.vocabulary import CorrectiveAction, Event, Health, VoteResult
from support.fake_processes import HANGS, FakeRun
from support.guest_world import (
    REVOCABLE,
    SETTINGS,
    STOP_VOTE,
    GuestWorld,
    handlers,
    response,
    said,
    when,
)
from support.memory_device import MemoryDevice

pytestmark = pytest.mark.usefixtures("autojump_clock")

ENABLING, ENABLED, DISABLED = SessionState.ENABLING, SessionState.ENABLED, SessionState.DISABLED

#: With the challenge timeout as shipped, 5 s.
SHIPPED = SessionSettings(name="vm1")

#: Attempts to open one that is missing: after 1, 2, 3, 3, ... seconds each.
LOOKS = [0.0, 1.0, 3.0, 6.0, 9.0, 12.0, 15.0, 18.0]

#: Attempts to open a channel that is refused: after 1, 2, 4, ... 60 seconds each.
ATTEMPTS = [0.0, 1.0, 3.0, 7.0, 15.0, 31.0, 63.0, 123.0, 183.0]


def beat(number: int) -> ChallengeResponse:
    return ChallengeResponse(number, Health.HEALTHY, CorrectiveAction.REBOOT, "")


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [text for name, level, text in caplog.record_tuples if level >= logging.WARNING]


# -- opening it again -----------------------------------------------------------------------------


async def test_a_channel_that_is_refused_is_tried_again_ever_more_rarely(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with trio.open_nursery() as nursery:
        bench = GuestWorld()
        bench.device.refuse("connection refused")
        nursery.start_soon(bench.run)
        await trio.sleep_until(0.5)
        assert bench.guest.session.state is DISABLED
        await trio.sleep_until(200)
        nursery.cancel_scope.cancel()
    assert bench.device.opened == ATTEMPTS
    assert bench.device.received == []
    # Said once, not at each attempt.
    assert warnings(caplog) == ["channel can't be opened: connection refused; retrying"]


@pytest.mark.parametrize(("allowed_at", "opened_at"), [(6.999, 7.0), (7.001, 15.0), (40, 63.0)])
async def test_the_attempt_after_it_can_be_opened_succeeds(
    allowed_at: float,
    opened_at: float,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    async with trio.open_nursery() as nursery:
        bench = GuestWorld()
        bench.device.refuse()
        nursery.start_soon(bench.run)
        await trio.sleep_until(allowed_at)
        bench.device.allow()
        heard = await bench.device.next()
        nursery.cancel_scope.cancel()
    # The channel was down before: the session is released by its coming up.
    assert said([heard]) == [(opened_at, SETTINGS.init(101))]
    assert "channel is open again" in caplog.messages


@pytest.mark.parametrize("came_at", [5.0, 16.0, 3601.0])
async def test_a_device_that_comes_late_is_found_within_seconds(
    came_at: float, caplog: pytest.LogCaptureFixture
) -> None:
    """A minute of silence after a port was plugged in would be one more loss."""
    async with trio.open_nursery() as nursery:
        bench = GuestWorld()
        bench.device.remove()
        nursery.start_soon(bench.run)
        await trio.sleep_until(came_at)
        bench.device.allow()
        heard = await bench.device.next()
        nursery.cancel_scope.cancel()
    assert said([heard]) == [(bench.device.opened[-1], SETTINGS.init(101))]
    assert came_at < heard.at_s <= came_at + 3
    assert bench.device.opened[:8] == LOOKS[: len(bench.device.opened)]
    assert warnings(caplog) == [
        "channel can't be opened: no such file or directory; retrying",
    ]


async def test_a_device_that_was_missing_is_not_hammered_when_it_can_not_be_opened() -> None:
    async with trio.open_nursery() as nursery:
        bench = GuestWorld()
        bench.device.remove()
        nursery.start_soon(bench.run)
        await trio.sleep_until(8)
        bench.device.refuse("permission denied")
        await trio.sleep_until(150)
        nursery.cancel_scope.cancel()
    assert bench.device.opened == [0.0, 1.0, 3.0, 6.0, 9.0, 15.0, 27.0, 51.0, 99.0]


async def test_each_new_reason_of_a_refusal_is_said(caplog: pytest.LogCaptureFixture) -> None:
    async with trio.open_nursery() as nursery:
        bench = GuestWorld()
        bench.device.refuse("no such file or directory")
        nursery.start_soon(bench.run)
        await trio.sleep_until(2)
        bench.device.refuse("connection refused")
        await trio.sleep_until(20)
        nursery.cancel_scope.cancel()
    assert warnings(caplog) == [
        "channel can't be opened: no such file or directory; retrying",
        "channel can't be opened: connection refused; retrying",
    ]


async def test_the_delays_start_over_once_a_host_was_heard() -> None:
    async with trio.open_nursery() as nursery:
        bench = GuestWorld()
        bench.device.refuse()
        nursery.start_soon(bench.run)
        await trio.sleep_until(14)
        bench.device.allow()
        await trio.sleep_until(20)
        bench.device.send(InitAck(101))
        await bench.settle()
        assert bench.guest.session.state is ENABLED
        bench.device.refuse()
        bench.device.disconnect()
        await trio.sleep_until(40)
        nursery.cancel_scope.cancel()
    assert bench.device.opened == [0.0, 1.0, 3.0, 7.0, 15.0, 21.0, 23.0, 27.0, 35.0]
    assert bench.device.closed == [20.0]


async def test_a_host_that_hangs_up_at_once_is_not_hammered() -> None:
    """A socket whose owner accepts and closes is opened each time; nothing is heard on it."""
    async with trio.open_nursery() as nursery:
        bench = GuestWorld()

        async def hang_up() -> None:
            seen = 0
            while True:
                if len(bench.device.opened) > seen:
                    seen = len(bench.device.opened)
                    bench.device.disconnect()
                await trio.sleep(0.1)

        nursery.start_soon(bench.run)
        nursery.start_soon(hang_up)
        await trio.sleep_until(100)
        nursery.cancel_scope.cancel()
    gaps = [after - before for before, after in pairwise(bench.device.opened)]
    assert [round(gap) for gap in gaps] == [1, 2, 4, 8, 16, 32]


async def test_backoff_cancelled_by_shutdown() -> None:
    async with trio.open_nursery() as nursery:
        bench = GuestWorld()
        bench.device.refuse()
        nursery.start_soon(bench.run)
        await trio.sleep_until(5)
        bench.guest.stop()
    assert bench.ended_at == 5.0
    assert bench.device.opened == [0.0, 1.0, 3.0]


async def test_backoff_of_a_late_process_is_one_attempt(autojump_clock: MockClock) -> None:
    async with trio.open_nursery() as nursery:
        bench = GuestWorld()
        bench.device.refuse()
        nursery.start_soon(bench.run)
        await trio.sleep_until(5)
        autojump_clock.jump(60)
        await trio.sleep_until(100)
        nursery.cancel_scope.cancel()
    assert bench.device.opened == [0.0, 1.0, 3.0, 65.0, 73.0, 89.0]


# -- a connection that ends, as a unix socket's does ----------------------------------------------


@pytest.mark.parametrize("how", ["disconnect", "break_off"])
async def test_after_a_connection_ended_there_is_a_new_handshake(how: str) -> None:
    async with trio.open_nursery() as nursery:
        bench = GuestWorld()
        await bench.enable(nursery)
        await trio.sleep_until(2.0)
        if how == "disconnect":
            bench.device.disconnect()
        else:
            bench.device.fail("connection reset")
        await bench.settle()
        assert bench.guest.session.state is DISABLED
        await trio.sleep_until(3.5)
        assert bench.guest.session.state is ENABLING
        bench.device.send(InitAck(102), Challenge(7))
        await trio.sleep_until(4)
        nursery.cancel_scope.cancel()
    heard = bench.device.unread()
    assert said(heard) == [(3.0, SETTINGS.init(102)), (3.5, beat(7))]
    # A connection counts its own messages.
    assert [one.sequence for one in heard] == [1, 2]
    assert (bench.device.opened, bench.device.closed) == ([0.0, 3.0], [2.0, 4.0])


async def test_an_acknowledgement_of_another_connection_still_counts() -> None:
    """Ids are ours: what a host kept for us over a reconnect is its answer to the last but one."""
    async with trio.open_nursery() as nursery:
        bench = GuestWorld()
        nursery.start_soon(bench.run)
        await trio.sleep_until(2.0)
        bench.device.disconnect()
        await trio.sleep_until(3.5)
        bench.device.send(InitAck(101))
        await bench.settle()
        assert bench.guest.session.state is ENABLED
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("persistent", [False, True])
async def test_a_channel_that_goes_down_in_a_vote_ends_it_unanswered(
    persistent: bool, tmp_path: Path
) -> None:
    async with trio.open_nursery() as nursery:
        bench = GuestWorld(
            processes=handlers(tmp_path, {"a": HANGS, "b": HANGS}),
            events=tmp_path,
            device=MemoryDevice(persistent=persistent),
        )
        await bench.enable(nursery)
        await trio.sleep_until(2.0)
        bench.device.send(STOP_VOTE)
        await trio.sleep_until(3.0)
        bench.device.disconnect()
        await bench.settle()
        assert sorted(when(bench.processes.cancelled)) == [(3.0, "a"), (3.0, "b")]
        bench.device.connect()
        await trio.sleep_until(60)
        nursery.cancel_scope.cancel()
    # The next host gets an init, and no answer to a vote that it did not open.
    heard = [one.message for one in bench.device.unread()]
    assert heard
    assert all(message.TYPE == "init" for message in heard)


@pytest.mark.parametrize("persistent", [False, True])
async def test_a_message_that_is_lost_ends_a_connection_but_not_a_port(persistent: bool) -> None:
    """A port's host may be back already without an end of data seen; a socket is broken."""
    async with trio.open_nursery() as nursery:
        bench = GuestWorld(device=MemoryDevice(persistent=persistent))
        await bench.enable(nursery)
        await trio.sleep_until(2.0)
        bench.device.lose_next()
        bench.device.send(Challenge(1))
        await bench.settle()
        assert bench.guest.session.state is (ENABLED if persistent else DISABLED)
        await trio.sleep_until(4.0)
        bench.device.send(*([] if persistent else [InitAck(102)]), Challenge(2))
        await bench.settle()
        nursery.cancel_scope.cancel()
    inits = [] if persistent else [(3.0, SETTINGS.init(102))]
    assert said(bench.device.unread()) == [*inits, (4.0, beat(2))]


# -- a port that outlives its host ----------------------------------------------------------------


async def test_a_persistent_port_is_opened_once() -> None:
    async with trio.open_nursery() as nursery:
        bench = GuestWorld(device=MemoryDevice(persistent=True))
        await bench.enable(nursery)
        for number in range(3):
            await trio.sleep_until(10 * number + 2)
            bench.device.disconnect()
            await trio.sleep_until(10 * number + 5)
            assert bench.guest.session.state is DISABLED
            bench.device.connect()
            await bench.settle()
            assert bench.guest.session.state is ENABLING
            bench.device.send(InitAck(102 + number))
            await bench.settle()
            assert bench.guest.session.state is ENABLED
        nursery.cancel_scope.cancel()
    assert said(bench.device.unread()) == [
        (10.0 * number + 5, SETTINGS.init(102 + number)) for number in range(3)
    ]
    assert bench.device.opened == [0.0]


async def test_a_host_that_was_away_between_two_reads_is_noticed_by_its_silence() -> None:
    """No end of data is seen, and the new host waits for an init: after a while it gets one."""
    async with trio.open_nursery() as nursery:
        bench = GuestWorld(SHIPPED, device=MemoryDevice(persistent=True))
        await bench.enable(nursery)
        await trio.sleep_until(2.0)
        bench.device.send(Challenge(7))
        await bench.settle()
        bench.device.disconnect()
        bench.device.connect()
        await trio.sleep_until(6.999)
        assert bench.guest.session.state is ENABLED
        await trio.sleep_until(7.5)
        nursery.cancel_scope.cancel()
    assert said(bench.device.unread()) == [(2.0, beat(7)), (7.0, SHIPPED.init(102))]


async def test_what_a_host_sent_before_it_left_is_read() -> None:
    async with trio.open_nursery() as nursery:
        bench = GuestWorld(device=MemoryDevice(persistent=True))
        nursery.start_soon(bench.run)
        await trio.sleep_until(1.5)
        bench.device.send(InitAck(101))
        bench.device.disconnect()
        await bench.settle()
        assert bench.guest.session.state is DISABLED
        bench.device.connect()
        await trio.sleep_until(2)
        nursery.cancel_scope.cancel()
    assert said(bench.device.received) == [(1.0, SETTINGS.init(101)), (1.5, SETTINGS.init(102))]


async def test_a_port_that_is_unplugged_is_opened_again(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with trio.open_nursery() as nursery:
        bench = GuestWorld(device=MemoryDevice(persistent=True))
        await bench.enable(nursery)
        await trio.sleep_until(2.0)
        bench.device.remove()
        bench.device.fail("no such device")
        await trio.sleep_until(10)
        nursery.cancel_scope.cancel()
    assert bench.guest.session.state is DISABLED
    assert bench.device.opened == [0.0, 3.0, 5.0, 8.0]
    assert bench.device.closed == [2.0]
    assert "channel: no such device" in caplog.messages


class Unreadable:
    """A port whose host is always there and which fails at each read, as a device at a loss does.

    Never waiting, it would stop the fake clock: so its reads are bounded.
    """

    persistent = True

    def __init__(self) -> None:
        self.opened: list[float] = []
        self.closed: list[float] = []
        self._reads = 0

    async def open(self) -> ChannelStream:
        self.opened.append(trio.current_time())
        return self

    async def wait_connected(self) -> None:
        await trio.lowlevel.checkpoint()

    async def receive(self) -> bytes:
        await trio.lowlevel.checkpoint()
        self._reads += 1
        assert self._reads < 100, "the guest spins"
        raise DeviceFault("input/output error")

    async def send(self, data: bytes) -> None:
        await trio.lowlevel.checkpoint()
        raise DeviceFault("input/output error")

    async def aclose(self) -> None:
        self.closed.append(trio.current_time())
        await trio.lowlevel.checkpoint()


async def test_a_port_that_cannot_be_read_is_opened_again_ever_more_rarely(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    device = Unreadable()
    async with trio.open_nursery() as nursery:
        bench = GuestWorld()
        bench.setup = msgspec.structs.replace(bench.setup, device=device)
        guest = Guest(bench.setup, bench.guard)
        nursery.start_soon(guest.run)
        await trio.sleep_until(200)
        nursery.cancel_scope.cancel()
    assert device.opened == ATTEMPTS
    assert device.closed == ATTEMPTS
    assert guest.session.state is DISABLED
    assert caplog.messages.count("channel: input/output error") >= len(ATTEMPTS)
    assert len(caplog.messages) < 10 * len(ATTEMPTS)


# -- a host that does not read --------------------------------------------------------------------


async def test_a_host_that_does_not_read_gets_what_fits_and_never_loses_a_reject(
    tmp_path: Path,
) -> None:
    runs = {"handler": FakeRun(1, b"busy", delay_s=1)}
    async with trio.open_nursery() as nursery:
        bench = GuestWorld(
            processes=handlers(tmp_path, runs),
            events=tmp_path,
            device=MemoryDevice(capacity=1000),
        )
        await bench.enable(nursery)
        bench.device.stop_reading()
        for number in range(500):
            if number == 100:
                bench.device.send(STOP_VOTE)
            bench.device.send(Challenge(number))
            await trio.sleep(1)
        bench.device.resume_reading()
        await bench.settle()
        heard = [one.message for one in bench.device.unread()]
        bench.device.send(Challenge(1000))
        await bench.settle()
        nursery.cancel_scope.cancel()
    assert heard.count(response(STOP_VOTE, VoteResult.REJECT, "busy")) == 1
    beats = [one.heartbeat_response for one in heard if isinstance(one, ChallengeResponse)]
    assert len(heard) == len(beats) + 1
    # The first that fitted on the way, the one being written, and the newest of the queue.
    on_the_way = len(beats) - (QUEUE - 1)
    assert beats == [*range(on_the_way), *range(500 - (QUEUE - 1), 500)]
    assert 5 < on_the_way < 10
    assert bench.device.unread()[-1].message == beat(1000)


async def test_what_is_left_unsent_does_not_reach_the_next_host(tmp_path: Path) -> None:
    runs = {"handler": FakeRun(1, b"busy", delay_s=1)}
    async with trio.open_nursery() as nursery:
        bench = GuestWorld(
            processes=handlers(tmp_path, runs),
            events=tmp_path,
            device=MemoryDevice(persistent=True, capacity=10),
        )
        await bench.enable(nursery)
        bench.device.stop_reading()
        bench.device.send(STOP_VOTE, Challenge(1), Challenge(2))
        await trio.sleep_until(4)
        bench.device.disconnect()
        await bench.settle()
        bench.device.resume_reading()
        bench.device.connect()
        await trio.sleep_until(5)
        nursery.cancel_scope.cancel()
    assert said(bench.device.unread()) == [(4.0, SETTINGS.init(102))]
    assert bench.device.garbled == []


async def test_a_host_that_does_not_read_still_times_nothing_out() -> None:
    """Challenges are being read: that its answers do not get away is the host's affair."""
    async with trio.open_nursery() as nursery:
        bench = GuestWorld(SHIPPED, device=MemoryDevice(capacity=10))
        await bench.enable(nursery)
        bench.device.stop_reading()
        for number in range(30):
            bench.device.send(Challenge(number))
            await trio.sleep(1)
        assert bench.guest.session.state is ENABLED
        nursery.cancel_scope.cancel()


# -- what a host sends ----------------------------------------------------------------------------


async def test_what_is_no_message_is_dropped_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    old = b'{"version":2,"revision":1,"msg_type":"challenge","sequence":1,"heartbeat_challenge":1}'
    newer = old.replace(b'"version":2', b'"version":9')
    lacking = b'{"version":3,"revision":1,"msg_type":"challenge","sequence":1}'
    async with trio.open_nursery() as nursery:
        bench = GuestWorld()
        await bench.enable(nursery)
        device = bench.device
        device.send_bytes(b"\n\n\nnot json\n", b"\xff\xfe\n" + old + b"\n", lacking + b"\n")
        device.send_bytes(b"x" * 5000, b"y" * 5000 + b"\n" + newer + b"\n")
        # Messages that hosts do not get, or that need no answer.
        device.send(beat(1), Exit("bye"), SETTINGS.init(5))
        await bench.settle()
        nursery.cancel_scope.cancel()
    assert said(bench.device.unread()) == [(1.0, beat(1))]
    assert warnings(caplog)[:4] == [
        "message dropped: failed to parse message: not a JSON object",
        "message dropped: failed to parse message: not a JSON object",
        "message dropped: version 2 is not supported",
        "message dropped: failed to parse heartbeat_challenge",
    ]


ASKED: list[Message] = [
    InitAck(101),
    Challenge(7),
    ActionNotify(5, Event.STOP, REVOCABLE, 9000),
    Challenge(2**31 - 1),
]
ANSWERED = [
    beat(7),
    response(ActionNotify(5, Event.STOP, REVOCABLE, 9000), VoteResult.COMPLETE),
    beat(2**31 - 1),
]


@settings(deadline=None)
@given(data=st.data())
def test_any_chunking_says_the_same(data: st.DataObject) -> None:
    async def converse() -> list[object]:
        async with trio.open_nursery() as nursery:
            bench = GuestWorld()
            nursery.start_soon(bench.run)
            await bench.device.next()
            stream = bench.device.encoded(*ASKED)
            cuts = data.draw(st.lists(st.integers(0, len(stream)), max_size=30))
            edges = [0, *sorted(cuts), len(stream)]
            bench.device.send_bytes(*(stream[a:b] for a, b in pairwise(edges)))
            await bench.settle()
            nursery.cancel_scope.cancel()
        return [one.message for one in bench.device.unread()]

    heard = trio.run(converse, clock=MockClock(autojump_threshold=0))
    assert sorted(map(repr, heard)) == sorted(map(repr, ANSWERED))


# -- a host that sends too much, or what it should not --------------------------------------------


async def test_all_of_a_burst_is_answered_if_the_host_reads() -> None:
    numbers = range(1000, 1000 + 10 * QUEUE)
    async with trio.open_nursery() as nursery:
        bench = GuestWorld()
        await bench.enable(nursery)
        bench.device.send_bytes(bench.device.encoded(*map(Challenge, numbers)))
        await bench.settle()
        nursery.cancel_scope.cancel()
    heard = [one.message for one in bench.device.received]
    assert [one for one in heard if isinstance(one, ChallengeResponse)] == [*map(beat, numbers)]


async def test_a_host_that_floods_is_named_once_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    flood = f"the host floods the channel: more than {READS_PER_S} reads a second"
    async with trio.open_nursery() as nursery:
        bench = GuestWorld()
        await bench.enable(nursery)
        await trio.sleep(1)
        for minute in range(2):
            began = trio.current_time()
            bench.device.send(*map(Challenge, range(READS_PER_S)))
            await trio.sleep(1)
            assert flood not in warnings(caplog)[minute:]
            for _ in range(3):
                bench.device.send(*map(Challenge, range(READS_PER_S + 1)))
                await trio.sleep(1)
            assert warnings(caplog) == [flood] * (minute + 1)
            await trio.sleep_until(began + 62)
        nursery.cancel_scope.cancel()


async def test_what_a_host_should_not_send_is_named(caplog: pytest.LogCaptureFixture) -> None:
    async with trio.open_nursery() as nursery:
        bench = GuestWorld()
        await bench.enable(nursery)
        bench.device.send(
            Nack(1, "no such id"),
            Exit("bye"),
            beat(1),
            SETTINGS.init(1),
            response(STOP_VOTE, VoteResult.REJECT),
        )
        bench.device.send_bytes(b"x" * MAX_LINE_BYTES, b"x", b"x" * 5000 + b"\n", b"y\n")
        await bench.settle()
        assert bench.guest.session.state is ENABLED
        nursery.cancel_scope.cancel()
    assert warnings(caplog) == [
        "the host refuses a message: no such id",
        *(
            f"message dropped: {kind}, which hosts don't send"
            for kind in ("exit", "challenge_response", "init", "action_response")
        ),
        "message dropped: longer than 4096 bytes",
        "message dropped: failed to parse message: not a JSON object",
    ]
