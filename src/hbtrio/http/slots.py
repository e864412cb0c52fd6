"""The places that an HTTP server has for connections: so many, and whoever waits gives way.

A connection is at work from when a request has arrived whole until its answer is out. Before that,
between two requests and after a refusal it only waits, whatever it sends meanwhile: closing it
loses nothing that was begun. So a few silent or slow clients can't keep the others out: when all
places are taken the connection that has waited longest is closed, since whoever means it has its
request here within milliseconds.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import trio


class Slots:
    """The places of one server.

    Args:
        most: so many connections are held at a time.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._at_work: set[Place] = set()
        #: Those that may be given away, the one that has waited longest first.
        self._waiting: dict[Place, None] = {}

    def take(self) -> Place | None:
        """A place for a newcomer, who leaves it in the end; None if all others are at work."""
        if len(self._waiting) + len(self._at_work) >= self._most:
            if not self._waiting:
                return None
            longest = next(iter(self._waiting))
            longest.leave()
            longest.scope.cancel()
        place = Place(self._waiting, self._at_work)
        self._waiting[place] = None
        return place


class Place:
    """One connection's place; made by :meth:`Slots.take`.

    Attributes:
        scope: around whatever the connection does; cancelled when the place is given away, which
            happens only while the connection waits.
    """

    def __init__(self, waiting: dict[Place, None], at_work: set[Place]) -> None:
        self.scope = trio.CancelScope()
        self._waiting = waiting
        self._at_work = at_work

    @contextlib.contextmanager
    def at_work(self) -> Iterator[None]:
        """Keeps the place for as long as the block lasts; it must not have been given away."""
        del self._waiting[self]
        self._at_work.add(self)
        try:
            yield
        finally:
            self._at_work.remove(self)
            self._waiting[self] = None

    def leave(self) -> None:
        """The place is free again; it may have been given away before."""
        self._waiting.pop(self, None)
