"""The guest's handshake on the clock: release, init retry, challenge timeout, reload, farewell."""

from __future__ import annotations

import logging
from pathlib import Path

import msgspec
import pytest
import trio
from trio.testing import MockClock

from hbtrio.fsm.guest_session import SessionSettings
from hbtrio.fsm.guest_session_table import SessionState
from hbtrio.nursery.guest.daemon import GuestSetup
from hbtrio.nursery.guest.health_script import HealthScript
from hbtrio.nursery.time_guard import TAKE_IN_S
from hbtrio.wire.channel_messages import Challenge, ChallengeResponse, Exit, Init, InitAck
from hbtrio.wire.vocabulary import CorrectiveAction, Health, VoteResult
from support.fake_processes import HANGS, FakeRun
from support.guest_world import (
    STOP_VOTE,
    GuestWorld,
    handlers,
    response,
    said,
    when,
)
from support.memory_device import MemoryDevice

pytestmark = pytest.mark.usefixtures("autojump_clock")

INITIAL, ENABLING, ENABLED, DISABLED = SessionState

#: As shipped: a challenge within 5 s, init again after 5 s.
SETTINGS = SessionSettings(name="vm1")


def init(number: int, settings: SessionSettings = SETTINGS) -> Init:
    return settings.init(number)


def beat(number: int) -> ChallengeResponse:
    return ChallengeResponse(number, Health.HEALTHY, CorrectiveAction.REBOOT, "")


# -- release, one second after the start ----------------------------------------------------------


async def test_release_after_one_second() -> None:
    async with trio.open_nursery() as nursery:
        bench = GuestWorld(SETTINGS)
        nursery.start_soon(bench.run)
        await trio.sleep_until(0.999)
        assert bench.device.opened == [0.0]
        assert (bench.guest.session.state, bench.device.received) == (INITIAL, [])
        await trio.sleep_until(1.001)
        assert (bench.guest.session.state, said(bench.device.received)) == (
            ENABLING,
            [(1.0, init(101))],
        )
        nursery.cancel_scope.cancel()


async def test_release_comes_early_when_the_channel_comes_up() -> None:
    """A guest that has lost its first channel says init as soon as it has the next."""
    async with trio.open_nursery() as nursery:
        bench = GuestWorld(SETTINGS, device=MemoryDevice(persistent=True))
        bench.device.disconnect()
        nursery.start_soon(bench.run)
        await trio.sleep_until(0.25)
        assert bench.guest.session.state is DISABLED
        bench.device.connect()
        await trio.sleep_until(1.5)
        assert said(bench.device.received) == [(0.25, init(101))]
        nursery.cancel_scope.cancel()


async def test_release_waits_for_a_channel_that_is_down() -> None:
    async with trio.open_nursery() as nursery:
        bench = GuestWorld(SETTINGS, device=MemoryDevice(persistent=True))
        bench.device.disconnect()
        nursery.start_soon(bench.run)
        await trio.sleep_until(30)
        assert (bench.guest.session.state, bench.device.received) == (DISABLED, [])
        nursery.cancel_scope.cancel()


async def test_release_cancelled_by_shutdown() -> None:
    async with trio.open_nursery() as nursery:
        bench = GuestWorld(SETTINGS)
        nursery.start_soon(bench.run)
        await trio.sleep_until(0.5)
        bench.guest.stop()
    assert bench.ended_at == 0.5
    assert bench.device.received == []
    assert bench.device.closed == [0.5]


async def test_release_of_a_late_process(autojump_clock: MockClock) -> None:
    async with trio.open_nursery() as nursery:
        bench = GuestWorld(SETTINGS)
        nursery.start_soon(bench.run)
        await trio.sleep_until(0.5)
        autojump_clock.jump(12)
        await trio.sleep_until(13)
        assert said(bench.device.received) == [(12.5, init(101))]
        nursery.cancel_scope.cancel()


# -- init retry -----------------------------------------------------------------------------------


async def test_init_is_repeated_until_it_is_acknowledged() -> None:
    settings = msgspec.structs.replace(SETTINGS, hb_init_retry_ms=2500)
    async with trio.open_nursery() as nursery:
        bench = GuestWorld(settings)
        nursery.start_soon(bench.run)
        await trio.sleep_until(11.001)
        nursery.cancel_scope.cancel()
    assert said(bench.device.received) == [
        (1.0 + 2.5 * number, settings.init(101 + number)) for number in range(5)
    ]
    assert [heard.sequence for heard in bench.device.received] == [1, 2, 3, 4, 5]


