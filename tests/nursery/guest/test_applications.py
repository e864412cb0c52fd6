"""Applications at a guest: registration, beats, health, bounds, and what ends a connection."""

from __future__ import annotations

import logging
import os
import socket
import struct
from pathlib import Path

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

from hbtrio.fsm.application import ApplicationSession
from hbtrio.fsm.application_effects import Effect
from hbtrio.nursery.guest.app_connection import BURST_BYTES, BYTES_PER_S
from hbtrio.nursery.guest.app_writer import UNREAD_S
from hbtrio.nursery.guest.voters import VoterNames
from hbtrio.nursery.port import READ_BYTES
from hbtrio.policy.health_merge import HealthStatus
from hbtrio.wire.app_codec import MAGIC, encode
from hbtrio.wire.app_messages import AppActionResponse, AppChallenge, AppInitAck, AppMessage, Final
from hbtrio.wire.channel_messages import Challenge as HostChallenge
from hbtrio.wire.channel_messages import ChallengeResponse as HostAnswer
from hbtrio.wire.vocabulary import CorrectiveAction, Event, Health, NotificationType, VoteResult
from support.fake_processes import FakeRun
from support.guest_world import STOP_VOTE, handlers
from support.raw_application import AppWorld, RawApplication, app_world, init

pytestmark = pytest.mark.usefixtures("autojump_clock")

NONE, LOG, REBOOT, STOP = (
    CorrectiveAction.NONE,
    CorrectiveAction.LOG,
    CorrectiveAction.REBOOT,
    CorrectiveAction.STOP,
)
#: SO_PEERCRED of an application in this process.
ME = f"pid {os.getpid()}, uid {os.getuid()}, gid {os.getgid()}"
WELL = (Health.HEALTHY, REBOOT, "")


async def health_of(world: AppWorld) -> tuple[Health, CorrectiveAction, str]:
    """What the host hears of the VM's health at this moment."""
    world.device.send(HostChallenge(7))
    await world.settle()
    (answer,) = (one.message for one in world.device.unread())
    assert isinstance(answer, HostAnswer)
    return answer.heartbeat_health, answer.corrective_action, answer.log_msg


def silent(name: str, action: CorrectiveAction = STOP, ms: int = 2000) -> object:
    return (Health.UNHEALTHY, action, f"Application {name} heartbeat timeout {ms} ms.")


def lines_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [line for line in caplog.messages if line.startswith("application ")]


# -- registration and beats -----------------------------------------------------------------------


