"""What ``hbtrio guest`` takes of its VM: memory, processor time of its start, wake-ups.

A host at a unix socket acknowledges the guest's init and challenges it each second; the guest has
neither applications nor scripts. The floor is a process that only imports the guest's libraries.
Starts of both take turns.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import attrs
import trio

from bench.measure import Measure
from bench.part import Part
from hbtrio.wire.channel_messages import OFFERED
from support.guest_peer import GuestPeer, running_guest

#: The guest's libraries alone; then it waits until its standard input ends.
_FLOOR: Final = """
import sys, argparse, json, logging, attrs, msgspec, trio
print(flush=True)
sys.stdin.read()
"""

_GUEST: Final = (sys.executable, "-m", "hbtrio", "guest")

_STARTS: Final = 7

_INTERVAL_S: Final = 1.0
_BEATS: Final = 20

#: Beats before the wake-ups are counted: the guest reports its voters, and its log falls silent.
_WARM_UP: Final = 3

_libc: Final = ctypes.CDLL(None, use_errno=True)


@attrs.frozen
class Taken:
    """What a process has taken so far: processor time, resident memory, and what is its own."""

    cpu_ms: float
    rss_mib: float
    private_mib: float

    @classmethod
    def by(cls, pid: int) -> Taken:
        """Asks the kernel."""
        kib: dict[str, int] = {}
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
            key, _, value = line.partition(":")
            kib[key] = int(value.split()[0])
        private = kib["Private_Clean"] + kib["Private_Dirty"]
        return cls(_cpu_ms(pid), kib["Rss"] / 1024, private / 1024)


@attrs.frozen
class Guest:
    """What was seen.

    Attributes:
        floors: starts of the libraries alone.
        starts: starts of a guest, until its first init.
        beating: a guest after its beats.
        beat_ms: processor time of a beat and the rest of its second.
        wakeups: in a second, beside those that bring a challenge.
    """

    floors: list[Taken]
    starts: list[Taken]
    beating: Taken
    beat_ms: float
    wakeups: float

    def measures(self) -> list[Measure]:
        """With the project's goals, which are for a machine that is otherwise idle."""
        return [
            Measure.at_most("guest: resident memory", self.beating.rss_mib, 29, "MiB"),
            Measure.at_most(
                "guest: start to first init", _median(self.starts).cpu_ms, 160, "ms CPU"
            ),
            Measure.at_most("guest: wake-ups a second beside beats", self.wakeups, 2),
        ]

    def as_text(self) -> str:
        """The page."""
        rows = [
            ("libraries alone", _median(self.floors)),
            ("guest at its first init", _median(self.starts)),
            ("guest that beats", self.beating),
        ]
        lines = [f"{'':24}{'CPU ms':>8}{'RSS MiB':>9}{'private':>9}"]
        for name, one in rows:
            lines.append(f"{name:24}{one.cpu_ms:8.0f}{one.rss_mib:9.1f}{one.private_mib:9.1f}")
        lines.append(f"a second with a beat: {self.beat_ms:.1f} ms of CPU time,")
        lines.append(f"{self.wakeups:.1f} wake-ups beside the beat's")
        return "\n".join(lines)


def _median(seen: list[Taken]) -> Taken:
    columns = zip(*map(attrs.astuple, seen), strict=True)
    return Taken(*map(statistics.median, columns))


def _cpu_ms(pid: int) -> float:
    clock = ctypes.c_int()
    if error := _libc.clock_getcpuclockid(pid, ctypes.byref(clock)):
        raise OSError(error, os.strerror(error))
    return time.clock_gettime(clock.value) * 1e3


def _waits(pid: int) -> int:
    """How often the threads of a process have waited: each time, something woke them up."""
    return sum(
        int(line.split()[1])
        for status in Path(f"/proc/{pid}/task").glob("*/status")
        for line in status.read_text().splitlines()
        if line.startswith("voluntary_ctxt_switches:")
    )


def _start_floor() -> Taken:
    command = [sys.executable, "-c", _FLOOR]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        return Taken.by(process.pid)


@contextmanager
def _running() -> Iterator[tuple[int, GuestPeer]]:
    """A guest that logs into a file, and its host."""
    with tempfile.TemporaryDirectory(prefix="hbg.") as name:
        directory = Path(name)
        with (
            (directory / "log").open("wb") as log,
            running_guest(_GUEST, directory, stderr=log.fileno()) as (guest, host),
        ):
            yield guest.pid, host


def _start_guest() -> Taken:
    with _running() as (pid, host):
        host.accept_init()
        return Taken.by(pid)


def _beat() -> tuple[Taken, float, float]:
    """Challenges a guest each second; returns what it has taken, of a second: time, wake-ups."""
    with _running() as (pid, host):
        host.accept_init(extensions=OFFERED)
        for number in range(_WARM_UP):
            host.beat(number)
            time.sleep(_INTERVAL_S)
        began, used_ms, waited = time.monotonic(), _cpu_ms(pid), _waits(pid)
        for number in range(1, _BEATS + 1):
            host.beat(number)
            time.sleep(max(0.0, began + number * _INTERVAL_S - time.monotonic()))
        took_s = time.monotonic() - began
        used_ms, waited = _cpu_ms(pid) - used_ms, _waits(pid) - waited
        return Taken.by(pid), used_ms / took_s, (waited - _BEATS) / took_s


def _measure() -> Guest:
    _start_guest()  # compiles what has no bytecode yet
    floors, starts = [], []
    for _ in range(_STARTS):
        floors.append(_start_floor())
        starts.append(_start_guest())
    return Guest(floors, starts, *_beat())


async def guest(options: argparse.Namespace) -> Part:
    """A guest that has nothing to do but to beat."""
    seen = await trio.to_thread.run_sync(_measure)
    return Part("guest", seen.as_text(), seen.measures(), attrs.asdict(seen))
