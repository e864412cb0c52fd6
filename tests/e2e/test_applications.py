"""Applications as processes of their own at a real guest, beside a real host."""

from __future__ import annotations

import os
import re
import signal
import stat
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from hbtrio.lab.guest import LabGuest
from hbtrio.lab.scene import Scene, event, open_scene
from support import c_application
from support.raw_application import RawApplication, init
from support.real_processes import SOON_S, Ran, hbtrio, logged, until

pytestmark = [pytest.mark.processes, pytest.mark.usefixtures("home")]

ACCEPT, REJECT, SILENT = 1, 2, -1


class Program:
    """A running c_application.

    Args:
        process: it.
        log: its output.
    """

    def __init__(self, process: trio.Process, log: Path) -> None:
        self.process = process
        self.log = log

    def lines(self) -> list[str]:
        return self.log.read_text().splitlines()

    async def says(self, line: str) -> None:
        """Returns once it has said this."""
        await until(lambda: line in self.lines())


@asynccontextmanager
async def program(
    vm: LabGuest, name: str, result: int, reason: str = "", interval_ms: int = 500
) -> AsyncIterator[Program]:
    """A program that is registered at a VM's guest."""
    log = vm.directory / f"{name}.out"
    with open(log, "wb") as output:  # noqa: ASYNC230 - a local file
        arguments = (socket_of(vm), name, interval_ms, result, reason)
        command = [sys.executable, "-I", c_application.__file__, *map(str, arguments)]
        process = await trio.lowlevel.open_process(command, stdout=output)
    try:
        one = Program(process, log)
        await one.says("accepted 1")
        yield one
    finally:
        if process.returncode is None:
            process.kill()
            with trio.CancelScope(shield=True):
                await process.wait()


def socket_of(vm: LabGuest) -> Path:
    return vm.directory / "api"


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@asynccontextmanager
async def heartbeating_vm(**keys: str | int) -> AsyncIterator[tuple[Scene, LabGuest]]:
    """A host and a VM that is heartbeating; a program in it may take its time."""
    async with open_scene() as scene:
        await scene.start_host()
        vm = await scene.add_guest("vm")
        vm.configure(HB_INTERVAL=400, HEALTH_CHECK_INTERVAL=0, VOTE=30, **keys)
        await vm.start()
        await scene.events.wait_for(event("heartbeating", vm), within_s=SOON_S)
        yield scene, vm


async def vote(scene: Scene) -> Ran:
    return await hbtrio("ctl", "--url", scene.url, "vote", "vm", "stop")


async def test_programs_vote_and_one_that_is_killed_does_not_count() -> None:
    async with heartbeating_vm() as (scene, vm):
        async with program(vm, "web", ACCEPT, "fine"), program(vm, "db", REJECT, "dump 40 %"):
            ran = await vote(scene)
            assert (ran.status, "db: dump 40 %" in "\n".join(ran.out + ran.err)) == (3, True)
        async with program(vm, "web", ACCEPT, "fine") as web, program(vm, "db", SILENT) as db:
            async with trio.open_nursery() as nursery:

                async def kill() -> None:
                    await db.says("told 1 1")
                    await web.says("told 1 1")
                    db.process.send_signal(signal.SIGKILL)

                nursery.start_soon(kill)
                with trio.fail_after(SOON_S):  # the window is 30 s
                    ran = await vote(scene)
            assert (ran.status, "web: fine" in "\n".join(ran.out)) == (0, True)
        votes = [line for line in scene.events.since() if line["kind"] == "vote"]
        assert [(line["result"], line["reason"]) for line in votes] == [
            ("reject", "db: dump 40 %"),
            ("accept", "web: fine"),
        ]
        said = vm.log.read_text()
        assert re.search(rf"application db \(pid \d+, uid {os.getuid()}, gid {os.getgid()}\)", said)


async def test_a_stopped_program_makes_its_vm_ill_and_is_well_again() -> None:
    async with heartbeating_vm() as (scene, vm):
        async with program(vm, "web", ACCEPT) as web, program(vm, "db", ACCEPT):
            web.process.send_signal(signal.SIGSTOP)
            ill = await scene.events.wait_for(event("unhealthy", vm), within_s=SOON_S)
            assert (ill["reason"], ill["corrective_action"]) == (
                "Application web heartbeat timeout 1000 ms.",
                "log",
            )
            web.process.send_signal(signal.SIGCONT)
            await logged(vm.log, "state change from silent to healthy")
            assert web.lines() == ["accepted 1"]
        assert "loss" not in [line["kind"] for line in scene.events.since()]


