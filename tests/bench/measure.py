"""Measures with their goals, and the table of what a run has seen of them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import attrs

_HEADER: Final = ("measure", "goal", "this run", "")


@attrs.frozen
class Measure:
    """A line of the summary.

    Attributes:
        name: what is measured.
        goal: what the project aims for, in words.
        seen: what this run has seen, in words.
        met: whether that meets the goal; None: there is none, or nothing was seen.
    """

    name: str
    goal: str
    seen: str
    met: bool | None

    @classmethod
    def at_most(
        cls, name: str, seen: float, most: float, unit: str = "", digits: int = 1
    ) -> Measure:
        """A value that is to be this at most."""
        tail = f" {unit}" if unit else ""
        return cls(name, f"<= {most:g}{tail}", f"{seen:.{digits}f}{tail}", seen <= most)

    @property
    def verdict(self) -> str:
        """The last cell of its line."""
        return {True: "met", False: "missed", None: ""}[self.met]


def summary(measures: Iterable[Measure]) -> str:
    """The table of all measures."""
    rows = [_HEADER, *((one.name, one.goal, one.seen, one.verdict) for one in measures)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )
