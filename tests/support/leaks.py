"""What a test, or a daemon in it, must not leave behind: descriptors, threads, children, tasks."""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Final

import attrs
import trio

#: How long a thread or a child may take to end after the last wait for it, in seconds.
_PATIENCE_S: Final = 5.0

#: Kept for later by trio, for ten seconds, and by Python and hypothesis for good.
_KEPT_THREADS: Final = ("Trio thread ", "pymain", "execnet")
_KEPT_FILES: Final = ("/dev/urandom", ".hypothesis")


@attrs.frozen
class Held:
    """What this process has: each descriptor with its file, threads, children, and trio's tasks."""

    files: Counter[str]
    threads: frozenset[str]
    children: frozenset[int]
    tasks: frozenset[str]

    @classmethod
    def now(cls) -> Held:
        """Counts it."""
        return cls(open_files(), _threads(), _children(), _tasks())

    def __sub__(self, before: Held) -> dict[str, list[str]]:
        """What is more than before, by kind."""
        more = {
            "descriptors": sorted((self.files - before.files).elements()),
            "threads": sorted(self.threads - before.threads),
            "children": [str(pid) for pid in sorted(self.children - before.children)],
            "tasks": sorted(self.tasks - before.tasks),
        }
        return {kind: found for kind, found in more.items() if found}


def left_since(before: Held) -> dict[str, list[str]]:
    """Returns what is more than before, once it has had time to end."""
    deadline = time.monotonic() + _PATIENCE_S
    while (left := Held.now() - before) and time.monotonic() < deadline:
        time.sleep(0.01)
    return left


@asynccontextmanager
async def nothing_left() -> AsyncIterator[None]:
    """Fails if a daemon that ran in the block has left anything behind; not after a failure."""
    before = Held.now()
    yield
    left = left_since(before)
    assert left == {}


def open_files(pid: int | None = None) -> Counter[str]:
    """How often a process, this one by default, has each file open; all sockets count as one."""
    directory = f"/proc/{pid or 'self'}/fd"
    found: Counter[str] = Counter()
    for name in os.listdir(directory):
        with suppress(OSError):  # that of the listing itself is gone
            file = os.readlink(f"{directory}/{name}")
            if not any(kept in file for kept in _KEPT_FILES):
                # Each socket and pipe has a number, which another may get.
                found[file.partition(":[")[0]] += 1
    return found


def _threads() -> frozenset[str]:
    return frozenset(
        f"{thread.name} ({thread.ident})"
        for thread in threading.enumerate()
        if not thread.name.startswith(_KEPT_THREADS)
    )


def _children() -> frozenset[int]:
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return frozenset()
    # Not every kernel has /proc/self/task/*/children.
    return frozenset(
        pid for pid in map(int, filter(str.isdecimal, os.listdir("/proc"))) if _is_child(pid)
    )


def _is_child(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False  # ended since the listing
    return int(stat.rpartition(")")[2].split()[1]) == os.getpid()


def _tasks() -> frozenset[str]:
    try:
        root = trio.lowlevel.current_root_task()
    except RuntimeError:
        return frozenset()
    return frozenset() if root is None else frozenset(_below(root))


def _below(task: trio.lowlevel.Task) -> Iterator[str]:
    yield f"{task.name} ({id(task)})"
    for nursery in task.child_nurseries:
        for child in nursery.child_tasks:
            yield from _below(child)
