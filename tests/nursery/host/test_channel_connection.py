"""A channel's connection: dialling, handshake, framing, its end; every time on the fake clock."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

from hbtrio.fsm.heartbeat.table import HeartbeatState
from hbtrio.nursery.host.round import NotHeartbeating
from hbtrio.wire.channel_codec import encode
from hbtrio.wire.channel_messages import OFFERED, Challenge, ChallengeResponse, InitAck, Nack
from hbtrio.wire.vocabulary import CorrectiveAction, Event, Health
from support.host_world import FIRST_ID, HostWorld, Received, ScriptedGuest, host_world, now
from support.memory_port import MemoryPeer

pytestmark = pytest.mark.usefixtures("autojump_clock")

#: The first challenge of a world with seed 0.
FIRST_CHALLENGE = 1654615998


def dialled(world: HostWorld, guest: ScriptedGuest) -> list[float]:
    return [round(dial.time_s, 6) for dial in world.dialer.dials if dial.path == guest.path]


def line(guest: ScriptedGuest, **changes: Any) -> bytes:
    """The guest's ``init`` as bytes, with members changed or (None) left out."""
    members = json.loads(encode(guest.init, 1)) | changes
    return b"\n%s\n" % json.dumps({k: v for k, v in members.items() if v is not None}).encode()


# -- the handshake --------------------------------------------------------------------------


async def test_init_is_answered_with_ack_and_challenge_back_to_back() -> None:
    async with host_world() as world:
        guest = world.guest()
        guest.reads = False
        guest.appear()
        await world.settle()
        assert guest.peer.read() == (
            b'\n{"version":3,"revision":1,"msg_type":"init_ack","sequence":1,'
            b'"invocation_id":1804289383,"extensions":13}\n'
            b'\n{"version":3,"revision":1,"msg_type":"challenge","sequence":2,'
            b'"heartbeat_challenge":1654615998}\n'
        )
        assert now() == 1.0
        assert world.reports() == []
        assert world.channel(guest).heartbeat.state is HeartbeatState.WAITING


async def test_it_is_heartbeating_with_the_first_answer(world: HostWorld) -> None:
    guest = world.guest()
    guest.answers_after_s = 0.7
    guest.appear()
    await world.at(1.699)
    assert world.reports() == []
    await world.at(1.7)
    assert world.reports() == [(1.7, "heartbeating", "init answered")]
    assert world.host.heartbeating == 1
    await world.at(5.5)
    assert guest.challenged_at() == [1.0, 2.0, 3.0, 4.0, 5.0]
    assert world.channel(guest).heartbeat.round_trip_s == pytest.approx(0.7)


async def test_nothing_is_sent_before_init(world: HostWorld) -> None:
    guest = world.guest()
    guest.sends_init = False
    guest.appear()
    await world.at(100)
    assert guest.received == []
    guest.send_init()
    await world.at(100)
    assert guest.received == [
        Received(100.0, InitAck(FIRST_ID, OFFERED)),
        Received(100.0, Challenge(FIRST_CHALLENGE)),
    ]
    assert world.reports() == [(100.0, "heartbeating", "init answered")]


async def test_the_sequence_counts_from_one_on_each_connection(world: HostWorld) -> None:
    guest = await world.heartbeating()
    await world.at(3.5)
    guest.peer.close()
    await world.at(5.2)
    assert [heard.sequence for heard in guest.received] == [1, 2, 3, 4, 1, 2]


@pytest.mark.parametrize(("asked_ms", "every_s"), [(100, 0.4), (399, 0.4), (400, 0.4), (2500, 2.5)])
async def test_an_interval_below_400_ms_is_raised(
    asked_ms: int, every_s: float, world: HostWorld
) -> None:
    guest = await world.heartbeating(heartbeat_interval_ms=asked_ms)
    await world.at(1 + 3 * every_s)
    assert guest.challenged_at() == pytest.approx([1 + every_s * beat for beat in range(4)])


async def test_what_a_guest_advertises_is_used(world: HostWorld) -> None:
    guest = await world.heartbeating(
        name="db", restart_secs=60, corrective_action=CorrectiveAction.LOG
    )
    profile = world.channel(guest).heartbeat.profile
    assert (profile.name, profile.restart_s, profile.vote_s) == ("db", 60, 9)
    assert profile.corrective_action is CorrectiveAction.LOG


