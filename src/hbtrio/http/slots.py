"""The slots of an HTTP server: a bounded number of connections, of which waiting ones give way.

A connection is at work from the arrival of a whole request until its answer is sent. Before that,
between two requests and after a refusal it only waits, whatever it sends meanwhile: closing it
loses nothing that was begun. So a few silent or slow clients can't keep others out: when all slots
are taken, the connection that has waited longest is closed; a well-behaved client sends its request
within milliseconds.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import trio


class Slots:
    """The slots of one server.

    Args:
        most: so many connections are held at a time.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._at_work: set[Slot] = set()
        #: Those that may be given away, the one that has waited longest first.
        self._waiting: dict[Slot, None] = {}

    def take(self) -> Slot | None:
        """A slot for a newcomer, who leaves it in the end; None if all others are at work."""
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
    """One connection's slot; made by :meth:`Slots.take`.

    Attributes:
        scope: around whatever the connection does; cancelled when the slot is given away, which
            happens only while the connection waits.
    """

    def __init__(self, waiting: dict[Slot, None], at_work: set[Slot]) -> None:
        self.scope = trio.CancelScope()
        self._waiting = waiting
        self._at_work = at_work

    @contextlib.contextmanager
    def at_work(self) -> Iterator[None]:
        """Keeps the slot for as long as the block lasts; it must not have been given away."""
        del self._waiting[self]
        self._at_work.add(self)
        try:
            yield
        finally:
            self._at_work.remove(self)
            self._waiting[self] = None

    def leave(self) -> None:
        """The slot is free again; it may have been given away before."""
        self._waiting.pop(self, None)