async def test_a_silent_host_is_said_once_for_each_silence(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with trio.open_nursery() as nursery:
        bench = GuestWorld(SETTINGS)
        nursery.start_soon(bench.run)
        await trio.sleep_until(15.999)  # inits at 1, 6 and 11
        assert caplog.messages == []
        await trio.sleep_until(60.5)
        silence = [
            "no host has acknowledged 3 inits: no host is connected, or another process holds "
            "the channel"
        ]
        assert caplog.messages == silence
        bench.device.send(InitAck(112))  # enabled until 65.5, when init 113 is said
        await trio.sleep_until(80.499)
        assert caplog.messages == silence
        await trio.sleep_until(80.501)
        assert caplog.messages == 2 * silence
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("at_s", [1.0, 3.0, 5.999])
async def test_an_acknowledgement_in_time_stops_the_retry(at_s: float) -> None:
    async with trio.open_nursery() as nursery:
        bench = GuestWorld(SETTINGS)
        nursery.start_soon(bench.run)
        await trio.sleep_until(at_s)
        if at_s == 1.0:
            await bench.device.next()
        bench.device.send(InitAck(101))
        await bench.settle()
        assert bench.guest.session.state is ENABLED
        # Only the challenge timeout comes next.
        await trio.sleep_until(at_s + 4.999)
        assert said(bench.device.received) == [(1.0, init(101))]
        nursery.cancel_scope.cancel()


async def test_an_acknowledgement_at_the_very_deadline_counts(autojump_clock: MockClock) -> None:
    async with trio.open_nursery() as nursery:
        bench = GuestWorld(SETTINGS)
        nursery.start_soon(bench.run)
        await trio.sleep_until(5.5)
        bench.device.send(InitAck(101))
        autojump_clock.jump(0.5)  # the bytes and the deadline wake their tasks together
        await trio.sleep_until(6.5)
        assert bench.guest.session.state is ENABLED
        assert said(bench.device.received) == [(1.0, init(101))]
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("acknowledged", "state"),
    [(103, ENABLED), (102, ENABLED), (101, ENABLING), (104, ENABLING), (0, ENABLING)],
)
async def test_the_last_two_inits_can_be_acknowledged(
    acknowledged: int, state: SessionState
) -> None:
    async with trio.open_nursery() as nursery:
        bench = GuestWorld(SETTINGS)
        nursery.start_soon(bench.run)
        await trio.sleep_until(11.5)  # 101 at 1, 102 at 6, 103 at 11
        bench.device.send(InitAck(acknowledged))
        await trio.sleep_until(15.999)
        assert bench.guest.session.state is state
        await trio.sleep_until(16.4)
        last = [(16.0, init(104))] if state is ENABLING else []
        assert said(bench.device.received)[3:] == last
        nursery.cancel_scope.cancel()


async def test_init_retry_cancelled_by_shutdown() -> None:
    async with trio.open_nursery() as nursery:
        bench = GuestWorld(SETTINGS)
        nursery.start_soon(bench.run)
        await trio.sleep_until(3.0)
        bench.guest.stop()
    # No farewell: this host has not acknowledged that it knows us.
    assert said(bench.device.received) == [(1.0, init(101))]
    assert bench.ended_at == 3.0


async def test_init_retry_of_a_late_process_with_the_acknowledgement_at_hand(
    autojump_clock: MockClock,
) -> None:
    async with trio.open_nursery() as nursery:
        bench = GuestWorld(SETTINGS)
        nursery.start_soon(bench.run)
        await trio.sleep_until(3.0)
        bench.device.send(InitAck(101))
        autojump_clock.jump(12)
        await trio.sleep_until(15.001)
        assert bench.guest.session.state is ENABLED
        assert said(bench.device.received) == [(1.0, init(101))]
        nursery.cancel_scope.cancel()


async def test_init_retry_of_a_late_process_is_one_init(autojump_clock: MockClock) -> None:
    async with trio.open_nursery() as nursery:
        bench = GuestWorld(SETTINGS)
        nursery.start_soon(bench.run)
        await trio.sleep_until(3.0)
        autojump_clock.jump(60)
        await trio.sleep_until(67.999)
        assert said(bench.device.received) == [(1.0, init(101)), (63.0, init(102))]
        nursery.cancel_scope.cancel()