# -- framing --------------------------------------------------------------------------------


@pytest.mark.parametrize("cut", [1, 7, 60, 4096])
async def test_bytes_may_be_cut_anywhere(cut: int, world: HostWorld) -> None:
    guest = world.guest()
    guest.sends_init = False
    guest.answers_after_s = None
    guest.appear()
    await world.settle()
    guest.peer.send_bytes(line(guest), cut=cut)
    await world.settle()
    answer = ChallengeResponse(
        FIRST_CHALLENGE, Health.HEALTHY, CorrectiveAction.NONE, "all is well"
    )
    guest.peer.send_bytes(encode(answer, 2), cut=cut)
    await world.settle()
    assert world.reports() == [(1.0, "heartbeating", "init answered")]
    assert world.channel(guest).link.faulty == 0


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 200), min_size=1, max_size=40))
def test_bytes_may_be_cut_into_any_pieces(sizes: list[int]) -> None:
    async def main() -> None:
        async with host_world() as world:
            guest = world.guest()
            guest.sends_init = False
            guest.answers_after_s = None
            guest.appear()
            await world.settle()
            answer = ChallengeResponse(FIRST_CHALLENGE, Health.UNHEALTHY, CorrectiveAction.LOG, "x")
            data = b"\n\n" + line(guest) + encode(answer, 2) + b'{"version":3,'
            for size in sizes:
                guest.peer.send_bytes(data[:size] or b"\n")
                data = data[size:]
                await world.settle()
            guest.peer.send_bytes(data + b"\n")
            await world.settle()
            assert world.reports() == [
                (1.0, "heartbeating", "init answered"),
                (1.0, "unhealthy", "log", "x"),
            ]

    trio.run(main, clock=MockClock(autojump_threshold=0))


async def test_a_line_begun_ends_with_its_connection(world: HostWorld) -> None:
    guest = world.guest()
    guest.sends_init = False
    guest.appear()
    await world.settle()
    begun, rest = line(guest)[:50], line(guest)[50:]
    guest.peer.send_bytes(begun)
    guest.peer.close()
    await world.at(2.0)
    guest.peer.send_bytes(rest + line(guest))
    await world.settle()
    assert guest.messages[:2] == [
        Nack(0, "failed to parse message: not a JSON object"),
        InitAck(FIRST_ID, OFFERED),
    ]
    assert world.reports() == [(2.0, "heartbeating", "init answered")]


# -- what can't be used ---------------------------------------------------------------------

KEYS = (
    "revision",
    "msg_type",
    "sequence",
    "invocation_id",
    "name",
    "heartbeat_interval_ms",
    "vote_secs",
    "shutdown_notice_secs",
    "suspend_notice_secs",
    "resume_notice_secs",
    "restart_secs",
    "corrective_action",
)


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("value", [None, [1]])
async def test_a_missing_or_wrong_key_is_named_in_a_nack(
    key: str, value: Any, world: HostWorld
) -> None:
    guest = world.guest()
    guest.sends_init = False
    guest.appear()
    await world.settle()
    guest.peer.send_bytes(line(guest, **{key: value}))
    await world.settle()
    about = 0 if key == "invocation_id" else FIRST_ID
    assert guest.messages == [Nack(about, f"failed to parse {key}")]
    assert world.channel(guest).link.faulty == 1
    guest.send_init()
    await world.settle()
    assert world.reports() == [(1.0, "heartbeating", "init answered")]


@pytest.mark.parametrize(("version", "answered"), [(2, False), (0, False), (3, True), (4, True)])
async def test_versions_below_3_are_nacked_higher_ones_accepted(
    version: int, answered: bool, world: HostWorld
) -> None:
    guest = world.guest()
    guest.sends_init = False
    guest.appear()
    await world.settle()
    guest.peer.send_bytes(line(guest, version=version))
    await world.settle()
    if answered:
        assert guest.messages[0] == InitAck(FIRST_ID, OFFERED)
    else:
        assert guest.messages == [Nack(FIRST_ID, f"version {version} is not supported")]


