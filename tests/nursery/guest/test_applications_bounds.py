"""What applications can do to the guest all together: lines in its log, and places they take."""

from __future__ import annotations

import errno
import logging
import os
import resource

import pytest
import trio
from trio.testing import MockClock

from hbtrio.fsm.application import ApplicationSession
from hbtrio.fsm.application_effects import Effect
from hbtrio.net.unix_socket import UnixListener
from hbtrio.nursery.guest.app_connection import UNREGISTERED_S
from hbtrio.nursery.guest.app_log import CHANGES, LINES, MISUSES, PERIOD_S, VISITS, Topic
from hbtrio.policy.health_merge import HealthStatus
from hbtrio.wire.app_messages import AppChallenge, AppInitAck, AppMessage
from hbtrio.wire.vocabulary import CorrectiveAction
from support.guest_world import STOP_VOTE
from support.raw_application import AppWorld, RawApplication, app_world, init

pytestmark = pytest.mark.usefixtures("autojump_clock")

#: SO_PEERCRED of an application in this process.
ME = f"pid {os.getpid()}, uid {os.getuid()}, gid {os.getgid()}"


def not_shown(count: int) -> str:
    return f"{count} more lines about applications not shown"


async def flap(world: AppWorld, times: int, name: str = "flap") -> None:
    """Connects, registers and closes, again and again."""
    for _ in range(times):
        (await world.join(init(name))).crash()
        await world.settle()


def names(world: AppWorld) -> list[str]:
    return list(world.applications.handlers(STOP_VOTE))


# -- the log --------------------------------------------------------------------------------------


async def test_who_connects_again_and_again_does_not_fill_the_log(
    caplog: pytest.LogCaptureFixture, world: AppWorld
) -> None:
    caplog.set_level(logging.INFO)
    lines, shown = 2 * 300, LINES[Topic.REGISTRATION]
    caplog.clear()
    await flap(world, 300)
    assert len(caplog.messages) == shown
    await trio.sleep(PERIOD_S - 0.1)
    assert len(caplog.messages) == shown
    await trio.sleep(0.2)
    assert caplog.messages[shown:] == [not_shown(lines - shown)]
    # From now on there is room again, and nothing more to be said of what was.
    await flap(world, 1, "another")
    await trio.sleep(4 * PERIOD_S)
    assert len(caplog.messages) == shown + 3
    assert "application another" in caplog.messages[-1]


