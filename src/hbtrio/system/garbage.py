"""Leaves garbage alone while a daemon ends."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def collected_until_told() -> Iterator[Callable[[], None]]:
    """Yields a function that turns garbage collection off until the end of the block.

    To be called when the daemon begins to end. A thousand cancelled requests leave exceptions and
    tracebacks that keep the collector busy for as long as all the rest takes, and the process gives
    the memory back in a moment anyway.
    """
    try:
        yield gc.disable
    finally:
        gc.enable()
