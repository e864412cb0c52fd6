"""What daemons do when descriptors, processes, threads, inotify instances or the disk run out."""

from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
import socket
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

from hbtrio.lab.bridge import Bridge
from hbtrio.lab.guest import write_script
from support.guest_farm import open_guest_farm
from support.lone_daemon import OTHER, as_other_user, running, serves
from support.real_agent import real_agent
from support.real_processes import SOON_S, Ran, hbtrio, logged, until

pytestmark = pytest.mark.processes

HOST_UUID = "11111111-2222-3333-4444-555555555555"


@contextmanager
def logging_to_file(place: Path) -> Iterator[tuple[int, Path]]:
    log = place / "log" if place.is_dir() else place
    with open(log, "ab") as file:
        yield file.fileno(), log


async def ctl(home: Path, *words: str, name: str = "host.sock") -> Ran:
    return await hbtrio("ctl", "--url", f"unix:{home}/{name}", *words)


async def status(home: Path, name: str = "host.sock") -> dict[str, Any]:
    ran = await ctl(home, "status", "--json", name=name)
    assert ran.status == 0, ran.err
    found = json.loads("\n".join(ran.out))
    assert isinstance(found, dict)
    return found


async def beating(home: Path, count: int) -> int:
    """Waits until so many instances are heartbeating at least; returns how many are."""
    while True:
        instances = (await status(home))["instances"]
        found = sum(one["state"] == "heartbeating" for one in instances)
        if found >= count:
            return found
        await trio.sleep(0.2)


# -- descriptors ----------------------------------------------------------------------------


def with_64_descriptors() -> None:
    # The hard limit, too: a daemon raises its soft one.
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))


@pytest.mark.parametrize(
    "before",
    [None, with_64_descriptors],
    ids=["while it runs", "from its start"],
)
async def test_a_host_with_64_descriptors_and_200_vms(
    before: Callable[[], None] | None, home: Path
) -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    with (
        logging_to_file(home) as (stderr, log),
        running("host", home, stderr=stderr, before=before) as host,
    ):
        await until(lambda: serves("host", home))
        if before is None:
            resource.prlimit(host.pid, resource.RLIMIT_NOFILE, (64, hard))
        async with open_guest_farm(home / "ch") as farm:
            await farm.listen(200)
            with trio.fail_after(60):
                assert await beating(home, 10) < 64
                # Commands have descriptors, too.
                instances = (await status(home))["instances"]
                (one, *_) = [one for one in instances if one["state"] == "heartbeating"]
                acted = await ctl(home, "act", "--force", one["uuid"], "unpause", "--", "/bin/true")
                assert acted.status == 0, acted
                why = [one["why"] for one in instances if "descriptors are reserved" in one["why"]]
                assert len(why) > 100
                text = log.read_text()
                assert text.count("channels are not connected") == 1
                assert "Traceback" not in text
                if before is None:  # It recovers by itself; a hard limit can't be raised again.
                    resource.prlimit(host.pid, resource.RLIMIT_NOFILE, (hard, hard))
                    await beating(home, 195)
        assert log.read_text().count("channels are not connected") == 1


@contextmanager
def connected(path: Path, count: int) -> Iterator[list[socket.socket]]:
    with ExitStack() as stack:
        made = []
        for _ in range(count):
            client = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
            client.settimeout(SOON_S)
            client.connect(str(path))
            made.append(client)
        yield made


@asynccontextmanager
async def limited(kind: str, home: Path) -> AsyncIterator[tuple[subprocess.Popen[bytes], Path]]:
    """A daemon that serves, with 64 descriptors from then on, and its log."""
    with logging_to_file(home) as (stderr, log), running(kind, home, stderr=stderr) as daemon:
        await until(lambda: serves(kind, home))
        hard = resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE)[1]
        resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE, (64, hard))
        yield daemon, log


