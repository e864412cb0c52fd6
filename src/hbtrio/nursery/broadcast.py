"""A sequence of news that can be followed, with its newest part still at hand."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, Generic, TypeVar

import trio

T = TypeVar("T")

#: What a status or a late subscriber can still see.
RECENT: Final = 1000

#: How far a follower may fall behind by default.
FOLLOWER_QUEUE: Final = 1000


class Broadcast(Generic[T]):
    """Hands each piece of news to every follower; ``recent`` holds the last ``RECENT`` of them."""

    def __init__(self) -> None:
        self.recent: deque[T] = deque(maxlen=RECENT)
        self._followers: set[trio.MemorySendChannel[T]] = set()

    def publish(self, news: T) -> None:
        """Hands it out. It never blocks: a follower that does not read is cut off."""
        self.recent.append(news)
        for follower in tuple(self._followers):
            try:
                follower.send_nowait(news)
            except (trio.WouldBlock, trio.BrokenResourceError):
                self._followers.discard(follower)
                follower.close()

    @contextmanager
    def follow(self, queue: int = FOLLOWER_QUEUE) -> Iterator[trio.MemoryReceiveChannel[T]]:
        """All news from now on.

        Args:
            queue: how many may wait to be read; with one more the channel ends, so that a reader
                knows that it missed some instead of guessing.
        """
        send, receive = trio.open_memory_channel[T](queue)
        self._followers.add(send)
        try:
            yield receive
        finally:
            self._followers.discard(send)
            send.close()
            receive.close()
