"""CPU time and lateness of hosts and floors, at several numbers of channels."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import attrs

from bench.measure import Measure
from bench.sample import Sample

#: What is compared: see docs/performance.md.
FLOOR: Final = "floor"
PACKED: Final = "packed floor"
C_FLOOR: Final = "C floor"
HOST: Final = "host"
CORE: Final = "host's core"
SHAPES: Final = (FLOOR, PACKED, C_FLOOR, HOST, CORE)

#: The host's CPU time of a beat by the packed floor's, at most, by the number of channels.
GOALS: Final = {1000: 2.0, 5000: 2.0, 15_000: 2.3}

_HEADER: Final = (
    "channels                us/beat  ratio | late ms: p50   p99    max | misses wake-ups/s KiB/ch."
)


@attrs.frozen
class Comparison:
    """All shapes at one number of channels: the samples of all rounds."""

    channels: int
    samples: Mapping[str, Sequence[Sample]]

    def median(self, shape: str, value: Callable[[Sample], float]) -> float:
        """The median of what a shape's rounds gave."""
        return statistics.median(map(value, self.samples[shape]))

    def beat_us(self, shape: str) -> float:
        """CPU time of a shape's heartbeat, the median of the rounds, in microseconds."""
        return self.median(shape, lambda sample: sample.beat_us)

    def ratio(self, shape: str) -> float | None:
        """CPU time of a shape's heartbeat by that of the packed floor's; None without one."""
        if PACKED not in self.samples:
            return None
        return self.beat_us(shape) / self.beat_us(PACKED)

    def misses(self, shape: str) -> int:
        """All challenges of healthy guests that a shape counted as missed."""
        return sum(sample.misses for sample in self.samples[shape])

    @property
    def host_missed(self) -> bool:
        """Whether a host missed a healthy guest, however busy the machine is; a floor may."""
        return any(self.misses(shape) for shape in self.samples if shape in (HOST, CORE))

    def late_ms(self, shape: str) -> tuple[float, float, float]:
        """The lateness of a shape's beats: medians of the rounds' shares 0.5, 0.99 and 1."""
        p50, p99, most = (
            statistics.median(late)
            for late in zip(*(sample.late_ms for sample in self.samples[shape]), strict=True)
        )
        return p50, p99, most

    def line(self, shape: str) -> str:
        """A shape's line of the table."""
        p50, p99, most = self.late_ms(shape)
        ratio = self.ratio(shape)
        return (
            f"{self.channels:8} {shape:12} {self.beat_us(shape):10.1f}"
            f" {'' if ratio is None else f'{ratio:.2f}':>6} | {p50:12.1f} {p99:5.1f} {most:6.1f}"
            f" | {self.misses(shape):6} {self.median(shape, lambda s: s.wakeups_per_s):10.0f}"
            f" {self.median(shape, lambda s: s.channel_kb):7.1f}"
        )

    def measures(self) -> list[Measure]:
        """Its lines of the summary."""
        ratio = self.ratio(HOST) if HOST in self.samples else None
        goal = GOALS.get(self.channels)
        if ratio is None or goal is None:
            return []
        name = f"CPU per beat of {self.channels} VMs, to the packed floor"
        return [Measure.at_most(name, ratio, goal, digits=2)]


def table(comparisons: Sequence[Comparison]) -> str:
    """All comparisons' lines."""
    return "\n".join([_HEADER, *(one.line(shape) for one in comparisons for shape in one.samples)])


def members(comparison: Comparison) -> dict[str, Any]:
    """A comparison for JSON: every sample, and the ratios."""
    return {
        "channels": comparison.channels,
        "beat_us": {shape: comparison.beat_us(shape) for shape in comparison.samples},
        "ratios": {shape: comparison.ratio(shape) for shape in comparison.samples},
        "samples": {
            shape: [attrs.asdict(sample) for sample in samples]
            for shape, samples in comparison.samples.items()
        },
    }