async def test_at_most_five_nacks_a_second(world: HostWorld) -> None:
    guest = await world.heartbeating()
    guest.peer.send_bytes(b"garbage\n" * 20)
    await world.at(1.9)
    guest.peer.send_bytes(b"garbage\n")
    await world.at(1.95)
    assert [type(message) for message in guest.messages].count(Nack) == 5
    await world.at(2.0)
    guest.peer.send_bytes(b"garbage\n")
    await world.settle()
    assert [type(message) for message in guest.messages].count(Nack) == 6
    assert world.channel(guest).link.faulty == 22


# -- the end of a connection ----------------------------------------------------------------


async def test_closed_by_its_peer_it_stops_and_is_dialled_a_second_later(world: HostWorld) -> None:
    guest = await world.heartbeating()
    await world.at(4.3)
    guest.peer.close()
    await world.at(5.299)
    assert world.reports(since=2) == [(4.3, "stopped", "closed by the peer")]
    assert world.host.heartbeating == 0
    assert dialled(world, guest) == [1.0]
    await world.at(5.3)
    assert world.reports(since=5) == [(5.3, "heartbeating", "init answered")]
    assert dialled(world, guest) == [1.0, 5.3]


async def test_what_was_sent_before_the_end_is_read(world: HostWorld) -> None:
    guest = await world.heartbeating()
    await world.at(4.3)
    guest.send_exit("going down")
    guest.peer.close()
    await world.settle()
    assert world.reports(since=2) == [(4.3, "stopped", "guest exited: going down")]


async def test_a_reset_is_no_loss(world: HostWorld) -> None:
    guest = await world.heartbeating()
    await world.at(4.3)
    guest.peer.reset()
    await world.at(5.3)
    assert world.reports(since=2) == [
        (4.3, "stopped", "connection reset by peer"),
        (5.3, "heartbeating", "init answered"),
    ]


@pytest.mark.parametrize("end", [MemoryPeer.close, MemoryPeer.reset])
async def test_an_end_at_the_very_time_of_a_beat(
    end: Any, autojump_clock: MockClock, world: HostWorld
) -> None:
    # The pacer may find it before the channel's reader does: with so many guests, both happen.
    guests = await world.all_heartbeating(50)
    await world.at(2.9)
    for guest in guests:
        guest.answers_after_s = None
    await world.at(3.5)
    for guest in guests:
        end(guest.peer)
        guest.answers_after_s = 0.0
    autojump_clock.jump(0.5)
    await world.at(5.5)
    for guest in guests:
        stopped, back = world.reports(guest, since=2)
        assert stopped[:2] == (4.0, "stopped")
        assert stopped[2] in ("closed by the peer", "connection reset by peer", "broken pipe")
        assert back == (5.0, "heartbeating", "init answered")


async def test_exit_stops_without_loss_until_the_next_init(world: HostWorld) -> None:
    guest = await world.heartbeating()
    await world.at(4.3)
    guest.send_exit()
    await world.at(60)
    assert world.reports(since=2) == [(4.3, "stopped", "guest exited: Exiting...")]
    assert guest.challenged_at(since=4.1) == []
    guest.answers_after_s = 0.0
    guest.send_init()
    await world.settle()
    assert world.reports(since=5) == [(60.0, "heartbeating", "init answered")]
    assert dialled(world, guest) == [1.0]


# -- dialling again -------------------------------------------------------------------------

BACKOFF = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 124.0, 184.0]


@pytest.mark.parametrize("fault", ["connection refused", "its backlog is full"])
async def test_a_refused_connection_is_retried_after_1_s_doubling_to_60_s(
    fault: str, caplog: pytest.LogCaptureFixture, world: HostWorld
) -> None:
    guest = world.guest().appear()
    world.dialer.refuse(guest.path, fault)
    await world.at(243.999)
    assert dialled(world, guest) == BACKOFF
    assert [
        r.getMessage()
        for r in caplog.records
        if r.name == "hbtrio.channel" and r.levelno >= logging.WARNING
    ] == [f"{guest.uuid}: {guest.path}: {fault}; retrying"]
    world.dialer.listen(guest.path, guest.connected)
    await world.at(244)
    assert world.reports() == [(244.0, "heartbeating", "init answered")]


