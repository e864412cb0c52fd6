"""How the work for an input grows with its size: what a hostile input may cost, without a clock.

Seconds say nothing of a busy or slow machine. Eight times the input costs about eight times the
processor time where the work is linear, and 64 times where it is quadratic, on any machine.
"""

from __future__ import annotations

from collections.abc import Callable
from time import thread_time
from typing import Final, TypeVar

T = TypeVar("T")

#: How much larger the larger input is.
TIMES: Final = 8

#: Between 8 and 64, and further from both than caches and interruptions make it.
_LIMIT: Final = 24

#: How often each is measured: what disturbs only adds, so the least counts.
_TRIES: Final = 5


def assert_linear(make: Callable[[int], T], work: Callable[[T], object], size: int) -> None:
    """Asserts that the processor time of ``work`` grows no faster than its input.

    Args:
        make: makes an input of a size.
        work: does the work; how long an input takes to make does not count.
        size: of the smaller input, large enough to take some 0.1 ms.
    """
    small, large = make(size), make(TIMES * size)
    shorts, longs = [], []
    for _ in range(_TRIES):
        # In turn, so that a machine that slows down meanwhile slows both.
        shorts.append(_taken_s(work, small))
        longs.append(_taken_s(work, large))
    ratio = min(longs) / min(shorts)
    assert ratio < _LIMIT, f"{TIMES} times the input costs {ratio:.1f} times as much"


def _taken_s(work: Callable[[T], object], given: T) -> float:
    before_s = thread_time()
    work(given)
    return thread_time() - before_s
