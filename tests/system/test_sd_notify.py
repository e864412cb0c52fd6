"""What is told to systemd's notification socket."""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from hbtrio.system.sd_notify import ServiceManager

pytestmark = pytest.mark.usefixtures("autojump_clock")


class Manager:
    """The service manager's end."""

    def __init__(self, address: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(address)
        self.socket.setblocking(False)

    def received(self) -> list[str]:
        found = []
        while True:
            try:
                found.append(self.socket.recv(4096).decode())
            except BlockingIOError:
                return found


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "notify")


@pytest.fixture
def manager(path: str) -> Iterator[Manager]:
    one = Manager(path)
    with one.socket:
        yield one


def test_each_word(manager: Manager, path: str) -> None:
    service = ServiceManager.of({"NOTIFY_SOCKET": path}, 1)
    service.ready()
    service.reloading()
    service.stopping()
    assert manager.received() == ["READY=1", "RELOADING=1", "STOPPING=1"]


def test_an_abstract_address() -> None:
    manager = Manager("\0hbtrio-test-notify")
    with manager.socket:
        ServiceManager.of({"NOTIFY_SOCKET": "@hbtrio-test-notify"}, 1).ready()
        assert manager.received() == ["READY=1"]


def test_scripts_do_not_inherit_it(path: str) -> None:
    environ = {
        "NOTIFY_SOCKET": path,
        "WATCHDOG_USEC": "30000000",
        "WATCHDOG_PID": "7",
        "PATH": "/bin",
    }
    ServiceManager.of(environ, 7)
    assert environ == {"PATH": "/bin"}


async def test_signs_of_life_come_twice_as_often_as_is_asked_for(
    manager: Manager, path: str
) -> None:
    environ = {"NOTIFY_SOCKET": path, "WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "7"}
    service = ServiceManager.of(environ, 7)
    async with service.keep_alive():
        await trio.sleep(46)
    assert manager.received() == ["WATCHDOG=1"] * 4  # at 0, 15, 30 and 45 s
    await trio.sleep(60)
    assert manager.received() == []


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "8"},
        {"WATCHDOG_USEC": "0"},
        {"WATCHDOG_USEC": "-1"},
        {"WATCHDOG_USEC": "soon"},
        {"WATCHDOG_USEC": "\u0663"},
    ],
)
async def test_without_a_watchdog_there_are_none(
    manager: Manager, path: str, environ: dict[str, str]
) -> None:
    service = ServiceManager.of(environ | {"NOTIFY_SOCKET": path}, 7)
    async with service.keep_alive():
        await trio.sleep(60)
    assert manager.received() == []


async def test_without_a_service_manager_nothing_is_said(caplog: pytest.LogCaptureFixture) -> None:
    service = ServiceManager.of({"WATCHDOG_USEC": "30000000"}, 7)
    service.ready()
    async with service.keep_alive():
        await trio.sleep(60)
    assert caplog.records == []


def test_one_that_can_not_be_told_has_one_line(path: str, caplog: pytest.LogCaptureFixture) -> None:
    service = ServiceManager.of({"NOTIFY_SOCKET": path}, 7)
    service.ready()
    service.stopping()
    assert [(one.levelno, one.getMessage()) for one in caplog.records] == [
        (logging.WARNING, "the service manager can't be notified: no such file or directory")
    ]


def test_one_that_does_not_read_holds_nobody_up(manager: Manager, path: str) -> None:
    service = ServiceManager.of({"NOTIFY_SOCKET": path}, 7)
    for _ in range(10_000):  # more than any queue of datagrams holds
        service.ready()
    assert 0 < len(manager.received()) < 10_000
