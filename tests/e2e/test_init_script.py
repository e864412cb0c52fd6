"""deploy/guest-client.init with the real guest: the life of a service, in the LSB's statuses."""

from __future__ import annotations

import fcntl
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import attrs
import pytest
import trio

from hbtrio.lab.guest import LabGuest, write_script
from hbtrio.lab.scene import event, open_scene
from support.real_processes import SOON_S, Ran, end, is_gone, logged, until

pytestmark = [pytest.mark.processes, pytest.mark.usefixtures("home")]

SCRIPT: Final = Path(__file__).parents[2] / "deploy" / "guest-client.init"

#: Takes no SIGTERM, and a while to go when it is killed: its memory goes before the lock on the
#: file that stands for the port.
STUBBORN: Final = """\
import fcntl, signal, sys
signal.signal(signal.SIGTERM, signal.SIG_IGN)
port = open(sys.argv[1], "a")
fcntl.flock(port, fcntl.LOCK_EX)
memory = b"x" * (1 << 28)
signal.pause()
"""

NOT_RUNNING: Final = ["guest-client: not running"]


@attrs.frozen
class Service:
    """A machine's service, in a directory of its own."""

    directory: Path

    @property
    def pidfile(self) -> Path:
        return self.directory / "pid"

    @property
    def errors(self) -> Path:
        return self.directory / "errors"

    @property
    def pid(self) -> int:
        return int(self.pidfile.read_text())

    async def __call__(self, *arguments: str, **variables: str) -> Ran:
        """Runs the script to its end, which a service that holds its output would put off."""
        program = self.directory / "hbtrio"
        write_script(program, f'#!/bin/sh\nexec {sys.executable} -m hbtrio "$@"\n')
        mine = {
            "GUEST_CLIENT": str(program),
            "GUEST_CLIENT_FLAGS": str(self.directory / "flags"),
            "PIDFILE": str(self.pidfile),
            "ERRORS": str(self.errors),
        }
        with trio.fail_after(SOON_S):
            ended = await trio.run_process(
                ["/bin/sh", str(SCRIPT), *arguments],
                stdin=b"",
                capture_stdout=True,
                capture_stderr=True,
                env=os.environ | mine | variables,
                check=False,
            )
        return Ran(
            ended.returncode, ended.stdout.decode().splitlines(), ended.stderr.decode().splitlines()
        )


@pytest.fixture
def service(home: Path) -> Iterator[Service]:
    directory = home / "service"
    directory.mkdir()
    one = Service(directory)
    yield one
    if one.pidfile.exists():
        end({one.pid} - {os.getpid()})


def settings(vm: LabGuest) -> dict[str, str]:
    app_socket = vm.directory / "api"
    options = f"--config {vm.config} --name {vm.name} --log stderr --app-socket {app_socket}"
    return {"GUEST_CLIENT_DEVICE": vm.bridge.device_path, "GUEST_CLIENT_OPTIONS": options}


async def test_the_life_of_the_service(service: Service) -> None:
    async with open_scene() as scene:
        await scene.start_host()
        vm = await scene.add_guest("vm")
        assert await service("status") == Ran(3, NOT_RUNNING, [])

        assert await service("start", **settings(vm)) == Ran(0, [], [])
        first = service.pid
        await scene.events.wait_for(event("heartbeating", vm), within_s=SOON_S)
        assert await service("status") == Ran(0, [f"guest-client: running, process {first}"], [])
        assert os.getsid(first) == first
        assert (service.directory / "flags").stat().st_mode & 0o7777 == 0o700

        again = await service("start", **settings(vm))
        assert again == Ran(0, [f"guest-client: already running, process {first}"], [])
        assert service.pid == first

        assert await service("reload") == Ran(0, [], [])
        await logged(service.errors, "configuration read again")
        assert await service("force-reload") == Ran(0, [], [])
        await logged(service.errors, "configuration read again", 2)

        since = len(scene.events.since())
        assert await service("restart", **settings(vm)) == Ran(0, [], [])
        assert is_gone(first)
        assert service.pid != first
        await scene.events.wait_for(event("heartbeating", vm), within_s=SOON_S, since=since)

        last = service.pid
        assert await service("stop") == Ran(0, [], [])
        assert is_gone(last)
        assert not service.pidfile.exists()
        assert await service("status") == Ran(3, NOT_RUNNING, [])
        # A farewell each time: nothing was lost.
        assert "loss" not in [line["kind"] for line in scene.events.since()]


