"""Bounds the number of an HTTP server's connections; waiting ones make room for new ones.

A connection is at work from the arrival of a whole request until its response is sent. Otherwise it
waits: before and between requests, and after a refusal. Closing a waiting connection loses no
request in progress. If all slots are taken, the connection that has waited longest is closed, so
silent or slow clients can't keep others out: an honest client sends its request within
milliseconds.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import trio


class Slots:
    """The slots of one server.

    Args:
        most: the most connections at a time.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._at_work: set[Slot] = set()
        #: The slots that may be given away, the longest waiting first.
        self._waiting: dict[Slot, None] = {}

    def take(self) -> Slot | None:
        """Returns a slot for a new connection; None if all others are at work.

        May close the connection that has waited longest. The new one calls :meth:`Slot.leave`.
        """
        if len(self._waiting) + len(self._at_work) >= self._most:
            if not self._waiting:
                return None
            longest = next(iter(self._waiting))
            longest.leave()
            longest.scope.cancel()
        slot = Slot(self._waiting, self._at_work)
        self._waiting[slot] = None
        return slot


class Slot:
    """The slot of one connection, returned by :meth:`Slots.take`.

    Attributes:
        scope: the connection's cancel scope; cancelled when the slot is given away, which happens
            only while the connection waits.
    """

    def __init__(self, waiting: dict[Slot, None], at_work: set[Slot]) -> None:
        self.scope = trio.CancelScope()
        self._waiting = waiting
        self._at_work = at_work

    @contextlib.contextmanager
    def at_work(self) -> Iterator[None]:
        """Keeps the slot while the block runs; the slot must not have been given away."""
        del self._waiting[self]
        self._at_work.add(self)
        try:
            yield
        finally:
            self._at_work.remove(self)
            self._waiting[self] = None

    def leave(self) -> None:
        """Frees the slot; may be called after the slot was given away."""
        self._waiting.pop(self, None)