async def test_an_agent_with_64_descriptors_and_a_storm_of_hosts(home: Path) -> None:
    async with limited("agent", home) as (agent, log):
        with connected(home / "link.sock", 60):
            await logged(log, "hosts are refused")
            assert (await status(home, "agent.sock"))["hosts"] == []
        await until(lambda: len(os.listdir(f"/proc/{agent.pid}/fd")) < 32)
        with connected(home / "link.sock", 1) as (client,):
            client.setblocking(False)
            await trio.sleep(0.2)
            with pytest.raises(BlockingIOError):
                client.recv(1)  # it is not closed
        text = log.read_text()
        assert text.count("hosts are refused") == 1
        assert "Traceback" not in text


async def test_an_agent_with_64_descriptors_and_clients_that_ask_nothing(home: Path) -> None:
    """They may use the reserved descriptors, too, but not keep them from others."""
    async with limited("agent", home) as (agent, log):
        with connected(home / "agent.sock", 200):
            assert (await status(home, "agent.sock"))["hosts"] == []
            assert len(os.listdir(f"/proc/{agent.pid}/fd")) < 48
        assert "refused" not in log.read_text()


async def test_a_guest_with_64_descriptors_and_a_storm_of_applications(home: Path) -> None:
    async with limited("guest", home) as (guest, log):
        with connected(home / "apps.sock", 60):
            await logged(log, "can't accept applications")
            assert len(os.listdir(f"/proc/{guest.pid}/fd")) < 40
        await until(lambda: len(os.listdir(f"/proc/{guest.pid}/fd")) < 32)
        with connected(home / "apps.sock", 1) as (client,):
            client.setblocking(False)
            await trio.sleep(0.2)
            with pytest.raises(BlockingIOError):
                client.recv(1)
        assert log.read_text().count("can't accept applications") == 1
        assert "Traceback" not in log.read_text()


# -- inotify --------------------------------------------------------------------------------


def without_inotify(what: str) -> None:
    """Leaves a process no inotify instances or watches, in a user namespace of its own."""
    user, group = os.getuid(), os.getgid()
    assert ctypes.CDLL(None).unshare(0x10000000) == 0
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"{user} {user} 1")
    Path("/proc/self/gid_map").write_text(f"{group} {group} 1")
    Path(f"/proc/sys/user/max_inotify_{what}").write_text("0")


@pytest.mark.parametrize("what", ["instances", "watches"])
async def test_a_host_without_inotify_scans(what: str, home: Path) -> None:
    before = partial(without_inotify, what)
    with (
        logging_to_file(home) as (stderr, log),
        running("host", home, stderr=stderr, before=before) as host,
    ):
        await logged(log, f"(see fs.inotify.max_user_{what}), scanning every 2 s")
        async with open_guest_farm(home / "ch") as farm:
            await farm.listen(3)
            with trio.fail_after(SOON_S):
                assert await beating(home, 3) == 3
        grant = f"echo 8 > /proc/sys/user/max_inotify_{what}"
        await trio.run_process(["nsenter", "-t", str(host.pid), "-U", "sh", "-c", grant])
        await logged(log, "watching the directory")


# -- a full disk ----------------------------------------------------------------------------


async def test_a_host_whose_events_and_log_are_on_a_full_disk(home: Path) -> None:
    (home / "events").symlink_to("/dev/full")
    with logging_to_file(Path("/dev/full")) as (full, _):
        options = ("--events", "events")
        with running("host", home, *options, stderr=full) as host:
            await until(lambda: serves("host", home))
            async with open_guest_farm(home / "ch") as farm:
                await farm.listen(3)
                with trio.fail_after(SOON_S):
                    assert await beating(home, 3) == 3
                    fault = (await status(home))["host"]["events_fault"]
                    assert fault["why"] == "no space left on device"
                    (home / "events").unlink()
                    host.send_signal(signal.SIGHUP)
                    while fault is not None:
                        fault = (await status(home))["host"]["events_fault"]
            host.terminate()
            await until(lambda: host.poll() is not None)
            assert host.returncode == 0


