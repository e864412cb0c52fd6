"""What one run of a measured process gives, and how it is taken inside that process."""

from __future__ import annotations

import gc
import os
import resource
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import attrs

#: How long all channels beat before they are measured, in seconds.
WARM_UP_S: Final = 0.3

#: Between two scrapes of the metrics, in seconds: Prometheus' usual interval. A run that is shorter
#: is charged its share of one.
SCRAPE_S: Final = 15.0

_PAGE: Final = os.sysconf("SC_PAGE_SIZE")


@attrs.frozen(kw_only=True)
class Sample:
    """One run of a floor or a host.

    Attributes:
        channels: how many instances were heartbeating.
        beats: answered challenges in ``seconds``.
        cpu_s: the measured process's own CPU time, user and system.
        wakeups: how often it was waiting for something.
        channel_kb: resident memory of one channel, in KiB.
        late_ms: lateness of beats after the time of their slot; the shares 0.5, 0.99 and 1.
        misses: challenges of healthy guests counted as missed; must be 0.
        start_s: until all were heartbeating, from when the host began; 0 for a floor.
        scrapes: how often the metrics were read in ``seconds``; an overloaded host gives none.
        scrape_cpu_s: the CPU time of reading the metrics once; 0 where there are none.
        late_ticks: of the host's on-time guard, in ``seconds``.
        start_collections_s: full garbage collections until all were heartbeating.
        collections_s: full garbage collections in ``seconds``.
    """

    channels: int
    seconds: float
    beats: int
    cpu_s: float
    wakeups: int
    channel_kb: float
    late_ms: tuple[float, float, float]
    misses: int
    start_s: float = 0.0
    scrapes: int = 0
    scrape_cpu_s: float = 0.0
    late_ticks: int = 0
    start_collections_s: list[float] = attrs.field(factory=list)
    collections_s: list[float] = attrs.field(factory=list)

    @property
    def beat_us(self) -> float:
        """CPU time of one heartbeat, in microseconds, with a scrape every :data:`SCRAPE_S`."""
        unscraped = self.seconds / SCRAPE_S - self.scrapes
        return (self.cpu_s + unscraped * self.scrape_cpu_s) / max(self.beats, 1) * 1e6

    @property
    def wakeups_per_s(self) -> float:
        """Wake-ups per second."""
        return self.wakeups / self.seconds


@attrs.frozen
class Meter:
    """The counters of this process at one moment."""

    at: float
    cpu_s: float
    waits: int

    @classmethod
    def read(cls) -> Meter:
        """Reads them; what is done before the first or after the second reading is not counted."""
        waits = resource.getrusage(resource.RUSAGE_SELF).ru_nvcsw
        return cls(time.perf_counter(), time.process_time(), waits)


def resident_kb() -> float:
    """Resident memory of this process, garbage taken out, in KiB."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE / 1024


def quantiles_ms(seconds: Sequence[float]) -> tuple[float, float, float]:
    """The shares 0.5, 0.99 and 1 of durations in seconds, in milliseconds."""
    if not seconds:
        return (0.0, 0.0, 0.0)
    ordered = sorted(seconds)
    last = len(ordered) - 1
    return (
        ordered[last // 2] * 1e3,
        ordered[last * 99 // 100] * 1e3,
        ordered[last] * 1e3,
    )


def allow_descriptors() -> None:
    """Raises this process's limit of open files as far as it may."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
