"""Measures a guest that serves applications.

A real ``hbtrio guest`` in a process of its own; this process plays its host and its applications,
which answer at once.
"""

from __future__ import annotations

import argparse
import itertools
import os
import socket
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

from bench.app_cast import PATIENCE_S, Cast, CastHost
from bench.measure import Measure
from bench.part import Part
from bench.progress import progress
from bench.sample import quantiles_ms
from support.guest_farm import module_environment

_INTERVAL_MS: Final = 1000

#: They register one after the other within so long, so that their beats are at all phases.
_SPREAD_S: Final = 1.0

#: For how long floor and guest are watched, in seconds.
_SECONDS: Final = 5.0

#: Votes of each kind, and the seconds between two: an application that answers more than 35
#: times a second is taken for a flood.
_VOTES: Final = 100
_PAUSE_S: Final = 0.035

#: What the project aims for: what an application's answer may add to a vote's round trip.
AIM_VOTE_MS: Final = 1.0


@attrs.frozen
class Beats:
    """How a number of applications was challenged for some seconds.

    Attributes:
        beats: challenges, all of them answered.
        cpu_us: the challenging process's own CPU time for each.
        late_ms: after the time of its slot, by the most punctual one; the shares 0.5, 0.99 and 1.
        missed: applications that waited for a challenge for longer than one and a half intervals.
        unwell: answers to the host that said "unhealthy".
    """

    beats: int
    cpu_us: float
    late_ms: tuple[float, float, float]
    missed: int
    unwell: int = 0


@attrs.frozen
class Result:
    """All that was measured; times in milliseconds are medians.

    Attributes:
        applications: how many there were.
        floor: raw epoll and a heap.
        guest: the guest.
        bare_ms: a vote with nobody to ask.
        one_ms: a vote with one application.
        all_ms: a vote with all of them.
        beat_ms: the host's own beat meanwhile.
    """

    applications: int
    floor: Beats
    guest: Beats
    bare_ms: float
    one_ms: float
    all_ms: float
    beat_ms: float

    @property
    def all_missed(self) -> int:
        """Missed beats, of applications and of the VM."""
        return self.guest.missed + self.guest.unwell

    def as_text(self) -> str:
        """A page of it."""
        lines = [f"{self.applications} applications       us/beat  ratio | late ms: p50  p99  max"]
        for name, beats in (("floor", self.floor), ("guest", self.guest)):
            p50, p99, most = beats.late_ms
            lines.append(
                f"  {name:22} {beats.cpu_us:8.1f} {beats.cpu_us / self.floor.cpu_us:6.2f}"
                f" | {p50:12.1f} {p99:4.1f} {most:4.1f}"
            )
        return "\n".join(
            [
                *lines,
                f"{self.guest.beats} beats, {self.guest.missed} applications missed one; the VM's "
                f"own answer after {self.beat_ms:.2f} ms, {self.guest.unwell} times unhealthy",
                f"a vote with nobody to ask {self.bare_ms:.2f} ms, with one application "
                f"{self.one_ms:.2f} ms ({self.one_ms - self.bare_ms:+.2f}), with all "
                f"{self.all_ms:.2f} ms",
            ]
        )


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _late(beats: list[float]) -> list[float]:
    """How long after its grid each beat came; the most punctual shows where the grid is."""
    interval_s = _INTERVAL_MS / 1000
    phases = [at - number * interval_s for number, at in enumerate(beats)]
    return [phase - min(phases) for phase in phases]


def _watch(cast: Cast, pid: int, seconds: float) -> Beats:
    """Plays for some seconds and sees how the applications are challenged."""
    unwell = 0
    cast.play(1.5)
    for application in cast.applications:
        del application.beats[:]
    before_s = _cpu_s(pid)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if cast.host is not None:
            cast.beat_ms(1)
            unwell += sum("unhealthy" in repr(one) for one in cast.host.heard)
        cast.play(_INTERVAL_MS / 1000)
    cpu_s = _cpu_s(pid) - before_s
    each = [list(application.beats) for application in cast.applications]
    least = int(seconds * 1000 / _INTERVAL_MS)
    return Beats(
        beats=sum(map(len, each)),
        cpu_us=cpu_s / sum(map(len, each)) * 1e6,
        late_ms=quantiles_ms([late for beats in each for late in _late(beats)]),
        missed=sum(
            len(beats) < least or max(_gaps(beats)) > 1.5 * _INTERVAL_MS / 1000 for beats in each
        ),
        unwell=unwell,
    )


def _gaps(beats: list[float]) -> list[float]:
    return [later - sooner for sooner, later in itertools.pairwise(beats)]


@contextmanager
def _process(*arguments: object) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        [sys.executable, "-m", *map(str, arguments)],
        stdin=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=module_environment(),
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def _served(path: Path) -> None:
    """Returns once a socket takes connections."""
    end = time.monotonic() + PATIENCE_S
    with socket.socket(socket.AF_UNIX) as probe:
        while probe.connect_ex(str(path)):
            if time.monotonic() > end:
                raise TimeoutError(f"{path} is not served")
            time.sleep(0.02)


def _measure_floor(count: int, seconds: float) -> Beats:
    with tempfile.TemporaryDirectory(prefix="hbb.") as directory:
        path = Path(directory, "api")
        with _process("bench.app_floor", path) as floor:
            _served(path)
            cast = Cast(path, None)
            cast.join(count, _INTERVAL_MS, _SPREAD_S)
            return _watch(cast, floor.pid, seconds)


def measure(count: int, seconds: float) -> Result:
    """Measures floor and guest, one after the other."""
    floor = _measure_floor(count, seconds)
    with tempfile.TemporaryDirectory(prefix="hbb.") as name:
        directory = Path(name)
        device, path, config = (directory / part for part in ("device", "api", "conf"))
        config.write_text("")
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(device))
            listener.listen()
            listener.settimeout(PATIENCE_S)
            options = ("--config", config, "--device", device, "--app-socket", path)
            with _process("hbtrio", "guest", *options, "--name", "vm") as guest:
                connection, _ = listener.accept()
                cast = Cast(path, CastHost(connection))
                cast.play(2.5)  # its init comes a second after its start
                bare_ms = _median_vote(cast)
                cast.join(1, _INTERVAL_MS, 0.0)
                one_ms = _median_vote(cast)
                cast.join(count - 1, _INTERVAL_MS, _SPREAD_S)
                beats = _watch(cast, guest.pid, seconds)
                beat_ms = statistics.median(cast.beat_ms(number) for number in range(_VOTES))
                all_ms = _median_vote(cast)
                cast.leave()
    return Result(count, floor, beats, bare_ms, one_ms, all_ms, beat_ms)


def _median_vote(cast: Cast) -> float:
    times = []
    for number in range(_VOTES):
        times.append(cast.vote_ms(number))
        cast.play(_PAUSE_S)
    return statistics.median(times)


async def applications(options: argparse.Namespace) -> Part:
    """A guest with applications; blocks, because nothing else is measured meanwhile."""
    progress("applications")
    result = measure(options.applications, _SECONDS)
    name = f"guest with {options.applications} applications"
    return Part(
        "applications",
        result.as_text(),
        [
            Measure.at_most(f"{name}: beats missed", result.all_missed, 0, digits=0),
            Measure.at_most(
                f"{name}: what one adds to a vote",
                result.one_ms - result.bare_ms,
                AIM_VOTE_MS,
                "ms",
                digits=2,
            ),
        ],
        attrs.asdict(result),
        missed=bool(result.all_missed),
    )
