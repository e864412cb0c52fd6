"""`hbtrio lab` as its user meets it: real processes, a pipe or a terminal, nothing left behind."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shlex
import signal
import struct
import subprocess
import sys
import tempfile
import termios
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from itertools import takewhile
from pathlib import Path

import httpx
import pytest
import trio

from hbtrio.lab.scene import open_scene
from hbtrio.lab.vim_request import ask_agent
from support.real_processes import logged, started_below

pytestmark = pytest.mark.processes

#: What takes a second or three, on a machine that is very busy.
SOON_S = 20.0

#: The whole tour, from the first process to the last, may take no longer.
TOUR_S = 105.0

#: The lab with only the first step of its tour, in which it expects what {expected} says.
SHORT = """
import sys
import attrs
import hbtrio.cli.lab as lab
from hbtrio.cli import main
lab.TOUR = (attrs.evolve(lab.TOUR[0], expected={expected}),)
sys.exit(main(sys.argv[1:]))
"""
LINKS = ("compute-0 linked", "compute-1 linked")
STARTS = (
    *LINKS,
    "VIM: web heartbeating on compute-0",
    "VIM: db heartbeating on compute-0",
    "db: orders registered",
    "db: backup registered",
    "VIM: batch heartbeating on compute-0",
)


@pytest.fixture
def place() -> Iterator[Path]:
    """A TMPDIR of the lab's own, with a short name: sockets are to be made in it."""
    with tempfile.TemporaryDirectory(prefix="lab.") as name:
        yield Path(name)


class Lab:
    """A running lab."""

    def __init__(self, process: trio.Process) -> None:
        self.process = process
        self.stdout = ""
        self.stderr = ""
        self._news = trio.Event()

    async def collect(self, stream: trio.abc.ReceiveStream, name: str) -> None:
        async with stream:
            # How a terminal ends whose last writer has gone.
            with contextlib.suppress(trio.BrokenResourceError):
                async for data in stream:
                    setattr(self, name, getattr(self, name) + bytes(data).decode())
                    self._news.set()
                    self._news = trio.Event()

    async def said(self, text: str) -> None:
        """Returns once it has said this."""
        with trio.fail_after(SOON_S):
            while text not in self.stdout:
                await self._news.wait()

    async def ended(self, within_s: float = SOON_S) -> int:
        """Its exit status."""
        with trio.fail_after(within_s):
            return await self.process.wait()


@asynccontextmanager
async def running(place: Path, *arguments: str, on_terminal: bool = False) -> AsyncIterator[Lab]:
    """Runs python with these arguments; when the block is left all that it said was read."""
    master, slave = os.openpty() if on_terminal else (None, subprocess.PIPE)
    if on_terminal:
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    process = await trio.lowlevel.open_process(
        [sys.executable, *arguments],
        stdout=slave,
        stderr=subprocess.PIPE,
        env=os.environ | {"TMPDIR": str(place), "TERM": "xterm"},
        start_new_session=True,
    )
    if master is not None:
        os.close(slave)
    stdout = process.stdout if master is None else trio.lowlevel.FdStream(master)
    assert stdout is not None
    assert process.stderr is not None
    lab = Lab(process)
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lab.collect, stdout, "stdout")
            nursery.start_soon(lab.collect, process.stderr, "stderr")
            yield lab
    finally:
        if process.returncode is None:
            process.kill()
            with trio.CancelScope(shield=True):
                await process.wait()


def command_of(pid: int) -> list[str]:
    """What it was started with; nothing if it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")[:-1]
    except (FileNotFoundError, ProcessLookupError):
        return []


def parent_of(pid: int) -> int:
    """Its parent; 0 if it has ended."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return int(status.rpartition(")")[2].split()[1])


async def none_left(place: Path) -> bool:
    """Whether all processes of a lab end, those too that its daemons had started."""
    with trio.move_on_after(SOON_S):
        while started_below(place):  # noqa: ASYNC110 - there is no event: they are no children of ours
            await trio.sleep(0.02)
        return True
    return False


