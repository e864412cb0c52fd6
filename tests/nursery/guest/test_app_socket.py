"""The socket where applications register: what is there, who may, and what if it can't be had."""

from __future__ import annotations

import grp
import itertools
import logging
import os
import socket
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from hbtrio.errors import ExitStatus, UserError
from hbtrio.nursery.guest import app_connection
from hbtrio.nursery.guest.app_socket import AppSocket, app_listen
from hbtrio.nursery.guest.applications import Applications
from hbtrio.policy.time_guard import OnTimeGuard
from hbtrio.wire.app_messages import AppInitAck
from support.guest_world import STOP_VOTE
from support.raw_application import RawApplication, init

#: A group that this process may give its files to.
GROUP = grp.getgrgid(os.getgid()).gr_name


@pytest.fixture
def path() -> Iterator[Path]:
    # Not tmp_path: a socket's name may have 106 bytes only.
    with tempfile.TemporaryDirectory(prefix="app.") as directory:
        yield Path(directory, "api")


def applications() -> Applications:
    return Applications(itertools.count().__next__, OnTimeGuard(trio.current_time()))


def owned(path: Path) -> tuple[int, int]:
    """Its permission bits and its group."""
    found = path.stat()
    return stat.S_IMODE(found.st_mode), found.st_gid


def is_there(path: Path) -> bool:
    return path.exists()


def put(path: Path, mode: int) -> None:
    """A file in the place of the socket."""
    path.unlink(missing_ok=True)
    path.touch(mode=mode)


async def test_it_is_served_in_the_place_of_a_stale_one(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as left_behind:
        left_behind.bind(str(path))
    served = applications()
    door = AppSocket(app_listen(str(path)), served, required=True)
    await door.open(0o620, GROUP)
    assert owned(path) == (0o620, os.getgid())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(door.serve)
        app = RawApplication.connect(path, nursery, init("web"))
        while not app.received:
            await wait_all_tasks_blocked()
        assert [message for _, message in app.received] == [AppInitAck(True)]
        nursery.cancel_scope.cancel()
    assert os.listdir(path.parent) == ["api.lock"]


async def test_who_connects_anew_at_its_end_finds_it_closed(path: Path) -> None:
    served = applications()
    door = AppSocket(app_listen(str(path)), served, required=True)
    await door.open(0o660, "")
    there: list[bool] = []
    async with trio.open_nursery() as nursery, trio.open_nursery() as serving:
        serving.start_soon(door.serve)
        app = RawApplication.connect(path, nursery, init("web"))
        while not app.received:
            await wait_all_tasks_blocked()
        close = app_connection.AppConnection.run

        async def run(connection: app_connection.AppConnection) -> None:
            try:
                await close(connection)
            finally:
                there.append(is_there(path))

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(app_connection.AppConnection, "run", run)
            others = [RawApplication.connect(path, nursery, init(name)) for name in "abcdef"]
            while not all(one.received for one in others):
                await wait_all_tasks_blocked()
            serving.cancel_scope.cancel()
    assert there == [False] * len(others)


async def test_a_reload_keeps_the_connections(path: Path) -> None:
    served = applications()
    door = AppSocket(app_listen(str(path)), served, required=True)
    await door.open(0o660, "")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(door.serve)
        app = RawApplication.connect(path, nursery, init("web"))
        while not app.received:
            await wait_all_tasks_blocked()
        await door.reload(0o600, GROUP)
        assert owned(path) == (0o600, os.getgid())
        other = RawApplication.connect(path, nursery, init("db"))
        while not other.received:
            await wait_all_tasks_blocked()
        assert app.closed_at is None
        assert list(served.handlers(STOP_VOTE)) == ["web", "db"]
        nursery.cancel_scope.cancel()


async def test_a_reload_with_a_fault_changes_nothing(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    door = AppSocket(app_listen(str(path)), applications(), required=True)
    await door.open(0o660, "")
    await door.reload(0o600, "no-such-group")
    assert owned(path)[0] == 0o660
    os.unlink(path)
    await door.reload(0o600, "")
    put(path, 0o640)
    await door.reload(0o600, "")
    assert owned(path)[0] == 0o640
    assert [record.getMessage() for record in caplog.records] == [
        f"not reloaded: {path}: no group named no-such-group",
        f"not reloaded: {path}: no longer exists",
        f"not reloaded: {path}: no longer exists",
    ]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(door.serve)
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()


async def test_one_that_was_asked_for_and_cannot_be_had(path: Path) -> None:
    door = AppSocket(app_listen(str(path / "api")), applications(), required=True)
    with pytest.raises(UserError, match="its directory does not exist") as caught:
        await door.open(0o660, "")
    assert caught.value.status is ExitStatus.USAGE


async def test_the_default_one_is_done_without_until_a_reload_finds_it_can_be_had(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    place = path / "api"
    served = applications()
    door = AppSocket(app_listen(str(place)), served, required=False)
    await door.open(0o660, "")
    assert [record.getMessage() for record in caplog.records] == [
        f"applications are not served: {place}: its directory does not exist"
    ]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(door.serve)
        await wait_all_tasks_blocked()
        os.mkdir(path)
        await door.reload(0o660, "")
        app = RawApplication.connect(place, nursery, init("web"))
        while not app.received:
            await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert os.listdir(path) == ["api.lock"]