async def test_one_that_died_and_one_whose_number_is_anothers(service: Service) -> None:
    async with open_scene() as scene:
        vm = await scene.add_guest("vm")
        await service("start", **settings(vm))
        died = service.pid
        os.kill(died, signal.SIGKILL)
        await until(lambda: is_gone(died))
        left = [f"guest-client: dead, but {service.pidfile} exists"]
        assert await service("status") == Ran(1, left, [])

        service.pidfile.write_text(f"{os.getpid()}\n")  # not the service's, and alive
        assert await service("status") == Ran(1, left, [])
        assert await service("reload") == Ran(7, [], NOT_RUNNING)
        assert await service("start", **settings(vm)) == Ran(0, [], [])
        assert service.pid != os.getpid()
        await service("stop")

        service.pidfile.write_text(f"{os.getpid()}\n")
        assert await service("stop") == Ran(0, [], [])
        assert not service.pidfile.exists()


async def test_one_that_has_to_be_killed_has_let_go_of_its_port(service: Service) -> None:
    code, port = service.directory / "stubborn.py", service.directory / "port"
    code.write_text(STUBBORN)
    (service.directory / "stubborn").mkdir()
    program = service.directory / "stubborn" / "hbtrio"
    write_script(program, f'#!/bin/sh\nexec {sys.executable} {code} {port} hbtrio "$@"\n')
    assert await service("start", GUEST_CLIENT=str(program)) == Ran(0, [], [])
    assert await service("stop", GUEST_CLIENT=str(program)) == Ran(0, [], [])
    with port.open() as free:
        fcntl.flock(free, fcntl.LOCK_EX | fcntl.LOCK_NB)
    assert not service.pidfile.exists()


@pytest.mark.parametrize("content", ["", "\n", "no number\n", "-1\n", "4711 5\n"])
async def test_a_pid_file_that_holds_no_pid(service: Service, content: str) -> None:
    service.pidfile.write_text(content)
    left = [f"guest-client: dead, but {service.pidfile} exists"]
    assert await service("status") == Ran(1, left, [])
    assert await service("stop") == Ran(0, [], [])


async def test_what_keeps_it_from_starting(service: Service) -> None:
    nowhere = str(service.directory / "port")
    text = f"hbtrio guest: {nowhere}: no such device; this VM has no heartbeat channel"
    assert await service("start", GUEST_CLIENT_DEVICE=nowhere) == Ran(6, [], [text])

    conf = service.directory / "conf"
    conf.write_text("VOTE=8s\n")
    text = f'hbtrio guest: {conf}:1: VOTE: must be a whole number, got "8s"'
    assert await service("start", GUEST_CLIENT_OPTIONS=f"--config {conf}") == Ran(6, [], [text])

    text = f"hbtrio guest: {conf}: neither a character device nor a unix socket"
    assert await service("start", GUEST_CLIENT_DEVICE=str(conf)) == Ran(6, [], [text])

    missing = await service("start", GUEST_CLIENT=nowhere)
    assert missing == Ran(5, [], [f"guest-client: {nowhere}: not installed"])
    assert not service.pidfile.exists()


async def test_what_does_not_run_is_not_restarted_by_try_restart(service: Service) -> None:
    assert await service("try-restart") == Ran(0, [], [])
    assert await service("status") == Ran(3, NOT_RUNNING, [])


async def test_usage(service: Service) -> None:
    usage = f"usage: {SCRIPT} start|stop|restart|try-restart|reload|force-reload|status"
    assert await service() == Ran(2, [], [usage])
    assert await service("begin") == Ran(2, [], [usage])
