"""Real daemons, each alone: started with a mask, a limit or a user of its own."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from hbtrio.lab.launcher import write_toml

KINDS: Final = ("guest", "host", "agent")

#: A user, and a group, that nothing else runs as.
OTHER: Final = 64999


def command_line(kind: str, home: Path) -> list[str]:
    """What starts a daemon that writes a log line at once."""
    if kind == "guest":
        (home / "guest.conf").write_text("HB_INTERVAL=1000\n")
        own = ["--config", "guest.conf", "--device", "device", "--wait-device"]
        own += ["--app-socket", "apps.sock", "--name", "vm"]
    elif kind == "host":
        (home / "ch").mkdir()
        own = ["--channel-dir", "ch", "--control-socket", "host.sock"]
    else:
        config = {
            "vim": {"listen": f"unix:{home}/vim.sock"},
            "link": {"listen": f"unix:{home}/link.sock"},
            "operator": {"listen": f"unix:{home}/agent.sock"},
            "store": {"file": str(home / "agent.db")},
        }
        write_toml(home / "agent.toml", config)
        own = ["--config", "agent.toml"]
    return [sys.executable, "-m", "hbtrio", kind, *own]


def serves(kind: str, home: Path) -> bool:
    name = {"guest": "apps.sock", "host": "host.sock", "agent": "agent.sock"}[kind]
    return (home / name).exists()


@contextmanager
def running(
    kind: str,
    home: Path,
    *options: str,
    stderr: int,
    before: Callable[[], None] | None = None,
) -> Iterator[subprocess.Popen[bytes]]:
    """A daemon alone; killed at the end if it has not ended."""
    process = subprocess.Popen(
        [*command_line(kind, home), *options],
        cwd=home,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=stderr,
        preexec_fn=before,
        env=os.environ | {"TMPDIR": str(home)},
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def as_other_user(home: Path) -> Callable[[], None]:
    """Makes the directory another user's; returns what makes a process that user's before its exec.

    Root is above the limit of processes. The other user keeps root's right to read and to execute,
    because Python may be installed where nobody else may look.
    """
    if os.getuid() != 0:
        return lambda: None
    os.chown(home, OTHER, OTHER)
    for path in home.rglob("*"):
        os.chown(path, OTHER, OTHER)
    libc = ctypes.CDLL(None)
    keep, ambient, raise_, set_ = 8, 47, 2, (1 << 1) | (1 << 2)

    def become() -> None:
        libc.prctl(keep, 1, 0, 0, 0)
        os.setgroups([])
        os.setgid(OTHER)
        os.setuid(OTHER)
        header = (ctypes.c_uint32 * 2)(0x20080522, 0)
        assert libc.capset(header, (ctypes.c_uint32 * 6)(set_, set_, set_, 0, 0, 0)) == 0
        for capability in (1, 2):
            assert libc.prctl(ambient, raise_, capability, 0, 0) == 0

    return become