# -- challenge timeout ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("interval_ms", "min_timeout_ms", "timeout_s"),
    [(1000, 5000, 5.0), (2500, 5000, 5.0), (2501, 5000, 5.002), (3000, 0, 6.0), (400, 0, 0.8)],
)
async def test_without_a_challenge_in_time_the_handshake_starts_over(
    interval_ms: int, min_timeout_ms: int, timeout_s: float
) -> None:
    settings = msgspec.structs.replace(
        SETTINGS, hb_interval_ms=interval_ms, hb_min_timeout_ms=min_timeout_ms
    )
    async with trio.open_nursery() as nursery:
        bench = GuestWorld(settings)
        await bench.enable(nursery)
        # Counted from the acknowledgement, then from each challenge, whatever its number.
        challenged = 1.0
        for number in (7, 7, 2**31 - 1):
            challenged = round(challenged + timeout_s - 0.001, 6)
            await trio.sleep_until(challenged)
            bench.device.send(Challenge(number))
        await trio.sleep_until(challenged + timeout_s - 0.001)
        assert bench.guest.session.state is ENABLED
        await trio.sleep_until(challenged + timeout_s + 0.001)
        assert bench.guest.session.state is ENABLING
        nursery.cancel_scope.cancel()
    heard = said(bench.device.unread())
    assert [message for _, message in heard] == [
        beat(7),
        beat(7),
        beat(2**31 - 1),
        settings.init(102),
    ]
    assert heard[-1][0] == round(challenged + timeout_s, 6)


async def test_a_challenge_at_the_very_deadline_counts(autojump_clock: MockClock) -> None:
    async with trio.open_nursery() as nursery:
        bench = GuestWorld(SETTINGS)
        await bench.enable(nursery)
        await trio.sleep_until(5.5)
        bench.device.send(Challenge(7))
        autojump_clock.jump(0.5)  # the bytes and the deadline wake their tasks together
        await trio.sleep_until(10.999)
        nursery.cancel_scope.cancel()
    assert said(bench.device.unread()) == [(6.0, beat(7))]


async def test_challenge_timeout_cancelled_by_shutdown() -> None:
    async with trio.open_nursery() as nursery:
        bench = GuestWorld(SETTINGS)
        await bench.enable(nursery)
        await trio.sleep_until(5.5)
        bench.guest.stop()
    assert said(bench.device.unread()) == [(5.5, Exit("Exiting..."))]
    assert bench.ended_at == 5.5
    assert bench.guest.session.state is INITIAL


@pytest.mark.parametrize("frozen_s", [12.0, 3600.0])
async def test_challenge_timeout_of_a_late_process_with_challenges_at_hand(
    frozen_s: float, autojump_clock: MockClock
) -> None:
    async with trio.open_nursery() as nursery:
        bench = GuestWorld(SETTINGS)
        await bench.enable(nursery)
        await trio.sleep_until(2.0)
        bench.device.send(*(Challenge(number) for number in range(7, 19)))
        autojump_clock.jump(frozen_s)
        await trio.sleep_until(2.0 + frozen_s + 4.999)
        nursery.cancel_scope.cancel()
    # All of them, as the deployed client does; the host knows which one it still waits for.
    assert said(bench.device.unread()) == [
        (2.0 + frozen_s, beat(number)) for number in range(7, 19)
    ]


async def test_challenge_timeout_of_a_late_process_is_armed_again(
    autojump_clock: MockClock,
) -> None:
    async with trio.open_nursery() as nursery:
        bench = GuestWorld(SETTINGS)
        await bench.enable(nursery)
        await trio.sleep_until(2.0)
        autojump_clock.jump(12)
        await trio.sleep_until(18.999)
        assert bench.guest.session.state is ENABLED
        await trio.sleep_until(19.1)
        nursery.cancel_scope.cancel()
    assert said(bench.device.unread()) == [(19.0 + TAKE_IN_S, init(102))]


async def test_a_freeze_of_less_than_the_guards_patience_excuses_nothing(
    autojump_clock: MockClock,
) -> None:
    async with trio.open_nursery() as nursery:
        bench = GuestWorld(SETTINGS)
        await bench.enable(nursery)
        await trio.sleep_until(5.65)
        autojump_clock.jump(0.75)
        await trio.sleep_until(6.5)
        nursery.cancel_scope.cancel()
    assert said(bench.device.unread()) == [(6.4 + TAKE_IN_S, init(102))]


