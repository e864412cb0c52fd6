"""The list of applications, and the socket where it is read."""

from __future__ import annotations

import logging
import os
import socket
import stat
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import attrs
import pytest
import trio
import trio.testing

from hbtrio.nursery.guest.app_requests import KEPT
from hbtrio.nursery.guest.app_status import ANSWER_S, AT_ONCE, PER_S, AppStatusSocket, status_listen
from hbtrio.policy.health_merge import HealthStatus
from hbtrio.wire.app_status import (
    MAX_STATUS_BYTES,
    ApplicationStatus,
    GuestApplications,
    RequestStatus,
    StatusError,
    decode_status,
    encode_status,
)
from hbtrio.wire.vocabulary import CorrectiveAction, VoteResult
from support.guest_world import STOP_NOTICE, STOP_VOTE
from support.raw_application import AppWorld, app_world, init

pytestmark = pytest.mark.usefixtures("autojump_clock")

NOBODY = GuestApplications([], 0)


# -- what is listed ---------------------------------------------------------------------------


async def test_an_application_is_listed_with_its_process_windows_and_health(
    world: AppWorld,
) -> None:
    assert world.applications.status() == NOBODY
    await world.join()
    await trio.sleep_until(2.0)
    web = await world.join(init("web", corrective_action=CorrectiveAction.REBOOT))
    await trio.sleep_until(4.5)
    expected = ApplicationStatus(
        name="web",
        pid=os.getpid(),
        uid=os.getuid(),
        gid=os.getgid(),
        heartbeat_s=1.0,
        vote_s=3,
        shutdown_notice_s=4,
        suspend_notice_s=5,
        resume_notice_s=2,
        if_silent="reboot",
        health="healthy",
        health_s=2.5,
        corrective_action="none",
        reason="",
        requests=[],
    )
    assert world.applications.status() == GuestApplications([expected], unregistered=1)
    web.health = HealthStatus(False, CorrectiveAction.LOG, "disk full")
    await trio.sleep_until(6.0)
    (one,) = world.applications.status().applications
    assert (one.health, one.health_s) == ("ill", 1.0)
    assert (one.corrective_action, one.reason) == ("log", "disk full")
    web.deregister()
    await world.settle()
    assert world.applications.status() == GuestApplications([], unregistered=2)


async def test_the_last_requests_are_listed_with_their_answers(world: AppWorld) -> None:
    app = await world.join(init("orders", heartbeat_interval_ms=60_000))

    def asked() -> list[tuple[str, str, str, str, float]]:
        (one,) = world.applications.status().applications
        return [
            (request.kind, request.event, request.result, request.reason, request.ago_s)
            for request in one.requests
        ]

    world.device.send(STOP_VOTE)
    await trio.sleep_until(2.0)
    assert asked() == [("vote", "stop", "open", "", 1.0)]
    app.answer(await app.asked(), VoteResult.REJECT, "3 orders are open")
    await trio.sleep_until(3.0)
    rejected = ("vote", "stop", "reject", "3 orders are open", 2.0)
    assert asked() == [rejected]
    world.device.send(STOP_NOTICE)  # its own window is 4 s
    await trio.sleep_until(8.0)
    assert asked()[0] == ("notice", "stop", "timeout", "", 5.0)
    # One that a newer one ends.
    world.device.send(STOP_VOTE)
    await world.settle()
    world.device.send(STOP_NOTICE)
    await world.settle()
    app.answer(await app.asked(4), VoteResult.COMPLETE)
    await world.settle()
    assert [one[:3] for one in asked()][:2] == [
        ("notice", "stop", "complete"),
        ("vote", "stop", "none"),
    ]
    for _ in range(KEPT):
        world.device.send(STOP_VOTE)
        await world.settle()
    assert [one[2] for one in asked()] == ["open"] + (KEPT - 1) * ["none"]


def test_the_longest_list_is_within_what_is_read() -> None:
    request = RequestStatus("notice", "cold_migrate_begin", "complete", "ü" * 95, 1e9)
    application = ApplicationStatus(
        "ü" * 19, 2**31 - 1, 2**32 - 1, 2**32 - 1, 4294967.295, *[2**32 - 1] * 4,
        "unknown", "healthy", 1e9, "unknown", "ü" * 95, [request] * KEPT,
    )  # fmt: skip
    status = GuestApplications([application] * 1024, 0)
    assert len(encode_status(status)) < MAX_STATUS_BYTES / 2
    assert decode_status(encode_status(status)) == status


@pytest.mark.parametrize(
    "data", [b"", b"{}", encode_status(NOBODY)[:-2], b"[" * 5000, b'{"applications":"\xff"}']
)
def test_what_is_no_list_is_a_fault(data: bytes) -> None:
    with pytest.raises(StatusError):
        decode_status(data)


