"""Bounds an HTTP server's connections: those that wait, and requests in progress by their class.

A connection is at work from the arrival of a whole request until its response is sent. Otherwise it
waits: before and between requests, and after a refusal. The two are counted apart, so that requests
in progress, however many, keep no connection out.

Which of those that wait are closed for new ones is described in :mod:`hbtrio.http.waiting`.

Each request in progress has a :class:`Place`, and each class of places its own number: a thousand
open votes keep no status out. If all places of a class are taken, a request that is ``preferred``
takes that of the oldest one that is not; any other is refused.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Final

import attrs
import trio
from starlette.types import Scope

from hbtrio.http.limits import Drain, HttpLimits
from hbtrio.http.request import RequestRefusedError
from hbtrio.http.waiting import Waiting

#: How long a request that lost its place may take to end in order, in seconds.
DISPLACED_S: Final = 1.0

#: Requests that lost their places and have not ended yet, at most; the oldest is cut off for more.
MAX_DISPLACED: Final = 64


@attrs.frozen
class Place:
    """What a request occupies while it is in progress.

    Args:
        kind: the class of places.
        preferred: whether it may displace one that is not.
    """

    kind: str
    preferred: bool = False


@attrs.frozen
class RequestClasses:
    """The classes of places of one server.

    Args:
        sizes: how many places each class has, by its name; for the refusal of one more, the name is
            what the requests are, in the plural.
        place_of: the place for a request, from its ASGI scope; of a class in ``sizes``.
    """

    sizes: Mapping[str, int]
    place_of: Callable[[Scope], Place]


#: For a server whose requests are all alike.
ONE_CLASS: Final = RequestClasses({"requests": 64}, lambda _: Place("requests"))


class Slots:
    """The slots of one server.

    Args:
        limits: uses ``max_waiting`` and ``max_connections``.
        classes: the places of requests in progress.
    """

    def __init__(self, limits: HttpLimits, classes: RequestClasses = ONE_CLASS) -> None:
        self._classes = classes
        #: The slots that may be given away.
        self._waiting = Waiting(limits)
        #: The requests in progress, by class, the oldest first.
        self._at_work: dict[str, dict[Slot, Place]] = {kind: {} for kind in classes.sizes}
        self._displaced: dict[Slot, None] = {}

    def take(self, has_unread: Callable[[], bool], *, in_reserve: bool = False) -> Slot:
        """Returns a slot for a new connection.

        May close those that have waited longest. The new one calls :meth:`Slot.leave`.

        Args:
            has_unread: whether something of its client has arrived that nobody has read yet.
            in_reserve: whether the connection has one of the reserved descriptors.
        """
        self._waiting.make_room(in_reserve=in_reserve)
        slot = Slot(self, has_unread)
        self.wait(slot)
        return slot

    # -- for Slot

    def wait(self, slot: Slot) -> None:
        """Makes a slot one that may be given away."""
        self._waiting.add(slot.scope, slot.has_unread)

    def forget(self, slot: Slot) -> None:
        """Frees a waiting slot, unless it was given away."""
        self._waiting.discard(slot.scope)

    def begin(self, slot: Slot, scope: Scope) -> None:
        """Gives a waiting connection the place for its request.

        Raises:
            RequestRefusedError: 503, all places of its class are taken.
        """
        place = self._classes.place_of(scope)
        taken, most = self._at_work[place.kind], self._classes.sizes[place.kind]
        if len(taken) >= most:
            oldest = next((one for one, its in taken.items() if not its.preferred), None)
            if oldest is None or not place.preferred:
                text = f"too many {place.kind} in progress, the limit is {most}"
                raise RequestRefusedError(503, text)
            del taken[oldest]
            self._displace(oldest)
        self.forget(slot)
        taken[slot] = place

    def end(self, slot: Slot) -> None:
        """Ends the request of a connection, which then waits, unless it lost its place."""
        self._displaced.pop(slot, None)
        for taken in self._at_work.values():
            taken.pop(slot, None)
        if not slot.displaced.begun:
            self.wait(slot)

    def _displace(self, slot: Slot) -> None:
        if len(self._displaced) >= MAX_DISPLACED:
            oldest = next(iter(self._displaced))
            del self._displaced[oldest]
            oldest.scope.cancel()
        self._displaced[slot] = None
        slot.displaced.begin()
        slot.scope.deadline = trio.current_time() + DISPLACED_S


class Slot:
    """The slot of one connection, returned by :meth:`Slots.take`.

    Attributes:
        has_unread: whether something of the client has arrived that nobody has read yet.
        scope: the connection's cancel scope; cancelled when the slot is given away while the
            connection waits, and :data:`DISPLACED_S` after its request lost its place.
        displaced: begins when the request in progress loses its place.
    """

    def __init__(self, slots: Slots, has_unread: Callable[[], bool]) -> None:
        self.has_unread = has_unread
        self.scope = trio.CancelScope()
        self.displaced = Drain()
        self._slots = slots

    @contextlib.contextmanager
    def at_work(self, scope: Scope) -> Iterator[None]:
        """Has the place for a request while the block runs; the slot must not be given away.

        Args:
            scope: the request's ASGI scope.

        Raises:
            RequestRefusedError: 503, all places of its class are taken.
        """
        self._slots.begin(self, scope)
        try:
            yield
        finally:
            self._slots.end(self)

    def leave(self) -> None:
        """Frees the slot; may be called after the slot was given away."""
        self._slots.forget(self)
