"""Cuts long work into slices, between which other tasks have their turn."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final, TypeVar

#: Instances in a slice: encoding or storing so many takes a few milliseconds.
SLICE: Final = 250

_T = TypeVar("_T")


def slices(items: Sequence[_T]) -> Iterator[Sequence[_T]]:
    """Yields the items in order, at most ``SLICE`` at a time."""
    for start in range(0, len(items), SLICE):
        yield items[start : start + SLICE]
