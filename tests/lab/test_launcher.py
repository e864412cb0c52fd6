"""A daemon counts as started once it accepts connections, not while a client would have to wait."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest
import trio

from hbtrio.errors import UserError
from hbtrio.lab.daemon import Daemon
from hbtrio.lab.launcher import until_it_serves

pytestmark = pytest.mark.usefixtures("autojump_clock")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "control"


@pytest.fixture
def daemon(tmp_path: Path) -> Daemon:
    """Only its name and its log matter here."""
    log = tmp_path / "log"
    log.write_text("its last line\n")
    return Daemon("a daemon", cast(trio.Process, None), log)


@pytest.fixture
def full(path: Path) -> Iterator[socket.socket]:
    """A listener to which one client is connected that was not accepted: there is no more room."""
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as client:
        listener.bind(str(path))
        listener.listen(0)
        client.connect(str(path))
        yield listener


async def test_it_serves_once_there_is_room(
    daemon: Daemon, path: Path, full: socket.socket
) -> None:
    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(until_it_serves, daemon, path)
        await trio.sleep(5)
        assert nursery.child_tasks
        full.accept()[0].close()
    assert 5 <= trio.current_time() - began < 6


@pytest.mark.parametrize("there", [True, False])
async def test_it_never_serves(
    daemon: Daemon, path: Path, request: pytest.FixtureRequest, *, there: bool
) -> None:
    if there:
        request.getfixturevalue("full")
    began = trio.current_time()
    with pytest.raises(UserError, match=r"a daemon did not serve within 15 s\n(?s:.*)its last"):
        await until_it_serves(daemon, path)
    assert 15 <= trio.current_time() - began < 16