async def test_an_agent_whose_disk_is_full(home: Path) -> None:
    async with real_agent(home) as agent:
        pid, about = agent.daemon.pid, {"uuid": HOST_UUID, "hostname": "compute-0"}
        soft, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, hard))
        refused = await agent.ask("POST", f"/v1/hosts/{HOST_UUID}", about)
        assert refused.status == 503
        shown = (await agent.operate("GET", "/v1/status"))["agent"]
        assert shown["store_fault"] != ""
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (soft, hard))
        answered = await agent.ask("POST", f"/v1/hosts/{HOST_UUID}", about)
        assert answered.status == 200
        shown = (await agent.operate("GET", "/v1/status"))["agent"]
        assert shown["crashes"] == 0
        await until(lambda: "Traceback" not in agent.log)


@contextmanager
def small_disk(place: Path) -> Iterator[Path]:
    """A file system of 4 MiB; yields the path of the file that fills it."""
    place.mkdir(exist_ok=True)
    mounting = ["mount", "-t", "tmpfs", "-o", "size=4m,mode=700", "tmpfs", str(place)]
    if os.getuid() != 0 or subprocess.run(mounting, capture_output=True, check=False).returncode:
        pytest.skip("may not mount a file system")
    try:
        yield place / "filler"
    finally:
        subprocess.run(["umount", str(place)], check=True)


def fill(filler: Path) -> None:
    """Takes the last byte of a disk."""
    with open(filler, "ab", buffering=0) as file:
        for size in (65536, 4096, 1):
            with suppress(OSError):
                while True:
                    file.write(bytes(size))
    assert os.statvfs(filler.parent).f_bavail == 0


async def test_an_agent_whose_store_is_on_a_full_disk(home: Path) -> None:
    with small_disk(home / "disk") as filler:
        async with real_agent(home / "disk") as agent:
            about = {"uuid": HOST_UUID, "hostname": "compute-0"}
            fill(filler)
            refused = await agent.ask("POST", f"/v1/hosts/{HOST_UUID}", about)
            shown = await agent.operate("GET", "/v1/status")
            assert (refused.status, shown["hosts"]) == (503, [])
            assert "full" in shown["agent"]["store_fault"]
            filler.unlink()
            answered = await agent.ask("POST", f"/v1/hosts/{HOST_UUID}", about)
            shown = await agent.operate("GET", "/v1/status")
            assert (answered.status, [one["uuid"] for one in shown["hosts"]]) == (200, [HOST_UUID])
            assert (shown["agent"]["store_fault"], shown["agent"]["crashes"]) == ("", 0)


async def memory_of(home: Path, state: str) -> dict[str, Any]:
    """What the host says of its memory, once it is in this state."""
    with trio.fail_after(SOON_S):
        while True:
            memory = (await status(home))["host"]["memory"]
            assert isinstance(memory, dict)
            if memory["state"] == state:
                return memory
            await trio.sleep(0.1)


async def test_a_host_whose_state_directory_is_on_a_full_disk(home: Path) -> None:
    with small_disk(home / "disk") as filler, logging_to_file(home) as (stderr, log):
        options = ("--state-dir", str(home / "disk"))
        with running("host", home, *options, stderr=stderr):
            await until(lambda: serves("host", home))
            await memory_of(home, "kept")
            fill(filler)
            async with open_guest_farm(home / "ch") as farm:
                await farm.listen(3)
                with trio.fail_after(SOON_S):
                    assert await beating(home, 3) == 3
                assert "full" in (await memory_of(home, "failing"))["why"]
                one = (await status(home))["instances"][0]["uuid"]
                acted = await ctl(home, "act", "--force", one, "unpause", "--", "/bin/true")
                assert acted.status == 0, acted
                filler.unlink()
                assert (await memory_of(home, "kept"))["lost"] == 0
                # What happened meanwhile is in the history.
                history = "\n".join((await ctl(home, "history")).out)
                assert history.count(" heartbeating") == 3
                assert "unpause: asked, without its vote" in history
                assert (await status(home))["host"]["crashes"] == 0
        assert log.read_text().count("can be written again") == 1
        assert "Traceback" not in log.read_text()


