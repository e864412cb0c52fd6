"""Publishes items to any number of followers and keeps the most recent ones."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, Generic, TypeVar

import trio

T = TypeVar("T")

#: Items kept for status and for late subscribers.
RECENT: Final = 1000

#: Items that may wait for one follower, by default.
FOLLOWER_QUEUE: Final = 1000


class Broadcast(Generic[T]):
    """Sends each item to every follower; ``recent`` holds the last ``RECENT`` items."""

    def __init__(self) -> None:
        self.recent: deque[T] = deque(maxlen=RECENT)
        #: In the order in which they came, which is that in which they are woken.
        self._followers: dict[trio.MemorySendChannel[T], None] = {}
        self._listeners: list[Callable[[T], None]] = []

    def listen(self, listener: Callable[[T], None]) -> None:
        """Calls ``listener`` with every item, in the publishing task; it must not block."""
        self._listeners.append(listener)

    def publish(self, item: T) -> None:
        """Sends an item to every follower. Never blocks: cuts off a follower with a full queue."""
        self.recent.append(item)
        for listener in self._listeners:
            listener(item)
        for follower in tuple(self._followers):
            try:
                follower.send_nowait(item)
            except (trio.WouldBlock, trio.BrokenResourceError):
                del self._followers[follower]
                follower.close()

    @contextmanager
    def follow(self, queue: int = FOLLOWER_QUEUE) -> Iterator[trio.MemoryReceiveChannel[T]]:
        """Receives all items published within the context.

        Args:
            queue: how many items may wait to be read. One more ends the channel, so that the
                reader knows that it missed some.
        """
        send, receive = trio.open_memory_channel[T](queue)
        self._followers[send] = None
        try:
            yield receive
        finally:
            self._followers.pop(send, None)
            send.close()
            receive.close()