def test_keys_of_a_newer_daemon_are_ignored() -> None:
    assert decode_status(b'{"applications":[],"unregistered":0,"more":1}') == NOBODY


# -- the socket -------------------------------------------------------------------------------


@attrs.define
class Served:
    """A status socket that is served."""

    path: Path
    status: GuestApplications = NOBODY

    def connect(self) -> socket.socket:
        """Connects; the caller closes."""
        connection = socket.socket(socket.AF_UNIX)
        connection.setblocking(False)
        connection.connect(str(self.path))
        return connection

    async def ask(self) -> bytes:
        """Everything that the daemon sends."""
        with self.connect() as connection:
            return await read_to_end(connection)


async def read_to_end(connection: socket.socket) -> bytes:
    data = b""
    while True:
        await trio.lowlevel.wait_readable(connection)
        if not (part := connection.recv(65536)):
            return data
        data += part


@asynccontextmanager
async def served(path: Path) -> AsyncIterator[Served]:
    one = Served(path)
    door = AppStatusSocket(status_listen(str(path)), lambda: one.status)
    await door.open()
    await door.open()  # at SIGHUP: it is open already
    async with trio.open_nursery() as nursery:
        nursery.start_soon(door.serve)
        yield one
        nursery.cancel_scope.cancel()


async def test_who_connects_is_sent_the_list(tmp_path: Path) -> None:
    async with served(tmp_path / "status") as one:
        mode = one.path.stat().st_mode
        assert (stat.S_ISSOCK(mode), stat.S_IMODE(mode)) == (True, 0o600)
        assert decode_status(await one.ask()) == NOBODY
        one.status = GuestApplications([], unregistered=3)
        assert decode_status(await one.ask()) == one.status
    assert not one.path.exists()


async def test_more_than_ten_a_second_are_closed_without_an_answer(tmp_path: Path) -> None:
    async with served(tmp_path / "status") as one:
        assert [bool(await one.ask()) for _ in range(PER_S + 2)] == PER_S * [True] + 2 * [False]
        await trio.sleep(1.0)
        assert await one.ask()


async def test_who_does_not_read_has_a_place_for_five_seconds(tmp_path: Path) -> None:
    async with served(tmp_path / "status") as one:
        # More than a socket buffers.
        one.status = GuestApplications([_large()] * 1024, 0)
        idle = [one.connect() for _ in range(AT_ONCE)]
        try:
            await trio.testing.wait_all_tasks_blocked(0.01)
            assert await one.ask() == b""
            await trio.sleep(ANSWER_S - 0.1)
            assert await one.ask() == b""
            await trio.sleep(0.2)
            assert decode_status(await one.ask()) == one.status
            # What they had of it so far is cut off, which the reader finds.
            with pytest.raises(StatusError):
                decode_status(await read_to_end(idle[0]))
        finally:
            for connection in idle:
                connection.close()


def _large() -> ApplicationStatus:
    return ApplicationStatus(
        "web", 1, 0, 0, 1.0, 8, 8, 8, 13, "log", "ill", 1.0, "log", "x" * 191, []
    )


async def test_who_leaves_in_the_middle_of_an_answer_disturbs_nobody(tmp_path: Path) -> None:
    async with served(tmp_path / "status") as one:
        one.status = GuestApplications([_large()] * 1024, 0)
        for _ in range(AT_ONCE + 1):
            one.connect().close()
            await trio.testing.wait_all_tasks_blocked(0.01)
        assert decode_status(await one.ask()) == one.status


@pytest.mark.parametrize(
    "path", [lambda at: at / "missing" / "status", lambda at: at / ("x" * 107)]
)
async def test_a_guest_without_the_socket_says_so_and_goes_on(
    tmp_path: Path, path: Callable[[Path], Path], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    door = AppStatusSocket(status_listen(str(path(tmp_path))), lambda: NOBODY)
    await door.open()
    (line,) = caplog.messages
    assert line.startswith("`hbtrio apps` can't ask this guest: ")
    with trio.move_on_after(5):
        await door.serve()
        raise AssertionError("it waits until it is opened")


async def test_it_is_opened_later_once_it_can_be(tmp_path: Path) -> None:
    path = tmp_path / "later" / "status"
    door = AppStatusSocket(status_listen(str(path)), lambda: NOBODY)
    await door.open()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(door.serve)
        path.parent.mkdir()
        await door.open()
        assert decode_status(await Served(path).ask()) == NOBODY
        nursery.cancel_scope.cancel()


async def test_the_list_of_a_guest_that_serves_applications(tmp_path: Path) -> None:
    async with app_world() as world:
        await world.join(init("web"))
        door = AppStatusSocket(status_listen(str(tmp_path / "status")), world.applications.status)
        await door.open()
        world.nursery.start_soon(door.serve)
        status = decode_status(await Served(tmp_path / "status").ask())
        assert [one.name for one in status.applications] == ["web"]