# -- processes and threads ------------------------------------------------------------------


async def limit_processes(pid: int, count: str) -> None:
    """Changes the limit of a process of :func:`as_other_user`, which that user may do."""
    user: dict[str, Any] = {}
    if os.getuid() == 0:
        user = {"user": OTHER, "group": OTHER, "extra_groups": []}
    await trio.run_process(["prlimit", f"--pid={pid}", f"--nproc={count}:"], **user)


async def test_a_host_that_may_start_neither_processes_nor_threads(home: Path) -> None:
    become = as_other_user(home)
    with logging_to_file(home) as (stderr, log):
        options = ("--events", "events")
        with running("host", home, *options, stderr=stderr, before=become) as host:
            await until(lambda: serves("host", home))
            async with open_guest_farm(home / "ch") as farm:
                await farm.listen(2)
                with trio.fail_after(60):
                    assert await beating(home, 2) == 2
                    one = (await status(home))["instances"][0]["uuid"]
                    act = ("act", "--force", one, "unpause", "--", "/bin/true")
                    await limit_processes(host.pid, "1")
                    refused = await ctl(home, *act)
                    assert refused.status == 4, refused
                    said = "\n".join(refused.out + refused.err)
                    assert "no more processes are allowed" in said or "new thread" in said
                    await limit_processes(host.pid, "10000")
                    assert (await ctl(home, *act)).status == 0
                    assert (await status(home))["host"]["crashes"] == 0
        assert "Traceback" not in log.read_text()


async def test_a_guest_that_can_not_start_its_script_has_not_voted(home: Path) -> None:
    write_script(home / "script", "#!/bin/sh\necho no\nexit 1\n")
    (home / "vm.conf").write_text(
        f"HB_INTERVAL=400\nHEALTH_CHECK_INTERVAL=0\nEVENT_NOTIFICATION_SCRIPT={home}/script\n"
    )
    become = as_other_user(home)
    with (
        logging_to_file(home) as (stderr, log),
        running("host", home, stderr=stderr),
    ):
        await until(lambda: serves("host", home))
        channel = home / "ch" / f"cgcs.heartbeat.{HOST_UUID}.sock"
        bridge = Bridge(str(channel), str(home / "device"))
        async with trio.open_nursery() as nursery:
            await nursery.start(bridge.run)
            os.chmod(home / "device", 0o666)
            options = ("--config", "vm.conf")
            with running("guest", home, *options, stderr=stderr, before=become) as guest:
                with trio.fail_after(SOON_S):
                    await beating(home, 1)
                vote = ("vote", HOST_UUID, "stop")
                assert (await ctl(home, *vote)).status == 3
                await limit_processes(guest.pid, "1")
                agreed = await ctl(home, *vote)
                said = "\n".join(agreed.out)
                assert agreed.status == 0, agreed
                assert "script could not be run: " in said
                assert "no more processes are allowed" in said or "new thread" in said
                await limit_processes(guest.pid, "10000")
                assert (await ctl(home, *vote)).status == 3
            nursery.cancel_scope.cancel()
        assert "Traceback" not in log.read_text()


@pytest.mark.parametrize("kind", ["guest", "host", "agent"])
async def test_a_daemon_that_gets_no_thread_at_its_start_says_so(kind: str, home: Path) -> None:
    become = as_other_user(home)

    def limited() -> None:
        become()
        resource.setrlimit(resource.RLIMIT_NPROC, (1, 1))

    with (
        logging_to_file(home) as (stderr, log),
        running(kind, home, stderr=stderr, before=limited) as daemon,
    ):
        await until(lambda: daemon.poll() is not None)
        assert daemon.returncode == 1
    assert log.read_text() == f"hbtrio {kind}: log: can't start new thread\n"
