"""What the benchmark has seen of the agent, as a table and as JSON."""

from __future__ import annotations

import json
import os
from bisect import bisect_left
from collections.abc import Sequence
from typing import Final, Self

import attrs

#: What is compared: see :mod:`bench.agent` and :mod:`bench.relay`.
FLOOR: Final = "floor"
FARMED: Final = "agent, host, scripted guest"
REAL: Final = "agent, host, bridge, guest"

#: What the project aims for, in milliseconds: bounds.
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

    def lines(self) -> list[str]:
        """Its lines of the report."""
        begin, end = self.waiting
        return [
            f"{len(self.agent_ms)} GETs of {self.known} instances; for a VIM that stalls {begin} "
            f"deliveries wait at the begin, {end} at the end:",
            *(
                f"{name}: p50 {share(ms, 0.5):.2f}, p99 {share(ms, 0.99):.2f}, max {max(ms):.2f} ms"
                for name, ms in ((FLOOR, self.floor_ms), (FARMED, self.agent_ms))
            ),
        ]


@attrs.frozen
class AgentResult:
    """All that was measured of the agent.

    Attributes:
        votes: of each way, the floor's first.
        queries: while the VIM stalls.
        loads: of the machine before and after.
    """

    votes: list[Votes]
    queries: Queries
    loads: tuple[float, float]

    def as_text(self) -> str:
        """The table and what goes with it."""
        before, after = self.loads
        return "\n".join(
            [
                f"{os.cpu_count()} CPUs, load {before:.1f} before and {after:.1f} after",
                "",
                _HEADER,
                *(one.line(self.votes[0]) for one in self.votes),
                f"aims: p50 {AIM_VOTE_P50_MS:g} ms, p99 {AIM_VOTE_P99_MS:g} ms at most "
                "(the deployed C++ pair: p50 12.9, p90 27.3)",
                "",
                *self.queries.lines(),
                f"aim: p99 {AIM_QUERY_P99_MS:g} ms at most (the deployed C++ agent: 19.7 s)",
            ]
        )

    def as_json(self) -> str:
        """Every sample, with the aims and what they are about."""
        members = attrs.asdict(self)
        members["shares"] = {
            "vote_ms": {one.name: {"p50": one.p50, "p99": one.p99} for one in self.votes},
            "query_p99_ms": self.queries.p99,
        }
        members["aims"] = {
            "vote_p50_ms": AIM_VOTE_P50_MS,
            "vote_p99_ms": AIM_VOTE_P99_MS,
            "query_p99_ms": AIM_QUERY_P99_MS,
        }
        return json.dumps(members, indent=1) + "\n"


def share(values: Sequence[float], part: float) -> float:
    """What this share of the values is at or below."""
    ordered = sorted(values)
    return ordered[int((len(ordered) - 1) * part)]