async def test_each_new_fault_is_logged_once(
    caplog: pytest.LogCaptureFixture, world: HostWorld
) -> None:
    guest = world.guest().appear()
    world.dialer.refuse(guest.path, "permission denied")
    await world.at(5)
    world.dialer.refuse(guest.path, "connection refused")
    await world.at(20)
    faults = [r.getMessage().split(": ")[2] for r in caplog.records if "retrying" in r.msg]
    assert faults == ["permission denied; retrying", "connection refused; retrying"]


async def test_the_fault_is_the_reason_of_waiting_from_the_first_attempt_on(
    world: HostWorld,
) -> None:
    guest = world.guest().appear()
    world.dialer.refuse(guest.path)
    await world.sleep(0.5)
    channel = world.channel(guest)
    assert (channel.why, dialled(world, guest)) == ("connection refused; retrying", [1.0])
    # An agent is told of each new one.
    told: list[str] = []
    world.host.on_change(lambda uuid: told.append(channel.why))
    world.dialer.refuse(guest.path, "permission denied")
    await world.at(5)
    world.dialer.refuse(guest.path)
    await world.at(20)
    assert told == ["permission denied; retrying", "connection refused; retrying"]
    with pytest.raises(NotHeartbeating, match="heartbeating: connection refused; retrying"):
        world.vote(guest, Event.STOP)
    # It listens, and nobody says anything.
    guest.sends_init = False
    world.dialer.listen(guest.path, guest.connected)
    await world.at(60)
    assert (channel.why, channel.heartbeat.connected) == ("discovered", True)


async def test_of_one_that_is_expected_back_what_is_under_way_is_the_reason(
    world: HostWorld,
) -> None:
    guest = await world.heartbeating()
    channel = world.channel(guest)
    channel.outages.restarts("reboot")
    world.dialer.refuse(guest.path)
    guest.peer.close()
    await world.at(30)
    assert channel.why == "reboot is in progress"
    # With its channel closed, and not expected: that it closed, until it can't be opened.
    channel.outages.call_off("reboot", "failed")
    assert channel.why == "reboot did not happen: failed"


async def test_connections_without_a_beat_go_on_doubling(world: HostWorld) -> None:
    guest = world.guest()
    guest.sends_init = False
    guest.appear()
    world.dialer.listen(guest.path, MemoryPeer.close)
    await world.at(200)
    assert dialled(world, guest) == BACKOFF


async def test_a_beat_starts_the_delays_over(world: HostWorld) -> None:
    guest = world.guest().appear()
    world.dialer.refuse(guest.path)
    await world.at(20)
    world.dialer.listen(guest.path, guest.connected)
    await world.at(32)
    assert dialled(world, guest) == BACKOFF[:6]
    guest.peer.close()
    world.dialer.refuse(guest.path)
    await world.at(40)
    assert dialled(world, guest)[6:] == [33.0, 35.0, 39.0]


async def test_a_freeze_is_one_attempt_not_many(
    autojump_clock: MockClock, world: HostWorld
) -> None:
    guest = world.guest().appear()
    world.dialer.refuse(guest.path)
    await world.at(10)
    autojump_clock.jump(1000)
    await world.at(1042)
    assert dialled(world, guest) == [*BACKOFF[:4], 1010.0, 1026.0]


async def test_shutdown_ends_the_waiting_at_once(world: HostWorld) -> None:
    guest = world.guest().appear()
    world.dialer.refuse(guest.path)
    await world.at(100)
    await world.stop_host()
    assert now() == 100.0
    assert dialled(world, guest) == BACKOFF[:7]


# -- connected, but not heartbeating for 120 s ----------------------------------------------


