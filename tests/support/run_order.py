"""A scenario in many orders of its tasks: what must not hang on the scheduler's luck.

Trio runs the tasks that are woken together in an order that it draws. Each seed draws others.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from itertools import count
from pathlib import Path
from typing import TypeVar
from unittest.mock import patch

import trio
from trio._core import _run
from trio.testing import MockClock

T = TypeVar("T")

#: With half of the orders wrong, a fault gets through all of them once in a million runs.
ORDERS = 20


def in_every_order(scenario: Callable[[MockClock], Awaitable[T]]) -> list[T]:
    """Runs ``scenario`` once with each of ``ORDERS`` seeds, on an autojump clock of its own."""
    results = []
    for _ in _orders():
        clock = MockClock(autojump_threshold=0)
        results.append(trio.run(scenario, clock, clock=clock))
    return results


def in_every_order_on_the_real_clock(scenario: Callable[[], Awaitable[T]]) -> list[T]:
    """The same on the system's clock, for sockets whose other end is not a task."""
    return [trio.run(scenario) for _ in _orders()]


def _orders() -> Iterator[None]:
    luck = _run._r.getstate()
    try:
        with patch.object(_run, "_ALLOW_DETERMINISTIC_SCHEDULING", True):
            for seed in range(ORDERS):
                _run._r.seed(seed)
                yield
    finally:
        _run._r.setstate(luck)


def folders(parent: Path) -> Iterator[Path]:
    """New folders in ``parent``, one for each order."""
    for number in count():
        folder = parent / str(number)
        folder.mkdir()
        yield folder
