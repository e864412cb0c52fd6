"""Encodes the long parts of a status in slices, between which other tasks run.

The status of thousands of instances takes tenths of a second, in which votes would wait and
heartbeats would be late.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, TypeVar

import trio

from hbtrio.wire.operator import encode
from hbtrio.wire.operator.words import Body

#: So many lines are made and encoded at a time, a millisecond or two.
SLICE: Final = 100

_T = TypeVar("_T")


async def encoded_lines(items: Sequence[_T], line_of: Callable[[_T], Body | None]) -> bytes:
    """A JSON array of the items' lines.

    Of what changes meanwhile, one part may be older than another.

    Args:
        items: what the lines are of.
        line_of: makes one; None leaves the item out: there is none any more.
    """
    slices = []
    for start in range(0, len(items), SLICE):
        made = [line for one in items[start : start + SLICE] if (line := line_of(one)) is not None]
        if made:
            slices.append(encode(made)[1:-1])
        await trio.lowlevel.checkpoint()
    return b"[%b]" % b",".join(slices)
