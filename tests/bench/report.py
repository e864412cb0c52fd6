"""What the benchmark has seen, as a table and as JSON."""

from __future__ import annotations

import json
import os
import platform
import statistics
from collections.abc import Callable
from typing import Final

import attrs
import trio

from bench.sample import Sample

#: What is compared, the measures first: see :mod:`bench.floor`.
FLOOR: Final = "floor"
PACKED: Final = "packed floor"
HOST: Final = "host"
SHAPES: Final = (FLOOR, PACKED, HOST)

#: What the project aims for; the last two are bounds.
AIM_RATIO: Final = 3.0
AIM_EXCESS_MS: Final = 20.0
AIM_START_S: Final = 2.0

_HEADER: Final = (
    "channels                us/beat  ratio | late ms: p50   p99    max | misses wake-ups/s KiB/ch."
)


@attrs.frozen
class Comparison:
    """All shapes at one number of channels: the samples of all rounds."""

    channels: int
    samples: dict[str, list[Sample]]

    def median(self, shape: str, value: Callable[[Sample], float]) -> float:
        """The median of what a shape's rounds gave."""
        return statistics.median(map(value, self.samples[shape]))

    def ratio(self, shape: str) -> float:
        """CPU time of a shape's heartbeat by that of the floor's, medians of the rounds."""

        def beat_us(sample: Sample) -> float:
            return sample.beat_us

        return self.median(shape, beat_us) / self.median(FLOOR, beat_us)

    def misses(self, shape: str) -> int:
        """All challenges of healthy guests that a shape counted as missed."""
        return sum(sample.misses for sample in self.samples[shape])

    def line(self, shape: str) -> str:
        """A shape's line of the table."""
        p50, p99, most = (
            statistics.median(late)
            for late in zip(*(sample.late_ms for sample in self.samples[shape]), strict=True)
        )
        return (
            f"{self.channels:8} {shape:12} {self.median(shape, lambda s: s.beat_us):10.1f}"
            f" {self.ratio(shape):6.2f} | {p50:12.1f} {p99:5.1f} {most:6.1f}"
            f" | {self.misses(shape):6} {self.median(shape, lambda s: s.wakeups_per_s):10.0f}"
            f" {self.median(shape, lambda s: s.channel_kb):7.1f}"
        )


@attrs.frozen
class Detection:
    """Milliseconds over three intervals until losses were reported, of guests with one interval."""

    interval_ms: int
    excess_ms: list[float]

    def line(self, others: int) -> str:
        """Its line of the report."""
        return (
            f"{len(self.excess_ms)} guests of {self.interval_ms} ms fall silent among {others}: "
            f"lost after 3 intervals {min(self.excess_ms):+.1f} to {max(self.excess_ms):+.1f} ms"
        )


@attrs.frozen
class Result:
    """All that was measured.

    Attributes:
        comparisons: CPU time and lateness, for each number of channels.
        others: the healthy guests beside those that fell silent.
        detections: of those, for each of their intervals.
        started: so many channels were made at once.
        start_s: seconds until all of them were heartbeating.
    """

    comparisons: list[Comparison]
    others: int
    detections: list[Detection]
    started: int
    start_s: float
    system: str = attrs.field(init=False, factory=lambda: _system())

    @property
    def missed(self) -> bool:
        """Whether the host missed a healthy guest, however busy the machine is."""
        return any(one.misses(HOST) for one in self.comparisons)

    def as_text(self) -> str:
        """The table and what goes with it."""
        lines = [self.system, "", _HEADER]
        for comparison in self.comparisons:
            lines += [comparison.line(shape) for shape in SHAPES]
        lines += [f"aims: the host's ratio {AIM_RATIO:g} at most at 1000 channels, no misses", ""]
        lines += [detection.line(self.others) for detection in self.detections]
        lines += [f"aim: {AIM_EXCESS_MS:+g} ms at most", ""]
        lines += [
            f"{self.started} channels made at once: all heartbeating after {self.start_s:.2f} s",
            f"aim: {AIM_START_S:g} s at most",
        ]
        return "\n".join(lines)

    def as_json(self) -> str:
        """Every sample, with the ratios and the aims."""
        members = attrs.asdict(self)
        members["ratios"] = {
            str(one.channels): {shape: one.ratio(shape) for shape in SHAPES}
            for one in self.comparisons
        }
        members["aims"] = {"ratio": AIM_RATIO, "excess_ms": AIM_EXCESS_MS, "start_s": AIM_START_S}
        return json.dumps(members, indent=1) + "\n"


def _system() -> str:
    return (
        f"Python {platform.python_version()}, trio {trio.__version__}, {os.cpu_count()} CPUs, "
        f"load {os.getloadavg()[0]:.1f}"
    )