def runs(pid: str) -> bool:
    return os.path.exists(f"/proc/{pid}")


def sockets_in(place: Path) -> list[str]:
    return [line for line in Path("/proc/net/unix").read_text().splitlines() if str(place) in line]


async def nothing_left(place: Path) -> bool:
    return await none_left(place) and not sockets_in(place) and os.listdir(place) == []


async def test_the_tour_sees_what_it_expects_and_leaves_nothing_behind(place: Path) -> None:
    began_at = trio.current_time()
    async with running(place, "-m", "hbtrio", "lab") as lab:
        status = await lab.ended(TOUR_S)
    took_s = trio.current_time() - began_at
    story, _, summary = lab.stdout.partition("EXPECTED")
    assert (status, lab.stderr) == (0, ""), lab.stdout + lab.stderr
    assert took_s < TOUR_S
    assert "All 71 were seen as expected.\n" in summary
    assert "DIFFERS" not in lab.stdout
    assert "\x1b" not in lab.stdout
    assert max(map(len, lab.stdout.splitlines())) <= 80
    for title in (
        "an agent, two hosts and three guests start",
        "all accept",
        "a guest migrates to another host",
        "one rejects, with a reason",
        "a handler exceeds its window",
        "the agent is killed during a vote (kill -9)",
        "ill health while the VIM is down",
        "a VM is paused behind hbtrio's back",
        "a guest hangs (SIGSTOP)",
        "one of two applications in a guest rejects",
        "an application hangs (SIGSTOP)",
        "an application crashes during a vote (kill -9)",
        "an operator reboots a guest",
        "an operator drains both hosts, two guests at once",
        "the totals match",
    ):
        assert f": {title}\n" in story
        assert f"\n{title}\n" in summary
    assert seen_in(summary, "a VM is paused behind hbtrio's back") == [
        "paused: user",
        "after 5 s: paused",
        "VIM: 0 alarms",
        "VIM: web heartbeating on compute-1",
    ]
    assert seen_in(summary, "one of two applications in a guest rejects") == [
        "VIM: reject: orders: 12 are open",
        "asked: event_script, orders, backup",
        "handlers notified: 0",
    ]
    assert seen_in(summary, "an application hangs (SIGSTOP)") == [
        "unhealthy: Application backup",
        "heartbeat timeout 2000 ms.",
        "logged: Application backup heartbeat",
        "timeout 2000 ms.",
        "VIM: unhealthy, repair-action log",
        "healthy",
    ]
    assert seen_in(summary, "an application crashes during a vote (kill -9)") == [
        "asked: event_script, orders, backup",
        "verdicts before the crash: 0",
        "vote accept at once",
        "VIM: allow",
        "db: orders registered",
    ]
    assert seen_in(summary, "an operator reboots a guest")[5:] == [
        "asked: event_script, orders, backup",
        "notice: event_script, orders, backup",
        "VIM: db heartbeating on compute-0",
        "db: orders registered",
        "db: backup registered",
    ]
    assert seen_in(summary, "an operator drains both hosts, two guests at once") == [
        "web waits: group pair: batch is",
        "restarting, at most 1 of 2 may be",
        "unavailable",
        "drain: drained",
        "VIM: batch heartbeating on compute-0",
        "VIM: db heartbeating on compute-0",
        "VIM: web heartbeating on compute-1",
        "db: orders registered",
        "db: backup registered",
    ]
    assert seen_in(summary, "the totals match") == [
        "VIM: 10 votes and notices asked",
        "VIM: 10 verdicts",
        "VIM: 0 verdicts not asked for",
        "history: 10 asked by vim",
    ]
    assert await nothing_left(place)