async def test_reload_and_kill_of_the_guest() -> None:
    # No corrective reset: on a busy machine it would come when the next guest is up already.
    async with heartbeating_vm(CORRECTIVE_ACTION="log") as (scene, vm):
        assert mode_of(socket_of(vm)) == 0o660
        async with program(vm, "web", ACCEPT) as web:
            vm.configure(
                HB_INTERVAL=400,
                HEALTH_CHECK_INTERVAL=0,
                CORRECTIVE_ACTION="log",
                APP_SOCKET_MODE="0600",
            )
            assert vm.daemon is not None
            vm.daemon.signal(signal.SIGHUP)
            await until(lambda: mode_of(socket_of(vm)) == 0o600)
            await logged(vm.log, "event=init-ack", times=2)
            assert (await vote(scene)).status == 0
            assert web.lines() == ["accepted 1", "told 1 1"]
            await vm.kill()
            await web.says("the guest is gone")
        assert stat.S_ISSOCK(os.stat(socket_of(vm)).st_mode)  # left behind
        since = scene.events.end
        await vm.start()
        await scene.events.wait_for(event("heartbeating", vm), within_s=SOON_S, since=since)
        async with program(vm, "web", REJECT, "no") as web:
            assert (await vote(scene)).status == 3
            await vm.stop()
            await web.says("the guest is gone")
        assert "api" not in os.listdir(vm.directory)


@asynccontextmanager
async def guest_alone(limit: str) -> AsyncIterator[tuple[trio.Process, Path, Path]]:
    """A guest without a host that was started under this limit; its socket and its log."""
    with tempfile.TemporaryDirectory(prefix="app.") as name:
        directory = Path(name)
        path, log = directory / "api", directory / "log"
        (directory / "conf").touch()
        command = ["sh", "-c", f'ulimit {limit} && exec "$@"', "sh", sys.executable, "-m", "hbtrio"]
        command += ["guest", "--config", str(directory / "conf"), "--app-socket", str(path)]
        command += ["--device", str(directory / "channel"), "--wait-device"]
        with open(log, "wb") as output:  # noqa: ASYNC230 - a local file
            process = await trio.lowlevel.open_process(command, stderr=output)
        try:
            await until(path.exists)
            yield process, path, log
        finally:
            process.kill()
            with trio.CancelScope(shield=True):
                await process.wait()


def limit_of(process: trio.Process) -> list[str]:
    """Its soft and its hard limit of open files."""
    (line,) = (
        line
        for line in Path(f"/proc/{process.pid}/limits").read_text().splitlines()
        if line.startswith("Max open files")
    )
    return line.split()[3:5]


async def test_a_guest_has_descriptors_for_as_many_as_it_lets_in_and_no_more() -> None:
    """Its scripts inherit the limit."""
    async with guest_alone("-S -n 256") as (process, _, _):
        soft, hard = limit_of(process)
        enough = 1024 + 128
        assert int(soft) == (enough if hard == "unlimited" else min(enough, int(hard)))
    async with guest_alone("-n 160") as (process, path, log):
        assert limit_of(process) == ["160", "160"]
        async with trio.open_nursery() as nursery:
            apps = []
            for _ in range(32):
                apps.append(RawApplication.connect(path, nursery, init()))
                await until(lambda: apps[-1].received)
            surplus = RawApplication.connect(path, nursery)
            await until(lambda: surplus.closed_at is not None)
            assert [app.closed_at for app in apps] == [None] * 32
            nursery.cancel_scope.cancel()
        await logged(
            log,
            "ERROR Guest-Client 32 applications are registered; others are refused: the limit of "
            "open files (ulimit -n) is 160\n",
        )


async def test_a_socket_that_was_asked_for_and_cannot_be_had() -> None:
    async with heartbeating_vm() as (_, vm):
        device = vm.bridge.device_path
        missing = vm.directory / "none" / "api"
        ran = await hbtrio("guest", "--device", device, "--app-socket", str(missing))
        assert (ran.status, ran.err[-1:]) == (
            2,
            [f"hbtrio guest: {missing}: its directory does not exist"],
        )
        ran = await hbtrio("guest", "--device", device, "--app-socket", str(socket_of(vm)))
        assert (ran.status, ran.err[-1:]) == (
            7,
            [f"hbtrio guest: {socket_of(vm)}: another process serves it"],
        )
