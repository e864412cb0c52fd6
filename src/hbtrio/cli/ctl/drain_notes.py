"""A drain in progress as one line of a status: how far it is, and who asked for it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from hbtrio.cli.ctl.times import moment
from hbtrio.wire.operator import DrainBody

#: The states in which an instance stays.
ENDED: Final = ("done", "skipped", "failed", "cancelled")

#: What somebody should look at, the gravest first, with its colour.
_COLOURS: Final = {"failed": "bad", "skipped": "warn", "blocked": "warn", "rejected": "warn"}

#: Hosts that a line names; the others are counted.
_NAMED: Final = 2


def drain_notes(drains: Sequence[DrainBody]) -> Iterator[tuple[str, str]]:
    """A line for each drain, with its colour."""
    for one in drains:
        colours = [colour for state, colour in _COLOURS.items() if one.counts.get(state)]
        phase = "" if one.phase == "running" else f", {one.phase}"
        text = (
            f"drain of {_hosts(one.hosts)}: {one.action}{phase}, {ended(one.counts)} of "
            f"{sum(one.counts.values())} ended: {counts_words(one.counts)}; by {one.who} since "
            f"{moment(one.begun)}"
        )
        yield text, next(iter(colours), "")


def ended(counts: Mapping[str, int]) -> int:
    """How many instances of a drain have ended, of their number by state."""
    return sum(counts.get(state, 0) for state in ENDED)


def counts_words(counts: Mapping[str, int]) -> str:
    """The number of instances by state, in words."""
    return ", ".join(f"{number} {state}" for state, number in counts.items()) or "no instance"


def _hosts(names: Sequence[str]) -> str:
    """The hosts of a drain; one that has no instance names none."""
    named = [*names[:_NAMED], *([f"{len(names) - _NAMED} more"] if len(names) > _NAMED else [])]
    return ", ".join(named) or "no instance"
