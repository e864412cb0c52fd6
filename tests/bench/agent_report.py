"""What the benchmark has seen of the agent, as lines."""

from __future__ import annotations

import os
from bisect import bisect_left
from collections.abc import Sequence
from typing import Any, Final, Self

import attrs

#: What is compared: see :mod:`bench.agent` and :mod:`bench.relay`.
FLOOR: Final = "floor"
FARMED: Final = "agent"
REAL: Final = "hbtrio guest"

#: What the project aims for, in milliseconds; and the deployed C++ pair's, where it was measured.
AIM_VOTE_MS: Final = (4.0, 20.0)
AIM_QUERY_MS: Final = 10.0

_HEADER: Final = "vote to verdict, ms:     p50   p90   p99    max  ratio | reply  guest   back"


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
        reply = share(self.reply_ms, 0.5)
        parts = f"{reply:5.2f}"
        if self.guest_ms:
            guest = share(self.guest_ms, 0.5)
            parts += f"  {guest:5.2f}  {self.p50 - guest:5.2f}"
        return (
            f"{self.name:20} {self.p50:7.2f} {share(self.verdict_ms, 0.9):5.2f} {self.p99:5.2f}"
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

    def line(self) -> str:
        """Its line of the report."""
        p50, p99 = share(self.agent_ms, 0.5), share(self.agent_ms, 0.99)
        return (
            f"{len(self.agent_ms)} GETs of {self.known} instances, {self.waiting[0]} to "
            f"{self.waiting[1]} deliveries waiting for a VIM that stalls: p50 {p50:.1f}, "
            f"p99 {p99:.1f}, max {max(self.agent_ms):.1f} ms; floor p50 "
            f"{share(self.floor_ms, 0.5):.1f}, p99 {share(self.floor_ms, 0.99):.1f} ms"
        )


@attrs.frozen
class AgentResult:
    """All that was measured of the agent, and the load when that began and ended."""

    votes: list[Votes]
    queries: Queries
    load: float = attrs.field(factory=lambda: os.getloadavg()[0])

    def lines(self) -> list[str]:
        """The table and what goes with it."""
        p50, p99 = AIM_VOTE_MS
        return [
            _HEADER,
            *(one.line(self.votes[0]) for one in self.votes),
            f"aims: p50 {p50:g} ms and p99 {p99:g} ms at most (the deployed C++ pair: p50 12.9, "
            "p90 27.3)",
            "",
            self.queries.line(),
            f"aim: p99 {AIM_QUERY_MS:g} ms at most (the deployed C++ agent: 19.7 s); load now "
            f"{self.load:.1f}",
        ]

    def shares(self) -> dict[str, Any]:
        """What the aims are about."""
        return {
            "votes": {one.name: {"p50_ms": one.p50, "p99_ms": one.p99} for one in self.votes},
            "query_p99_ms": share(self.queries.agent_ms, 0.99),
        }


def share(values: Sequence[float], part: float) -> float:
    """What this share of the values is at or below."""
    ordered = sorted(values)
    return ordered[int((len(ordered) - 1) * part)]