async def test_who_registers_is_acknowledged_and_challenged_on_its_grid(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    async with app_world() as world:
        app = await world.join(init("web", heartbeat_interval_ms=700))
        await trio.sleep_until(3.5)
        assert app.received == [
            (1.0, AppInitAck(True)),
            (1.7, AppChallenge(5001)),
            (2.4, AppChallenge(5002)),
            (3.1, AppChallenge(5003)),
        ]
        assert await health_of(world) == WELL
    assert lines_of(caplog)[0] == (
        f"application web ({ME}): state change from unregistered to healthy, event=init accepted"
        ", interval 0.7 s, stop if it hangs"
    )


async def test_below_the_shortest_interval_nobody_is_registered(world: AppWorld) -> None:
    app = await world.join(init(heartbeat_interval_ms=399))
    await trio.sleep_until(3.0)
    app.send(init(heartbeat_interval_ms=400))
    await trio.sleep_until(3.5)
    assert app.received == [
        (1.0, AppInitAck(False)),
        (3.0, AppInitAck(True)),
        (3.4, AppChallenge(5001)),
    ]


async def test_a_registration_that_ends_by_a_refusal_is_one_line(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    async with app_world() as world:
        app = await world.join(init("web"))
        app.send(*[init("web", heartbeat_interval_ms=100)] * 3)
        await world.settle()
        app.crash()
    assert lines_of(caplog)[1:] == [
        f"application web ({ME}): state change from healthy to unregistered, event=init refused"
        ": its interval of 0.1 s is below 0.4 s"
    ]


@pytest.mark.parametrize("piece", [1, 7, 20, 227, 228, 229, 500])
async def test_bytes_may_come_cut_anywhere(piece: int, world: AppWorld) -> None:
    app = await world.join()
    data = b"".join(map(app.encoded, (init("one"), Final("Exiting"), init("two"))))
    for start in range(0, len(data), piece):
        app.send_bytes(data[start : start + piece])
        await world.settle()
    await trio.sleep_until(2.5)
    assert app.received == [
        (1.0, AppInitAck(True)),
        (1.0, AppInitAck(True)),
        (2.0, AppChallenge(5001)),
    ]
    assert list(world.applications.handlers(STOP_VOTE)) == ["two"]


async def test_garbage_and_other_versions_are_skipped_and_said(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with app_world() as world:
        app = await world.join()
        other = bytearray(app.encoded(init("wrong")))
        other[8] = 3
        app.send_bytes(b"GET / HTTP/1.1\r\n\r\n" + bytes(other) + MAGIC[:5] + b"x")
        app.send(init("right"), AppChallenge(1))
        await world.settle()
        assert app.received == [(1.0, AppInitAck(True))]
        assert list(world.applications.handlers(STOP_VOTE)) == ["right"]
    assert lines_of(caplog) == [
        f"application right ({ME}): ignored: Challenge, which applications don't send",
        f"application right ({ME}): skipped so far: 24 bytes that are no message, "
        "1 messages of another version, 0 of an unknown type",
    ]


async def test_a_second_init_replaces_the_first(world: AppWorld) -> None:
    app = await world.join(init("old", heartbeat_interval_ms=5000))
    app.send(init("new", heartbeat_interval_ms=500))
    await trio.sleep_until(2.2)
    assert app.received == [
        (1.0, AppInitAck(True)),
        (1.0, AppInitAck(True)),
        (1.5, AppChallenge(5001)),
        (2.0, AppChallenge(5002)),
    ]
    assert list(world.applications.handlers(STOP_VOTE)) == ["new"]


async def test_an_init_with_other_terms_is_in_the_log(
    caplog: pytest.LogCaptureFixture, world: AppWorld
) -> None:
    caplog.set_level(logging.INFO)
    app = await world.join(init("old", heartbeat_interval_ms=5000))
    app.send(*[init("new", heartbeat_interval_ms=500, corrective_action=LOG)] * 3)
    await world.settle()
    assert lines_of(caplog)[1:] == [
        f'application new ({ME}): registered again, was "old", interval 0.5 s, log if it hangs'
    ]


async def test_names_are_made_different(world: AppWorld) -> None:
    for name in ("web", "", "web", "web (2)", "web", ""):
        await world.join(init(name))
    await world.join()  # not registered
    assert list(world.applications.handlers(STOP_VOTE)) == [
        "web",
        "application",
        "web (2)",
        "web (2) (2)",
        "web (3)",
        "application (2)",
    ]


PIECES = st.one_of(
    st.binary(max_size=400),
    st.sampled_from([MAGIC, MAGIC[:3], MAGIC + b"\2\1", bytes(228)]),
    st.builds(
        lambda kind, body: struct.pack("@8sBBHII", MAGIC, 2, 1, kind, 1, 228) + body,
        st.integers(0, 8),
        st.binary(min_size=208, max_size=208),
    ),
)


@settings(deadline=None, max_examples=60)
@given(pieces=st.lists(PIECES, max_size=20), cut=st.integers(5, 300))
def test_whatever_bytes_come_the_neighbours_are_well(pieces: list[bytes], cut: int) -> None:
    async def send() -> None:
        async with app_world() as world:
            well, odd = await world.join(init("well")), await world.join()
            data = b"".join(pieces)
            for start in range(0, len(data), cut):
                odd.send_bytes(data[start : start + cut])
                await trio.sleep(0.01)
            odd.send_bytes(bytes(228))  # ends what was begun
            odd.send(init("at last"))
            await trio.sleep(3.5)
            assert odd.closed_at is None
            assert len(well.received_of(AppChallenge)) >= 3
            assert list(world.applications.handlers(STOP_VOTE)) == ["well", "at last"]

    trio.run(send, clock=MockClock(autojump_threshold=0))


async def test_a_script_keeps_its_name(tmp_path: Path) -> None:
    scripts = handlers(tmp_path, {"web": FakeRun(), "db": FakeRun()})
    async with app_world(events=tmp_path, processes=scripts) as world:
        await world.join(init("web"))
        voters = world.guest.setup.voters
        assert list(voters.handlers(STOP_VOTE)) == ["db", "web", "web (2)"]


def test_a_thousand_of_one_name_are_named_in_no_time() -> None:
    names = VoterNames()
    assert len({names.take("web") for _ in range(1000)}) == 1000
    assert names.take("web") == "web (1001)"


# -- health ---------------------------------------------------------------------------------------


async def test_a_stalled_application_is_ill_until_it_answers(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    async with app_world() as world:
        app = await world.join(init("web"))
        await trio.sleep_until(2.5)
        app.beats = False
        # The last answer was at 2.0, the challenge of 3.0 is never answered.
        await trio.sleep_until(3.999)
        assert await health_of(world) == WELL
        await trio.sleep_until(4.011)
        assert await health_of(world) == silent("web")
        await trio.sleep_until(60.5)
        assert app.received_of(AppChallenge) == [
            (2.0, AppChallenge(5001)),
            (3.0, AppChallenge(5002)),
        ]
        app.beat(AppChallenge(5002))
        await world.settle()
        assert await health_of(world) == WELL
        app.beats = True
        await trio.sleep_until(61.5)
        assert app.received_of(AppChallenge)[2:] == [(61.0, AppChallenge(5003))]
    assert lines_of(caplog)[1:3] == [
        f"application web ({ME}): state change from healthy to silent, event=no correct answer "
        "for two intervals, stop: Application web heartbeat timeout 2000 ms.",
        f"application web ({ME}): state change from silent to healthy, event=answered that it is "
        "healthy",
    ]


async def test_what_an_application_says_of_its_health_is_in_the_very_next_answer(
    world: AppWorld,
) -> None:
    web, db = await world.join(init("web")), await world.join(init("db"))
    web.health = HealthStatus(False, LOG, "disk full")
    db.health = HealthStatus(False, REBOOT, "wedged")
    await trio.sleep_until(2.001)
    assert await health_of(world) == (Health.UNHEALTHY, REBOOT, "wedged")
    db.health = HealthStatus(True)
    await trio.sleep_until(3.001)
    assert await health_of(world) == (Health.UNHEALTHY, LOG, "disk full")
    web.deregister()
    await world.settle()
    assert await health_of(world) == WELL


async def test_a_cause_that_is_new_is_in_the_log_while_an_application_is_ill(
    caplog: pytest.LogCaptureFixture, world: AppWorld
) -> None:
    caplog.set_level(logging.INFO)
    app = await world.join(init("web"))
    app.health = HealthStatus(False, LOG, "a: minor")
    await trio.sleep_until(4.5)
    assert await health_of(world) == (Health.UNHEALTHY, LOG, "a: minor")
    app.health = HealthStatus(False, REBOOT, "b: reboot me")
    await trio.sleep_until(7.5)
    assert await health_of(world) == (Health.UNHEALTHY, REBOOT, "b: reboot me")
    assert caplog.messages[-3:] == [
        "asking the host for log: web: a: minor",
        f"application web ({ME}): still ill, reboot: b: reboot me",
        "asking the host for reboot: web: b: reboot me",
    ]


@pytest.mark.parametrize("end", [RawApplication.crash, RawApplication.deregister])
async def test_who_has_gone_makes_nobody_ill(end: object, world: AppWorld) -> None:
    app = await world.join(init("web"))
    app.beats = False
    await trio.sleep_until(5.0)
    assert await health_of(world) == silent("web")
    assert callable(end)
    end(app)
    await world.settle()
    assert await health_of(world) == WELL
    assert world.applications.health() == []
    await trio.sleep_until(10.0)
    assert await health_of(world) == WELL


async def test_an_answer_that_lies_unread_at_the_deadline_counts(world: AppWorld) -> None:
    app = await world.join(init("web"))
    app.beats = False
    await trio.sleep_until(3.0)  # both are woken now: who runs first is up to trio
    app.beat(AppChallenge(5001))
    await trio.sleep(0.02)
    assert await health_of(world) == WELL


async def test_nobody_is_declared_silent_for_the_guest_s_own_freeze(
    autojump_clock: MockClock, world: AppWorld
) -> None:
    app = await world.join(init("web"))
    hung = await world.join(init("hung", corrective_action=LOG))
    await trio.sleep_until(2.5)
    app.beats = hung.beats = False
    await trio.sleep_until(3.5)  # one challenge is out
    autojump_clock.jump(30.0)
    app.beat(AppChallenge(5003))
    app.beats = True
    await world.settle()
    assert await health_of(world) == WELL
    await trio.sleep_until(35.4)
    assert await health_of(world) == WELL
    # The one that really hangs is found out two intervals after the guest woke up.
    await trio.sleep_until(35.6)
    assert await health_of(world) == silent("hung", LOG)


# -- bounds ---------------------------------------------------------------------------------------


async def test_a_flooding_application_is_read_at_its_rate_and_disturbs_nobody(
    world: AppWorld,
) -> None:
    web = await world.join(init("web"))
    flood = await world.join(init("flood"))
    flood.beats = False
    answer = AppActionResponse(1, Event.STOP, NotificationType.REVOCABLE, VoteResult.REJECT, "no")
    sent = 0

    async def pour() -> None:
        nonlocal sent
        while True:
            await trio.lowlevel.wait_writable(flood.connection)
            sent += flood.connection.send(flood.encoded(answer) * 16)

    world.nursery.start_soon(pour)
    await trio.sleep_until(21.5)
    room = flood.connection.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)
    # A beat that is due reads once more, though the bucket is empty.
    assert sent <= room + BURST_BYTES + 21 * (BYTES_PER_S + READ_BYTES)
    assert [at_s for at_s, _ in web.received_of(AppChallenge)] == [float(n) for n in range(2, 22)]
    assert await health_of(world) == silent("flood")


@pytest.mark.parametrize(
    ("pause_s", "why"),
    [
        (0.05, "the application does not read"),
        (0.2, f"unread data for {UNREAD_S:g} s"),
    ],
)
async def test_who_does_not_read_is_cut_off_after_a_while(
    pause_s: float, why: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with app_world() as world:
        with socket.socket(socket.AF_UNIX) as deaf:
            deaf.connect(str(world.path))
            deaf.setblocking(False)
            registration = encode(init("deaf"), 1)
            for _ in range(100_000):  # each is acknowledged
                if lines_of(caplog):
                    break
                deaf.send(registration)
                await trio.sleep(pause_s)
            await world.settle()
            assert list(world.applications.handlers(STOP_VOTE)) == []
    assert lines_of(caplog) == [f"application deaf ({ME}): connection closed: {why}"]


async def test_beyond_their_number_applications_are_sent_away(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with app_world(max_connections=2) as world:
        first, second = await world.join(init("one")), await world.join(init("two"))
        surplus = [await world.join() for _ in range(3)]
        assert [app.closed_at for app in surplus] == [1.0, 1.0, 1.0]
        assert list(world.applications.handlers(STOP_VOTE)) == ["one", "two"]
        first.crash()
        await world.settle()
        third = await world.join(init("three"))
        assert third.closed_at is None
        assert (await world.join()).closed_at == 1.0
        assert second.closed_at is None
        assert list(world.applications.handlers(STOP_VOTE)) == ["two", "three"]
    assert [
        record.getMessage() for record in caplog.records if "refused" in record.getMessage()
    ] == ["2 applications are registered; others are refused"] * 2


async def test_an_error_of_ours_costs_one_connection(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Met by bytes (an init), and in the pacer's task (a challenge that is due)."""
    async with app_world() as world:
        well = await world.join(init("well"))
        received, expired = ApplicationSession.received, ApplicationSession.expired

        def stumbles(
            application: ApplicationSession, message: AppMessage, now: float
        ) -> list[Effect]:
            if message == init("bad bytes"):
                raise RuntimeError("a slip")
            return received(application, message, now)

        def trips(
            application: ApplicationSession, now: float, *, late: bool, stalled_s: float
        ) -> list[Effect]:
            if application.profile.name == "bad time":
                raise RuntimeError("a slip")
            return expired(application, now, late=late, stalled_s=stalled_s)

        monkeypatch.setattr(ApplicationSession, "received", stumbles)
        monkeypatch.setattr(ApplicationSession, "expired", trips)
        bytes_, time = await world.join(init("bad bytes")), await world.join(init("bad time"))
        await trio.sleep_until(4.5)
        assert [well.closed_at, bytes_.closed_at, time.closed_at] == [None, 1.0, 2.0]
        assert len(well.received_of(AppChallenge)) == 3
        assert list(world.applications.handlers(STOP_VOTE)) == ["well"]
    crashes = [record for record in caplog.records if record.exc_info is not None]
    assert [record.getMessage() for record in crashes] == [
        f"application ({ME}): connection closed: internal error",
        f"application bad time ({ME}): connection closed: internal error",
    ]


async def test_the_end_of_the_guest_ends_the_connections(world: AppWorld) -> None:
    app = await world.join(init("web"))
    world.serving.cancel()
    await world.settle()
    assert app.closed_at == 1.0
    assert world.applications.health() == []
    assert not world.path.exists()
