"""Runs the handlers of deploy/handlers, with stand-ins for the tools that they call."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

import attrs
import pytest

from hbtrio.system.reaper import live_groups, signal_groups

CHECKOUT: Final = Path(__file__).parents[2]
HANDLERS: Final = CHECKOUT / "deploy" / "handlers"

#: The shells that they have to run under.
SHELLS: Final = {"dash": ["dash"], "busybox": ["busybox", "sh"]}

#: What any of it takes, on a very busy machine, in seconds.
SOON_S: Final = 60.0


@attrs.frozen
class Answered:
    """How a handler ended."""

    status: int
    reason: str
    said: str

    @property
    def accepted(self) -> bool:
        return (self.status, self.reason) == (0, "")

    @property
    def is_undecided(self) -> bool:
        """Whether it has not voted: it was killed, and said why."""
        return self.status == -signal.SIGABRT and self.said != ""


class Bench:
    """A place for a handler: its settings, its state and the tools that it finds.

    Args:
        place: an empty directory.
        shell: the shell that runs it.
    """

    def __init__(self, place: Path, shell: list[str]) -> None:
        self.place, self.tools, self.run_dir = place, place / "tools", place / "run"
        self._shell = shell
        self._conf = place / "handlers.conf"
        self.tools.mkdir()
        self.settings(HANDLERS_STATE=str(place / "state"))

    def settings(self, **values: str | int) -> None:
        """Adds to handlers.conf."""
        with self._conf.open("a") as conf:
            conf.writelines(f"{name}='{value}'\n" for name, value in values.items())

    def tool(self, name: str, text: str) -> None:
        """Makes a command that the handler finds first; it notes its arguments in ``calls``."""
        path = self.tools / name
        note = f"printf '%s\\n' \"{name} $*\" >> '{self.place}/calls'\n"
        path.write_text(f"#!/bin/sh\n{note}{text}\n")
        path.chmod(0o755)

    @property
    def calls(self) -> list[str]:
        """The commands so far, with their arguments."""
        path = self.place / "calls"
        return path.read_text().splitlines() if path.exists() else []

    @property
    def environment(self) -> dict[str, str]:
        return os.environ | {
            "PATH": f"{self.tools}:{os.environ['PATH']}:/usr/sbin:/sbin",
            "HBTRIO_HANDLERS_CONF": str(self._conf),
            "GUEST_CLIENT_FLAGS": str(self.run_dir),
        }

    def start(self, handler: str, *arguments: str, **more: str) -> subprocess.Popen[str]:
        """Starts a handler in a session of its own, as the guest does."""
        return subprocess.Popen(
            [*self._shell, str(HANDLERS / handler), *arguments],
            env=self.environment | more,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def run(self, handler: str, *arguments: str, **more: str) -> Answered:
        """Runs a handler to its end."""
        with self.start(handler, *arguments, **more) as process:
            out, err = process.communicate(timeout=SOON_S)
        return Answered(process.returncode, out.partition("\n")[0], err)

    def vote(self, handler: str, event: str, **more: str) -> Answered:
        return self.run(handler, "revocable", event, **more)

    def notify(self, handler: str, event: str) -> Answered:
        return self.run(handler, "irrevocable", event)


#: Runs a test under each of the shells, not only under dash.
UNDER_BOTH = pytest.mark.parametrize("bench", SHELLS, indirect=True)


@pytest.fixture
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Bench]:
    """A place for a handler; no watchdog is left behind."""
    shell = SHELLS[getattr(request, "param", "dash")]
    if shutil.which(shell[0]) is None:
        pytest.skip(f"there is no {shell[0]} here")
    yield Bench(tmp_path, shell)
    for pid in left(tmp_path):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def end(handler: subprocess.Popen[str], number: signal.Signals) -> None:
    """Ends a handler as the guest does: its whole session, of which timeout(1) makes groups."""
    signal_groups(live_groups({handler.pid}), number)
    handler.communicate(timeout=SOON_S)


def left(place: Path) -> list[int]:
    """The processes that handlers of this bench have left."""
    wanted = f"GUEST_CLIENT_FLAGS={place}/run".encode()
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            if wanted in Path("/proc", name, "environ").read_bytes().split(b"\0"):
                found.append(int(name))
        except OSError:
            continue  # it has just ended
    return sorted(found)


def watchdogs(place: Path) -> list[int]:
    """Those that lead a session: watchdogs."""
    return [pid for pid in left(place) if _session(pid) == pid]


def _session(pid: int) -> int | None:
    try:
        return os.getsid(pid)
    except ProcessLookupError:
        return None


def until(condition: Callable[[], object]) -> None:
    """Returns once the condition is true; other processes can set no event."""
    end = time.monotonic() + SOON_S
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)