def seen_in(summary: str, title: str) -> list[str]:
    """What a step saw, as its lines in the summary's second column."""
    lines = summary.partition(f"\n{title}\n")[2].splitlines()
    return [line[40:76].rstrip() for line in takewhile(lambda line: line[:2] == "  ", lines)]


async def test_the_applications_of_a_vm_come_and_go_with_it() -> None:
    async with open_scene() as scene:
        await scene.start_host()
        vm = await scene.add_guest("vm")
        app = vm.add_application("app")
        pids: list[str] = []

        async def registers(since: int) -> None:
            head = ["application", "vm", "app", "registered"]
            words = await scene.script_lines.wait_for(
                lambda words: words[:4] == head, within_s=SOON_S, since=since
            )
            pids.append(words[4])

        await vm.start()
        await registers(0)
        await vm.kill()
        assert app.daemon is not None
        assert app.daemon.status is None
        since = scene.script_lines.end
        await vm.reset()
        await registers(since)
        assert app.daemon.pid == int(pids[1])
        assert pids[0] != pids[1]
        assert not runs(pids[0])
        await app.stop()
        assert app.daemon is None
        assert not runs(pids[1])
        await logged(vm.log, "event=final received")
        since = scene.script_lines.end
        await app.start()
        await registers(since)
        await vm.stop()
        assert not runs(pids[2])


async def test_what_differs_is_named_with_the_logs_and_is_status_1(place: Path) -> None:
    expected = (*STARTS[:3], "VIM: db on fire", *STARTS[4:], "a fourth guest")
    program = SHORT.format(expected=expected)
    async with running(place, "-c", program, "lab") as lab:
        status = await lab.ended()
    summary = lab.stdout.partition("EXPECTED")[2]
    assert status == 1
    assert [" ".join(line.split()) for line in summary.splitlines()[1:]] == [
        "an agent, two hosts and three guests start",
        *(f"{fact} {fact} ok" for fact in STARTS[:3]),
        f"VIM: db on fire {STARTS[3]} DIFFERS",
        *(f"{fact} {fact} ok" for fact in STARTS[4:]),
        "a fourth guest nothing DIFFERS",
        "",
        "2 of 8 were not seen as expected.",
    ]
    names = ("the agent", "compute-0", "compute-1", "web", "db", "batch")
    for name in (*names, "application orders in db", "application backup in db"):
        assert f"the end of the log of {name}:\n" in lab.stderr
    assert "heartbeat state change from enabling to enabled, event=init-ack." in lab.stderr
    assert await nothing_left(place)


async def test_on_a_terminal_a_table_is_drawn_again_and_again(place: Path) -> None:
    program = SHORT.format(expected=("on fire",))
    async with running(place, "-c", program, "lab", on_terminal=True) as lab:
        status = await lab.ended()
    assert status == 1
    assert lab.stdout.count("LAST EVENT, OR OPEN WINDOW") > 2
    assert "2 of 2 hosts linked, 3 of 3 instances heartbeating" in lab.stdout
    assert "\x1b[1;31mDIFFERS " in lab.stdout
    assert lab.stdout.rindex("\x1b[?25h") > lab.stdout.rindex("\x1b[?25l")  # the cursor is back
    assert "EXPECTED" in lab.stdout
    assert await nothing_left(place)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
async def test_a_signal_ends_it_at_once_and_nothing_is_left_behind(
    place: Path, number: signal.Signals
) -> None:
    async with running(place, "-m", "hbtrio", "lab") as lab:
        await lab.said("its handler is asked: live_migrate_begin")
        assert len(started_below(place)) >= 9
        lab.process.send_signal(number)
        assert await lab.ended() == 128 + number
    assert lab.stderr == ""
    assert await nothing_left(place)


