"""Real hbtrio processes: run to their end, and watched from outside through /proc."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

import attrs
import trio

#: What takes a second or three, on a machine that is very busy.
SOON_S: Final = 20.0

#: Execs what its arguments say without what sets root above permissions and above other processes'
#: locks on terminals: CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH and CAP_SYS_ADMIN. To anybody else it
#: makes no difference.
POWERLESS: Final = (
    sys.executable,
    "-c",
    """\
import ctypes, os, sys
prctl, PR_CAPBSET_DROP = ctypes.CDLL(None).prctl, 24
for capability in (1, 2, 21):
    prctl(PR_CAPBSET_DROP, *map(ctypes.c_ulong, (capability, 0, 0, 0)))
os.execv(sys.argv[1], sys.argv[1:])
""",
)


@attrs.frozen
class Ran:
    """How a command ended: its exit status, negative for a signal, and the lines that it wrote."""

    status: int
    out: list[str]
    err: list[str]


async def hbtrio(
    *arguments: str,
    prefix: tuple[str, ...] = (),
    env: dict[str, str] | None = None,
    within_s: float = SOON_S,
) -> Ran:
    """Runs ``hbtrio`` to its end.

    Args:
        arguments: of the command line.
        prefix: a command that execs the rest of its arguments.
        env: variables added to the environment.
        within_s: how long it may take, in seconds.
    """
    with trio.fail_after(within_s):
        ended = await trio.run_process(
            [*prefix, sys.executable, "-m", "hbtrio", *arguments],
            stdin=b"",
            capture_stdout=True,
            capture_stderr=True,
            env=os.environ | (env or {}),
            check=False,
        )
    return Ran(ended.returncode, _lines(ended.stdout), _lines(ended.stderr))


async def hbtrio_each(
    *command_lines: list[str], prefix: tuple[str, ...] = (), env: dict[str, str] | None = None
) -> list[Ran]:
    """Runs ``hbtrio`` for each of the command lines, one after the other in one process.

    Most of a command's time is spent on starting Python. For commands that end by themselves; the
    first one that does not within :data:`SOON_S`, and those after it, have SIGALRM as their status.
    """
    ended = await trio.run_process(
        [*prefix, sys.executable, "-c", _EACH.format(bound_s=int(SOON_S))],
        stdin=json.dumps(command_lines).encode(),
        capture_stdout=True,
        env=os.environ | (env or {}),
        check=False,
    )
    results = [json.loads(line) for line in ended.stdout.splitlines()]
    ran = [Ran(status, out.splitlines(), err.splitlines()) for status, out, err in results]
    return ran + [Ran(ended.returncode, [], [])] * (len(command_lines) - len(ran))


_EACH: Final = """\
import contextlib, io, json, signal, sys
from hbtrio.cli import main
for arguments in json.load(sys.stdin):
    out, err = io.StringIO(), io.StringIO()
    signal.alarm({bound_s})
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            status = main(arguments)
        except SystemExit as exit:
            status = exit.code or 0
    print(json.dumps([status, out.getvalue(), err.getvalue()]), flush=True)
"""


def _lines(output: bytes) -> list[str]:
    return output.decode().splitlines()


async def until(condition: Callable[[], object], within_s: float = SOON_S) -> None:
    """Returns once the condition is true; other processes can set no event."""
    with trio.fail_after(within_s):
        while not condition():  # noqa: ASYNC110
            await trio.sleep(0.02)


async def logged(log: Path, text: str, times: int = 1) -> None:
    """Returns once a log holds this text, so many times."""
    await until(lambda: log.exists() and log.read_text().count(text) >= times)


def started_below(place: Path) -> set[int]:
    """The processes that were started with this TMPDIR, whatever their parents; no zombies."""
    wanted = f"TMPDIR={place}".encode()
    found = set()
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) != os.getpid():
            try:
                environ = Path("/proc", name, "environ").read_bytes()
            except OSError:
                continue  # not ours, or it has just ended
            if wanted in environ.split(b"\0"):
                found.add(int(name))
    return found


def sockets_below(place: Path) -> list[str]:
    """Unix sockets that are bound to a path below, connections of listeners included."""
    lines = Path("/proc/net/unix").read_text().splitlines()
    return sorted(line.split()[-1] for line in lines if f"{place}/" in line)


def descriptors(pid: int) -> int:
    """How many files a process has open."""
    return len(os.listdir(f"/proc/{pid}/fd"))


def resident_mib(pid: int) -> float:
    """How much memory a process has."""
    (line,) = (
        line
        for line in Path(f"/proc/{pid}/status").read_text().splitlines()
        if line.startswith("VmRSS:")
    )
    return int(line.split()[1]) / 1024


def is_gone(pid: int) -> bool:
    """Whether a process has ended; a zombie, which only its parent can remove, has."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return True
    return stat.rpartition(")")[2].split()[0] in ("Z", "X")


def end(pids: set[int]) -> None:
    """Ends what a test that failed has left behind."""
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
