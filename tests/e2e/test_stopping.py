"""TERM ends each daemon within its bound, whatever hangs around it."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import stat
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Final

import pytest
import trio

from hbtrio.errors import UserError
from hbtrio.lab.scene import event, open_scene
from support.dead_file_system import dead_file_system
from support.lone_daemon import KINDS, running, serves
from support.real_processes import SOON_S, logged, until

pytestmark = pytest.mark.processes

#: Within this TERM ends a daemon that nothing is running in: 0.5 s for its log, 1 s for a farewell,
#: and what Python needs to end on a busy machine.
BOUND_S: Final = 5.0

#: The same if a script has to be killed.
KILL_BOUND_S: Final = 10.0


async def ends(process: subprocess.Popen[bytes]) -> int:
    """Sends TERM; returns the exit status once it has ended, within its bound."""
    began = time.monotonic()
    process.send_signal(signal.SIGTERM)
    await until(lambda: process.poll() is not None)
    assert time.monotonic() - began < BOUND_S
    return process.returncode


@contextmanager
def full_pipe() -> Iterator[int]:
    """The end to write to of a pipe that is full and that nobody reads."""
    reading, writing = os.pipe()
    try:
        os.set_blocking(writing, False)
        for size in (65536, 1):
            try:
                while True:
                    os.write(writing, b"\n" * size)
            except BlockingIOError:
                continue
        os.set_blocking(writing, True)
        yield writing
    finally:
        os.close(reading)
        os.close(writing)


@pytest.mark.parametrize("kind", KINDS)
async def test_nobody_reads_its_standard_error(kind: str, home: Path) -> None:
    with full_pipe() as stderr, running(kind, home, stderr=stderr) as daemon:
        await until(lambda: serves(kind, home))
        assert await ends(daemon) == 0


@pytest.mark.parametrize("kind", KINDS)
async def test_its_parent_has_blocked_term(kind: str, home: Path) -> None:
    def block() -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM, signal.SIGINT, signal.SIGHUP))

    with running(kind, home, stderr=subprocess.DEVNULL, before=block) as daemon:
        await until(lambda: serves(kind, home))
        assert await ends(daemon) == 0


@pytest.mark.skipif(os.getuid() != 0, reason="only root can mount")
@pytest.mark.parametrize("kind", KINDS)
async def test_nobody_reads_dev_log(kind: str, home: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as reader:
        (dev := home / "dev").mkdir()
        for name, minor in (("null", 3), ("urandom", 9)):
            os.mknod(dev / name, stat.S_IFCHR | 0o666, os.makedev(1, minor))
        reader.bind(str(dev / "log"))
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.setblocking(False)
            sender.connect(str(dev / "log"))
            with suppress(BlockingIOError):
                while True:
                    sender.send(b"full")
        options, before = ("--log", "syslog"), partial(mount_as_dev, str(dev).encode())
        with running(kind, home, *options, stderr=subprocess.DEVNULL, before=before) as daemon:
            await until(lambda: serves(kind, home))
            assert await ends(daemon) == 0


def mount_as_dev(directory: bytes) -> None:
    """Makes it /dev for this process alone."""
    libc, new_namespace, private, bind = ctypes.CDLL(None), 0x20000, 0x44000, 0x1000
    assert libc.unshare(new_namespace) == 0
    assert libc.mount(b"none", b"/", None, private, None) == 0
    assert libc.mount(directory, b"/dev", None, bind, None) == 0


async def test_an_events_fifo_without_a_reader(home: Path) -> None:
    os.mkfifo(home / "events")
    options = ("--events", "events")
    with running("host", home, *options, stderr=subprocess.DEVNULL) as daemon:
        await until(lambda: serves("host", home))
        assert await ends(daemon) == 0


@pytest.mark.parametrize("key", ["HEALTH_CHECK_SCRIPT", "EVENT_NOTIFICATION_SCRIPT"])
async def test_a_script_of_the_guest_is_on_a_dead_file_system(key: str, home: Path) -> None:
    async with open_scene() as scene:
        await scene.start_host()
        vm = await scene.add_guest("vm")
        with dead_file_system(home / "dead") as dead:
            vm.configure(HB_INTERVAL=400, HEALTH_CHECK_INTERVAL=60, **{key: f"{dead}/script"})
            await vm.start()
            await scene.events.wait_for(event("heartbeating", vm), within_s=SOON_S)
            since = scene.events.end
            if key == "EVENT_NOTIFICATION_SCRIPT":
                await scene.post(f"/v1/instances/{vm.uuid}/vote", {"event": "stop"})
                vote = await scene.events.wait_for(event("vote", vm), within_s=SOON_S, since=since)
                assert vote["result"] == "timeout"
                # Not even the stat before it has delayed a beat.
                assert [line["kind"] for line in scene.events.since(since)] == ["vote"]
            await logged(vm.log, "its file system does not answer")
            assert vm.daemon is not None
            began = time.monotonic()
            assert await vm.daemon.stop() == 0
            assert time.monotonic() - began < BOUND_S
            stopped = await scene.events.wait_for(
                event("stopped", vm), within_s=SOON_S, since=since
            )
            assert stopped["reason"] == "guest exited: Exiting..."


async def test_a_script_of_the_guest_dies_only_after_kill(home: Path) -> None:
    script, pid = home / "script", home / "pid"
    script.write_text(f"#!/bin/sh\ntrap '' TERM\necho $$ >{pid}\nwhile :; do sleep 0.1; done\n")
    script.chmod(0o755)
    async with open_scene() as scene:
        await scene.start_host()
        vm = await scene.add_guest("vm")
        vm.configure(HB_INTERVAL=400, HEALTH_CHECK_INTERVAL=60, HEALTH_CHECK_SCRIPT=script)
        await vm.start()
        await until(lambda: pid.exists() and pid.read_text().endswith("\n"))
        assert vm.daemon is not None
        began = time.monotonic()
        assert await vm.daemon.stop() == 0
        assert time.monotonic() - began < KILL_BOUND_S
        with pytest.raises(ProcessLookupError):
            os.kill(int(pid.read_text()), 0)


async def test_a_command_of_the_host_is_on_a_dead_file_system(home: Path) -> None:
    async with open_scene() as scene, trio.open_nursery() as nursery:

        async def act() -> None:
            path, body = f"/v1/instances/{vm.uuid}/act", {"action": "stop", "force": True}
            with pytest.raises(UserError, match="the daemon went away"):
                await scene.post(path, body)

        with dead_file_system(home / "dead") as dead:
            scene.settings["actions"] = {"stop": [f"{dead}/virsh", "{uuid}"]}
            await scene.start_host()
            vm = await scene.add_guest("vm")
            vm.configure(HB_INTERVAL=400, HEALTH_CHECK_INTERVAL=0)
            await vm.start()
            await scene.events.wait_for(event("heartbeating", vm), within_s=SOON_S)
            nursery.start_soon(act)
            await logged(scene.host_log, "its file system does not answer")
            assert scene.host is not None
            began = time.monotonic()
            assert await scene.host.stop() == 0
            assert time.monotonic() - began < BOUND_S