async def test_it_keeps_everything_running_until_ctrl_c_and_says_how_to_talk_to_it(
    place: Path,
) -> None:
    program = SHORT.format(expected=STARTS)
    async with running(place, "-c", program, "lab", "--keep") as lab:
        await lab.said("/v1/instances/")
        said = lab.stdout.partition("until Ctrl-C")[2].splitlines()

        async def does(command: str) -> str:
            (line,) = (line for line in said if line.endswith(command))
            return (await trio.run_process(shlex.split(line), capture_stdout=True)).stdout.decode()

        assert "3 of 3 instances heartbeating, 2 of 2 hosts linked" in await does("token status")
        assert "vote on stop: accept" in await does("vote db stop")
        assert "vote stop accept by operator" in await does("history")
        assert (await does("host.sock status")).count("heartbeating") >= 3
        assert "reboot: done" in await does("act web reboot")
        page, again = re.findall(r"http://[\d.:]+/(?=\s)", lab.stdout)
        assert page == again  # before the tour and after it
        async with httpx.AsyncClient() as browser:
            assert "<title>hbtrio" in (await browser.get(page)).text
        # As the VIM does; there may be no curl.
        url = said[-1].removeprefix("  curl -A vim/1.0 http://127.0.0.1:")
        port, _, path = url.partition("/")
        reply = await ask_agent(int(port), "GET", f"/{path}")
        assert reply.members["services"][0]["state"] == "enabled"
        lab.process.send_signal(signal.SIGINT)
        assert await lab.ended() == 0
    assert lab.stderr == ""
    assert await nothing_left(place)


async def test_a_daemon_that_dies_is_named_with_the_end_of_its_log(place: Path) -> None:
    async with running(place, "-m", "hbtrio", "lab") as lab:
        await lab.said("step 2 of")
        found = [pid for pid in started_below(place) if command_of(pid)[-2:] == ["--name", "db"]]
        # What it starts has its command line until it has another program.
        (victim,) = (pid for pid in found if parent_of(pid) not in found)
        os.kill(victim, signal.SIGKILL)
        assert await lab.ended() == 1
    fault, head, *log = lab.stderr.splitlines()
    assert fault == "hbtrio lab: guest db ended unexpectedly with signal 9"
    assert head == "hbtrio lab: the end of the log of guest db:"
    assert any("event=init-ack." in line for line in log)
    assert await nothing_left(place)


async def test_its_daemons_end_even_if_it_is_killed(place: Path) -> None:
    async with running(place, "-m", "hbtrio", "lab") as lab:
        await lab.said("its handler is asked: live_migrate_begin")
        lab.process.kill()
        assert await lab.ended() == -signal.SIGKILL
    assert await none_left(place)


async def test_a_reader_that_goes_away_ends_it_and_nothing_is_left_behind(place: Path) -> None:
    reading, writing = os.pipe()
    process = await trio.lowlevel.open_process(
        [sys.executable, "-m", "hbtrio", "lab"],
        stdout=writing,
        stderr=subprocess.PIPE,
        env=os.environ | {"TMPDIR": str(place)},
        start_new_session=True,
    )
    os.close(writing)
    os.close(reading)
    try:
        assert process.stderr is not None
        with trio.fail_after(SOON_S):
            async with process.stderr as stderr:
                said = b"".join([bytes(data) async for data in stderr])
            assert (await process.wait(), said) == (1, b"")
    finally:
        process.kill()
    assert await nothing_left(place)


async def test_a_tmpdir_too_deep_for_sockets_is_one_clear_line(place: Path) -> None:
    deep = place / ("d" * 60)
    deep.mkdir()
    async with running(deep, "-m", "hbtrio", "lab") as lab:
        status = await lab.ended()
    excess = len(str(deep)) + 13 + len("/compute-0/ch/cgcs.heartbeat..sock") + 36 - 107
    assert status == 2
    assert lab.stderr == (
        f"hbtrio lab: {deep}: {excess} bytes too long for the unix sockets in it; use TMPDIR=/tmp\n"
    )
    assert lab.stdout == ""
    assert os.listdir(deep) == []
