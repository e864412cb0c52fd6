"""Adds up the results of a campaign, and says in lines what they come to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Final

from hbtrio.simulate.latencies import Latency
from hbtrio.simulate.seed_result import SeedResult
from hbtrio.simulate.sightings import Sighting

#: How many failed seeds are kept with everything about them.
MOST_FAILED: Final = 100


class Summary:
    """The sums over the results that were added."""

    def __init__(self, results: Iterable[SeedResult] = ()) -> None:
        self.seeds = 0
        self.failed = 0
        self.cpu_s = 0.0
        self.vm_hours = 0.0
        #: The seeds without a result.
        self.errors = 0
        #: The failed seeds that came first, at most :data:`MOST_FAILED`.
        self.failures: list[SeedResult] = []
        self.violations: Counter[str] = Counter()
        self.faults: Counter[str] = Counter()
        #: Every sighting, also those at 0.
        self.sightings: dict[str, int] = {sighting.value: 0 for sighting in Sighting}
        self.excused: Counter[str] = Counter()
        self.detections: list[Latency] = []
        self.verdicts: list[Latency] = []
        for result in results:
            self.add(result)

    def add(self, result: SeedResult) -> None:
        """Adds a result."""
        self.seeds += 1
        self.cpu_s += result.cpu_s
        self.vm_hours += result.vm_hours
        self.errors += bool(result.error)
        if result.failed:
            self.failed += 1
            if len(self.failures) < MOST_FAILED:
                self.failures.append(result)
        self.violations.update({violation.invariant for violation in result.violations})
        self.faults.update(result.faults)
        self.excused.update(result.excused)
        for sighting, number in result.sightings.items():
            self.sightings[sighting] = self.sightings.get(sighting, 0) + number
        self.detections += result.detections
        self.verdicts += result.verdicts

    @property
    def unseen(self) -> list[str]:
        """What was not seen once."""
        return [sighting for sighting, number in self.sightings.items() if not number]

    def lines(self) -> Iterator[str]:
        """Yields the summary for a terminal."""
        speed = self.vm_hours / self.cpu_s if self.cpu_s else 0.0
        yield (
            f"{self.seeds} seeds, {self.failed} failed; {self.vm_hours:.1f} VM-hours in "
            f"{self.cpu_s:.1f} CPU s ({speed:.1f} VM-hours per CPU s)"
        )
        if self.errors:
            yield f"seeds without a result: {self.errors}"
        for invariant, number in self.violations.most_common():
            yield f"violated in {number} seeds: {invariant}"
        yield f"faults: {sum(self.faults.values())} of {len(self.faults)} kinds"
        for words, latencies in (("losses", self.detections), ("verdicts", self.verdicts)):
            if latencies:
                yield f"{words}: {spread_of(latencies)}"
        yield "seen:"
        for sighting, number in self.sightings.items():
            yield f"{number:8} {sighting}"
        if self.unseen:
            yield f"NOT SEEN: {len(self.unseen)} of {len(self.sightings)}; it proves nothing there"


def spread_of(latencies: list[Latency]) -> str:
    """Returns number, median, 99th percentile and maximum, and how near to its bound one came."""
    took = sorted(latency.took_s for latency in latencies)
    nearest = max(share_of(latency) for latency in latencies)
    return (
        f"{len(took)}, median {took[len(took) // 2]:.3f} s, "
        f"99 % within {took[(99 * len(took) - 1) // 100]:.3f} s, "
        f"at most {took[-1]:.3f} s; at most {100 * nearest:.0f} % of the bound"
    )


def share_of(latency: Latency) -> float:
    """Returns what share of its bound a latency took; 1 is all of it."""
    return latency.took_s / latency.bound_s if latency.bound_s else 1.0