async def test_it_does_not_hide_who_is_ill(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with app_world() as world:
        app = await world.join(init("web"))
        await flap(world, 300)
        caplog.clear()
        app.health = HealthStatus(False, CorrectiveAction.REBOOT, "wedged")
        await trio.sleep_until(2.5)
        assert caplog.messages == [
            f"application web ({ME}): state change from healthy to ill, event=answered that it is "
            "unhealthy, reboot: wedged"
        ]


async def test_what_was_not_shown_is_said_at_the_end(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with app_world() as world:
        await flap(world, 300)
        world.serving.cancel()
        await world.settle()
    assert caplog.messages.count(not_shown(600 - LINES[Topic.REGISTRATION])) == 1


async def test_one_connection_has_fewer_lines_than_all(
    caplog: pytest.LogCaptureFixture, world: AppWorld
) -> None:
    """Changes, and slips; what is beyond is counted as well."""
    caplog.set_level(logging.INFO)
    caplog.clear()
    for number, message in enumerate([init("one"), init("two"), AppChallenge(1)] * 30):
        if number == 0:
            app = await world.join(message)
        else:
            app.send(message)
            await trio.sleep(0.1)
    assert len(caplog.messages) == CHANGES + MISUSES
    await trio.sleep(PERIOD_S)
    assert caplog.messages[CHANGES + MISUSES :] == [not_shown(90 - CHANGES - MISUSES)]


async def test_slips_and_closings_are_bounded_over_all_connections(
    caplog: pytest.LogCaptureFixture, world: AppWorld
) -> None:
    for _ in range(200):
        app = await world.join()
        app.send_bytes(b"x" * 300)
        await world.settle()
        app.crash()
    assert len(caplog.messages) == LINES[Topic.MISUSE]


@pytest.mark.parametrize("signs_off", [True, False])
async def test_who_has_registered_is_no_visitor(
    caplog: pytest.LogCaptureFixture, world: AppWorld, *, signs_off: bool
) -> None:
    """The deployed library connects for each registration, and closes after it has signed off."""
    for _ in range(2 * VISITS):
        app = await world.join(init("web"))
        if signs_off:
            app.deregister()
            await world.settle()
        app.crash()
        await world.settle()
    assert "without a registration" not in caplog.text
    for _ in range(VISITS + 1):
        (await world.join(init("web", heartbeat_interval_ms=100))).crash()
        await world.settle()
    assert "without a registration" in caplog.text


async def test_our_own_errors_are_bounded_too(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, world: AppWorld
) -> None:
    def stumbles(application: ApplicationSession, message: AppMessage, now: float) -> list[Effect]:
        raise RuntimeError("a slip")

    monkeypatch.setattr(ApplicationSession, "received", stumbles)
    apps = [await world.join(init()) for _ in range(50)]
    assert {app.closed_at for app in apps} == {1.0}
    assert len([record for record in caplog.records if record.exc_info]) == 5


# -- places ---------------------------------------------------------------------------------------


async def test_who_does_not_register_is_sent_away_after_a_minute(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with app_world() as world:
        idle, web = await world.join(), await world.join(init("web"))
        await trio.sleep_until(2.0)
        refused = await world.join(init("refused", heartbeat_interval_ms=100))
        await trio.sleep_until(40.5)
        web.deregister()
        refused.send(init("refused", heartbeat_interval_ms=100))
        late = await world.join()
        await trio.sleep_until(1.0 + UNREGISTERED_S - 0.01)
        assert (idle.closed_at, refused.closed_at) == (None, None)
        late.send(init("late"))
        await trio.sleep_until(300.0)
        assert (idle.closed_at, refused.closed_at) == (61.0, 62.0)
        assert (web.closed_at, late.closed_at) == (100.5, None)
        assert names(world) == ["late"]
    assert caplog.messages == [
        f"application refused ({ME}): registration refused: its interval of 0.1 s is below 0.4 s",
        *(
            f"application{name} ({ME}): connection closed: not registered for 60 s"
            for name in ("", " refused", " web")
        ),
    ]


@pytest.mark.parametrize("attempt", range(6))  # who of the two runs first is up to trio
async def test_who_registers_at_the_last_moment_stays(attempt: int, world: AppWorld) -> None:
    app = await world.join()
    await trio.sleep_until(1.0 + UNREGISTERED_S)  # both are woken now
    app.send(init("web"))
    await trio.sleep(0.5)
    assert (app.closed_at, names(world)) == (None, ["web"])


async def test_a_freeze_of_the_guest_is_not_the_application_s(
    autojump_clock: MockClock, world: AppWorld
) -> None:
    app = await world.join()
    await trio.sleep_until(2.0)
    autojump_clock.jump(600.0)
    # It has been unregistered since 1.0; up to a tick of the freeze counts.
    await trio.sleep_until(600.0 + UNREGISTERED_S - 0.5)
    assert app.closed_at is None
    await trio.sleep(2.0)
    assert app.closed_at == pytest.approx(600.0 + UNREGISTERED_S + 0.5, abs=0.75)


async def test_the_oldest_who_is_not_registered_gives_way(caplog: pytest.LogCaptureFixture) -> None:
    async with app_world(max_connections=4) as world:
        signs_off, web = await world.join(init("signs off")), await world.join(init("web"))
        await trio.sleep_until(2.0)
        idle = await world.join()
        await trio.sleep_until(3.5)
        signs_off.deregister()
        await trio.sleep_until(4.0)
        fourth = await world.join()
        new = []
        for number in range(3):
            await trio.sleep_until(5.0 + number)
            new.append(await world.join(init(f"new {number}")))
        assert [app.closed_at for app in (idle, signs_off, fourth)] == [5.0, 6.0, 7.0]
        assert names(world) == ["web", "new 0", "new 1", "new 2"]
        # Those who are registered don't.
        assert (await world.join(init("one more"))).closed_at == 7.0
        assert [app.closed_at for app in (web, *new)] == [None] * 4
    assert [line.partition("): ")[2] or line for line in caplog.messages] == [
        *["connection closed: not registered, and a new connection needs the place"] * 3,
        "4 applications are registered; others are refused",
    ]


async def test_of_many_who_come_at_once_so_many_stay_as_there_is_room_for() -> None:
    async with app_world(max_connections=5) as world:
        idle = [RawApplication.connect(world.path, world.nursery) for _ in range(30)]
        await world.settle()
        assert sum(app.closed_at is None for app in idle) == 5


async def test_idle_connections_lock_nobody_out() -> None:
    async with app_world(max_connections=20) as world:
        web = await world.join(init("web"))
        idle = [await world.join() for _ in range(200)]
        db = await world.join(init("db"))
        assert [message for _, message in db.received] == [AppInitAck(True)]
        assert (web.closed_at, names(world)) == (None, ["web", "db"])
        assert sum(app.closed_at is None for app in idle) == 18


async def test_without_descriptors_one_line_names_the_limit(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    accept, short = UnixListener.accept, True

    async def runs_short(listener: UnixListener) -> trio.SocketStream:
        if short:
            await trio.lowlevel.checkpoint()
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return await accept(listener)

    monkeypatch.setattr(UnixListener, "accept", runs_short)
    async with app_world() as world:
        app = await world.join(init("web"))
        await trio.sleep_until(30.0)
        assert app.received == []
        short = False
        await trio.sleep(0.2)
        assert [message for _, message in app.received] == [AppInitAck(True)]
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert caplog.messages == [
        f"can't accept applications: too many open files; the limit (ulimit -n) is {files}"
    ]
