"""Keeps a growing sequence of items, for waits with a timeout that miss no item."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Callable
from itertools import islice
from typing import Final, Generic, TypeVar

import trio

from hbtrio.nursery.wakeup import WakeUp

T = TypeVar("T")

#: Items kept: a lab with ``--keep`` may stay for days.
KEPT: Final = 10_000

#: How many of the last items a failed wait names.
_NAMED: Final = 5


class NotSeen(Exception):
    """No matching item came in time; the text names the last items."""


class Feed(Generic[T]):
    """A growing sequence: events of a host, lines of scripts.

    A position counts all items from the first one, including old items that were dropped.
    """

    def __init__(self) -> None:
        self._items: deque[T] = deque(maxlen=KEPT)
        #: The position after the last item, from which to wait for the next one.
        self.end = 0
        self._news = WakeUp()
        self._closed = trio.Event()

    @property
    def closed(self) -> bool:
        """Whether the feed is closed."""
        return self._closed.is_set()

    def close(self) -> None:
        """Closes the feed; followers get the remaining items and end."""
        self._closed.set()
        self._news.set()

    async def wait_closed(self) -> None:
        """Waits until the feed is closed."""
        await self._closed.wait()

    def put(self, item: T) -> None:
        """Appends an item and wakes all waiting tasks."""
        self._items.append(item)
        self.end += 1
        self._news.set()

    def since(self, position: int = 0) -> list[T]:
        """Returns the items from ``position`` on that are still kept."""
        forgotten = self.end - len(self._items)
        return list(islice(self._items, max(0, position - forgotten), None))

    async def follow(self) -> AsyncIterator[T]:
        """Yields every item from the first on, and each new one, until the feed is closed."""
        position = 0
        while True:
            items, position = self.since(position), self.end
            for item in items:
                yield item
            if position == self.end:
                if self.closed:
                    return
                await self._news.wait()

    async def wait_for(self, matches: Callable[[T], bool], *, within_s: float, since: int = 0) -> T:
        """Waits for the first matching item from position ``since`` on, which may be there already.

        Raises:
            NotSeen: none came within ``within_s`` seconds.
        """
        position = since
        with trio.move_on_after(within_s):
            while True:
                items = self.since(position)
                for item in items:
                    if matches(item):
                        return item
                position = self.end
                await self._news.wait()
        came = self.since(since)[-_NAMED:]
        raise NotSeen(f"not seen within {within_s:g} s; the last that came: {came or 'nothing'}")