async def test_a_challenge_before_the_acknowledgement_is_not_answered() -> None:
    async with trio.open_nursery() as nursery:
        bench = GuestWorld(SETTINGS)
        nursery.start_soon(bench.run)
        await bench.device.next()
        bench.device.send(Challenge(7), InitAck(101), Challenge(8))
        await trio.sleep_until(1.5)
        nursery.cancel_scope.cancel()
    assert said(bench.device.unread()) == [(1.0, beat(8))]


# -- the log line that operators grep for ---------------------------------------------------------


async def test_every_change_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "hbtrio.guest")
    async with trio.open_nursery() as nursery:
        bench = GuestWorld(SETTINGS, device=MemoryDevice(persistent=True))
        await bench.enable(nursery)
        bench.device.disconnect()
        await trio.sleep_until(2.0)
        bench.device.connect()
        await trio.sleep_until(3.0)
        bench.device.send(InitAck(102))
        await trio.sleep_until(8.5)
        bench.device.send(InitAck(103))
        await trio.sleep_until(9.0)
        bench.guest.stop()
    assert [line for line in caplog.messages if line.startswith("heartbeat")] == [
        "heartbeat state change from initial to enabling, event=release.",
        "heartbeat state change from enabling to enabled, event=init-ack.",
        "heartbeat state change from enabled to disabled, event=channel-down.",
        "heartbeat state change from disabled to enabling, event=channel-up.",
        "heartbeat state change from enabling to enabled, event=init-ack.",
        "heartbeat state change from enabled to enabling, event=challenge-timeout.",
        "heartbeat state change from enabling to enabled, event=init-ack.",
        "heartbeat state change from enabled to initial, event=shutdown.",
    ]


# -- reload, as on SIGHUP -------------------------------------------------------------------------

CHANGED = msgspec.structs.replace(
    SETTINGS,
    hb_interval_ms=4000,
    hb_init_retry_ms=2000,
    vote_s=20,
    corrective_action=CorrectiveAction.STOP,
)


def reloaded(bench: GuestWorld, events: Path | None = None) -> GuestSetup:
    """The setup of a changed configuration; its device must not be taken over."""
    return GuestSetup(
        device=MemoryDevice(),
        voters=bench.scripts(events),
        session=CHANGED,
        health_script=HealthScript(None, 30, bench.processes, 2, CorrectiveAction.LOG),
        new_id=lambda: 999,
    )


async def test_a_reload_tells_the_host_and_takes_over(tmp_path: Path) -> None:
    runs = {"old": FakeRun(1, b"old"), "new": FakeRun(1, b"new")}
    processes = handlers(tmp_path, runs)
    async with trio.open_nursery() as nursery:
        bench = GuestWorld(SETTINGS, processes=processes, events=tmp_path / "old")
        await bench.enable(nursery)
        await trio.sleep_until(2.0)
        bench.guest.reload(reloaded(bench, tmp_path / "new"))
        assert bench.guest.session.state is ENABLING
        await trio.sleep_until(4.5)
        bench.device.send(InitAck(103), Challenge(7), STOP_VOTE)
        await trio.sleep_until(4.5 + 7.999)
        assert bench.guest.session.state is ENABLED
        await trio.sleep_until(4.5 + 8.001)
        nursery.cancel_scope.cancel()
    assert said(bench.device.unread()) == [
        (2.0, CHANGED.init(102)),
        (4.0, CHANGED.init(103)),
        (4.5, ChallengeResponse(7, Health.HEALTHY, CorrectiveAction.STOP, "")),
        (4.5, response(STOP_VOTE, VoteResult.REJECT, "new")),
        (12.5, CHANGED.init(104)),
    ]
    assert when(processes.started) == [(4.5, "new")]
    assert bench.device.opened == [0.0]


async def test_a_reload_during_a_vote_leaves_it_its_handlers(tmp_path: Path) -> None:
    processes = handlers(tmp_path, {"old": FakeRun(1, b"old", delay_s=3), "new": HANGS})
    async with trio.open_nursery() as nursery:
        bench = GuestWorld(SETTINGS, processes=processes, events=tmp_path / "old")
        await bench.enable(nursery)
        bench.device.send(STOP_VOTE)
        await trio.sleep_until(2.0)
        bench.guest.reload(reloaded(bench, tmp_path / "new"))
        bench.device.send(InitAck(102))
        await trio.sleep_until(5)
        nursery.cancel_scope.cancel()
    assert said(bench.device.unread()) == [
        (2.0, CHANGED.init(102)),
        (4.0, response(STOP_VOTE, VoteResult.REJECT, "old")),
    ]