async def test_after_120_s_without_heartbeat_it_is_reconnected_at_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "hbtrio.channel")
    async with host_world() as world:
        guest = world.guest()
        guest.sends_init = False
        guest.appear()
        await world.at(120.98)
        assert dialled(world, guest) == [1.0]
        await world.at(400)
        assert dialled(world, guest) == [1.0, 121.0, 241.0, 361.0]
        assert [one[1] for one in world.reports()] == ["unwatched"]
        again = f"{guest.uuid}: reconnecting: connected, but no heartbeat for 120 s"
        assert [r.getMessage() for r in caplog.records if r.name == "hbtrio.channel"] == [
            f"{again} (waiting)",
            f"{guest.uuid}: {guest.path}: no data received: no guest is running, or another client "
            "holds the channel",
            f"{again} (unwatched)",
            f"{again} (unwatched)",
        ]


async def test_an_init_just_before_the_120_s_are_over_prevents_it(world: HostWorld) -> None:
    guest = world.guest()
    guest.sends_init = False
    guest.appear()
    await world.at(120.97)
    guest.send_init()
    await world.at(400)
    assert dialled(world, guest) == [1.0]
    assert world.reports() == [(120.97, "heartbeating", "init answered")]


async def test_an_init_without_an_answer_is_reconnected_too(world: HostWorld) -> None:
    # A leftover in the buffer of a VM that is long gone.
    guest = world.guest()
    guest.answers_after_s = None
    guest.appear()
    await world.at(250)
    assert dialled(world, guest) == [1.0, 121.0, 241.0]
    assert guest.challenged_at() == [1.0, 2.0, 121.0, 122.0, 241.0, 242.0]
    assert [one[1] for one in world.reports()] == ["unwatched"]


async def test_the_120_s_count_from_the_loss(world: HostWorld) -> None:
    guest = await world.heartbeating()
    await world.at(4.5)
    guest.answers_after_s = None
    guest.sends_init = False
    await world.at(300)
    assert world.reports(since=2)[0] == (7.0, "loss", "reboot", "no answer for 3 s")
    assert dialled(world, guest) == [1.0, 127.0, 247.0]


async def test_an_init_that_waits_unread_after_a_freeze_is_read_first(
    autojump_clock: MockClock, world: HostWorld
) -> None:
    guests = [world.guest() for _ in range(20)]
    for guest in guests:
        guest.sends_init = False
        guest.appear()
    await world.at(50)
    for guest in guests:
        guest.send_init()
    autojump_clock.jump(200)
    await world.at(260)
    for guest in guests:
        assert dialled(world, guest) == [1.0]
        assert world.reports(guest) == [(250.0, "heartbeating", "init answered")]


async def test_shutdown_closes_the_connection(world: HostWorld) -> None:
    guest = await world.heartbeating()
    await world.at(2.5)
    await world.stop_host()
    assert guest.peer.host_closed
    assert world.reports(since=2) == [(2.5, "stopped", "the host closed it")]
    assert now() == 2.5


# -- sockets that go and come ---------------------------------------------------------------


async def test_a_socket_that_goes_is_forgotten(world: HostWorld) -> None:
    guest = await world.heartbeating()
    await world.at(3.5)
    guest.vanish()
    await world.at(100)
    # Its end may be seen before the socket is missed; that it is gone is said in any case.
    *ended, gone = world.reports(since=2)
    assert ended in ([], [(3.5, "stopped", "closed by the peer")])
    assert gone == (3.5, "stopped", f"{guest.path} was removed")
    assert world.host.channels == {}
    assert world.host.heartbeating == 0
    assert dialled(world, guest) == [1.0]


async def test_a_socket_made_anew_is_a_new_channel(world: HostWorld) -> None:
    guest = await world.heartbeating()
    old = world.channel(guest)
    await world.at(3.5)
    world.directory.replace(guest.name)
    await world.at(4)
    assert world.channel(guest) is not old
    assert old.gone
    assert world.reports(since=2) == [
        (3.5, "stopped", f"{guest.path} was removed"),
        (3.5, "heartbeating", "init answered"),
    ]
    assert world.host.heartbeating == 1


async def test_a_socket_that_goes_while_it_is_dialled_again(world: HostWorld) -> None:
    guest = world.guest().appear()
    world.dialer.refuse(guest.path)
    await world.at(10)
    world.directory.remove(guest.name)
    await world.at(100)
    assert dialled(world, guest) == BACKOFF[:4]
    assert world.host.channels == {}
    assert world.reports() == []  # its guest was never heard
