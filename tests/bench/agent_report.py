"""What the benchmark has seen of the agent: its pages and its lines of the summary."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from typing import Final, Self

import attrs

from bench.measure import Measure

#: What is compared: see :mod:`bench.agent` and :mod:`bench.relay`.
FLOOR: Final = "floor"
FARMED: Final = "agent, host, scripted guest"
REAL: Final = "agent, host, bridge, guest"

#: What the project aims for: bounds, of p50 to the floor's and in milliseconds.
AIM_VOTE_RATIO: Final = 6.0
AIM_VOTE_P50_MS: Final = 4.0
AIM_VOTE_P99_MS: Final = 20.0
AIM_QUERY_P99_MS: Final = 10.0

_HEADER: Final = (
    "POST of a vote to its PATCH, ms:  p50    p90    p99    max  ratio | reply  to guest  back"
)


@attrs.frozen
class Votes:
    """One way's votes, in milliseconds from the VIM's POST.

    Attributes:
        name: the way.
        reply_ms: until the VIM had the reply.
        guest_ms: until the guest had the vote, as far as it tells.
        verdict_ms: until the VIM had the PATCH with the verdict.
    """

    name: str
    reply_ms: list[float]
    guest_ms: list[float]
    verdict_ms: list[float]

    @classmethod
    def of(cls, name: str, votes: Sequence[Sequence[float]], asked: Sequence[float]) -> Self:
        """Of each vote when it was begun, replied to and answered; and when the guest was asked."""
        guest_ms = []
        for began, _, answered in votes:
            place = bisect_left(asked, began)
            if place < len(asked) and asked[place] < answered:
                guest_ms.append((asked[place] - began) * 1e3)
        return cls(
            name,
            [(replied - began) * 1e3 for began, replied, _ in votes],
            guest_ms,
            [(answered - began) * 1e3 for began, _, answered in votes],
        )

    @property
    def p50(self) -> float:
        """The median until the verdict."""
        return share(self.verdict_ms, 0.5)

    @property
    def p99(self) -> float:
        """What 99 of 100 take at most."""
        return share(self.verdict_ms, 0.99)

    def line(self, floor: Votes) -> str:
        """Its line of the table."""
        parts = f"{share(self.reply_ms, 0.5):5.2f}"
        if self.guest_ms:
            guest = share(self.guest_ms, 0.5)
            parts += f"  {guest:8.2f} {self.p50 - guest:5.2f}"
        return (
            f"{self.name:30} {self.p50:6.2f} {share(self.verdict_ms, 0.9):6.2f} {self.p99:6.2f}"
            f" {max(self.verdict_ms):6.2f} {self.p50 / floor.p50:6.1f} | {parts}"
        )


@attrs.frozen
class Queries:
    """GETs of an instance while the VIM stalls, in milliseconds.

    Attributes:
        known: the instances that the agent knows.
        waiting: what waited for the VIM at the begin and at the end.
        floor_ms, agent_ms: what each took.
    """

    known: int
    waiting: list[int]
    floor_ms: list[float]
    agent_ms: list[float]

    @property
    def p99(self) -> float:
        """What 99 of 100 GETs of the agent take at most."""
        return share(self.agent_ms, 0.99)

    def as_text(self) -> str:
        """Its page."""
        begin, end = self.waiting
        return "\n".join(
            [
                f"{len(self.agent_ms)} GETs of {self.known} instances; for a VIM that stalls "
                f"{begin} deliveries wait at the begin, {end} at the end:",
                *(
                    f"{name}: p50 {share(ms, 0.5):.2f}, p99 {share(ms, 0.99):.2f}, "
                    f"max {max(ms):.2f} ms"
                    for name, ms in ((FLOOR, self.floor_ms), (FARMED, self.agent_ms))
                ),
                "(the deployed C++ agent: 19.7 s)",
            ]
        )

    def measures(self) -> list[Measure]:
        """Its lines of the summary."""
        name = f"GET of one of {self.known} VMs, the VIM stalls: p99"
        return [Measure.at_most(name, self.p99, AIM_QUERY_P99_MS, "ms", digits=2)]


def votes_text(votes: Sequence[Votes]) -> str:
    """The table of votes; the floor's come first."""
    return "\n".join(
        [
            _HEADER,
            *(one.line(votes[0]) for one in votes),
            "(the deployed C++ pair: p50 12.9, p90 27.3)",
        ]
    )


def votes_measures(votes: Sequence[Votes], known: int) -> list[Measure]:
    """The lines of the summary about votes."""
    ways = {one.name: one for one in votes}
    farmed = ways[FARMED]
    name = f"vote, POST to PATCH, {known} VMs"
    return [
        Measure.at_most(f"{name}: to the raw floor", farmed.p50 / votes[0].p50, AIM_VOTE_RATIO),
        Measure.at_most(f"{name}: p50", farmed.p50, AIM_VOTE_P50_MS, "ms", digits=2),
        Measure.at_most(f"{name}: p99", farmed.p99, AIM_VOTE_P99_MS, "ms"),
    ]


def share(values: Sequence[float], part: float) -> float:
    """What this share of the values is at or below."""
    ordered = sorted(values)
    return ordered[int((len(ordered) - 1) * part)]
