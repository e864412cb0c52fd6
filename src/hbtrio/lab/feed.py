"""What has come so far and what comes next, for waits that are bounded and miss nothing."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Callable
from itertools import islice
from typing import Final, Generic, TypeVar

import trio

T = TypeVar("T")

#: Items kept: a lab with ``--keep`` may stay for days.
KEPT: Final = 10_000

#: How many of the last items a failed wait names.
_NAMED: Final = 5


class NotSeen(Exception):
    """What was waited for did not come in time; the text names what came instead."""


class Feed(Generic[T]):
    """A sequence that grows at its end: events of a host, words of scripts.

    A position counts the items from the very first one, also where old items are forgotten.
    """

    def __init__(self) -> None:
        self._items: deque[T] = deque(maxlen=KEPT)
        #: The position behind the last item: where a wait for what comes next starts.
        self.end = 0
        self._news = trio.Event()
        self._closed = trio.Event()

    @property
    def closed(self) -> bool:
        """Whether nothing more will come."""
        return self._closed.is_set()

    def close(self) -> None:
        """Nothing more will come; those who follow see what is left and end."""
        self._closed.set()
        self._news.set()

    async def wait_closed(self) -> None:
        """Returns once nothing more will come."""
        await self._closed.wait()

    def put(self, item: T) -> None:
        """Appends an item and wakes whoever waits."""
        self._items.append(item)
        self.end += 1
        self._news.set()
        self._news = trio.Event()

    def since(self, position: int = 0) -> list[T]:
        """The items from ``position`` on, as far as they are still kept."""
        forgotten = self.end - len(self._items)
        return list(islice(self._items, max(0, position - forgotten), None))

    async def follow(self) -> AsyncIterator[T]:
        """Every item from the first on, and then each as it comes, until the feed is closed."""
        position = 0
        while True:
            items, position, news = self.since(position), self.end, self._news
            for item in items:
                yield item
            if position == self.end:
                if self.closed:
                    return
                await news.wait()

    async def wait_for(self, matches: Callable[[T], bool], *, within_s: float, since: int = 0) -> T:
        """The first item from position ``since`` on that matches; it may have come already.

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
