"""Provides one lock per key, such as a hostname."""

from __future__ import annotations

from collections.abc import AsyncIterator, Hashable
from contextlib import asynccontextmanager

import trio


class KeyedLock:
    """Locks by key. A key's lock exists only while a task holds it or waits for it."""

    def __init__(self) -> None:
        self._locks: dict[Hashable, trio.StrictFIFOLock] = {}

    def __contains__(self, key: object) -> bool:
        """Whether a task holds this key's lock or waits for it."""
        return key in self._locks

    def __len__(self) -> int:
        return len(self._locks)

    @asynccontextmanager
    async def of(self, key: Hashable) -> AsyncIterator[None]:
        """Holds the key's lock within the block; waiting tasks are served in order.

        Not reentrant. Cancelled while it waits, it leaves the queue.
        """
        lock = self._locks.setdefault(key, trio.StrictFIFOLock())
        try:
            async with lock:
                yield
        finally:
            # After a cancelled wait the key may have a newer lock.
            if not lock.locked() and self._locks.get(key) is lock:
                del self._locks[key]