@pytest.mark.parametrize("up", [True, False])
async def test_a_reload_without_a_host_is_used_from_the_next_init_on(up: bool) -> None:
    async with trio.open_nursery() as nursery:
        bench = GuestWorld(SETTINGS, device=MemoryDevice(persistent=True))
        if not up:
            bench.device.disconnect()
        nursery.start_soon(bench.run)
        await trio.sleep_until(0.5)
        bench.guest.reload(reloaded(bench))
        assert bench.guest.session.state is (INITIAL if up else DISABLED)
        await trio.sleep_until(2.0)
        if not up:
            bench.device.connect()
        await trio.sleep_until(2.5)
        nursery.cancel_scope.cancel()
    assert said(bench.device.unread()) == [(1.0 if up else 2.0, CHANGED.init(101))]


# -- the end --------------------------------------------------------------------------------------


async def test_cancelled_it_goes_without_a_farewell(tmp_path: Path) -> None:
    async with trio.open_nursery() as nursery:
        bench = GuestWorld(
            SETTINGS, processes=handlers(tmp_path, {"handler": HANGS}), events=tmp_path
        )
        await bench.enable(nursery)
        bench.device.send(STOP_VOTE)
        await trio.sleep_until(2.0)
        nursery.cancel_scope.cancel()
    assert bench.device.unread() == []
    assert when(bench.processes.cancelled) == [(2.0, "handler")]
    assert bench.device.closed == [2.0]


async def test_a_farewell_that_nobody_reads_is_bounded() -> None:
    async with trio.open_nursery() as nursery:
        bench = GuestWorld(SETTINGS, device=MemoryDevice(capacity=10))
        await bench.enable(nursery)
        bench.device.stop_reading()
        await trio.sleep_until(2.0)
        bench.guest.stop()
    assert bench.ended_at == 3.0
    assert bench.device.closed == [3.0]


async def test_nothing_is_said_after_the_farewell(tmp_path: Path) -> None:
    """The host takes the exit for the end: what it asks in that moment is no longer answered."""
    async with trio.open_nursery() as nursery:
        bench = GuestWorld(
            SETTINGS,
            processes=handlers(tmp_path, {"handler": HANGS}),
            events=tmp_path,
            device=MemoryDevice(capacity=10),
        )
        await bench.enable(nursery)
        bench.device.stop_reading()
        await trio.sleep_until(2.0)
        bench.device.send(STOP_VOTE)
        await trio.sleep_until(2.5)
        bench.guest.stop()
        await trio.sleep_until(2.75)
        bench.device.send(Challenge(8), STOP_VOTE, InitAck(101))
        await trio.sleep_until(3.0)
        bench.device.resume_reading()
    assert said(bench.device.unread()) == [
        (3.0, response(STOP_VOTE, VoteResult.ERROR, "the daemon is stopping")),
        (3.0, Exit("Exiting...")),
    ]
    assert bench.ended_at == 3.0


async def test_a_farewell_to_a_host_that_goes_away_is_over() -> None:
    async with trio.open_nursery() as nursery:
        bench = GuestWorld(SETTINGS, device=MemoryDevice(persistent=True, capacity=10))
        await bench.enable(nursery)
        bench.device.stop_reading()
        await trio.sleep_until(2.0)
        bench.guest.stop()
        bench.guest.stop()  # an impatient operator
        await trio.sleep_until(2.5)
        bench.device.disconnect()
    assert bench.ended_at == 2.5
    assert bench.device.unread() == []
    assert bench.guest.session.state is INITIAL


@pytest.mark.parametrize("attempt", range(6))  # tasks woken together run in any order
async def test_a_host_that_comes_back_during_the_farewell_gets_no_init(attempt: int) -> None:
    """It would wait for the beats that an init announces, and report a loss."""
    async with trio.open_nursery() as nursery:
        bench = GuestWorld(SETTINGS, device=MemoryDevice(persistent=True))
        bench.device.disconnect()
        nursery.start_soon(bench.run)
        await trio.sleep_until(2.0)
        bench.device.connect()
        bench.guest.stop()
        await trio.sleep_until(5.0)
    assert bench.device.received == []
    assert bench.ended_at == 2.0
    assert bench.guest.session.state is INITIAL
