"""Keeps the connections that may be closed for new ones, of one kind, and closes them.

Closing a connection without a request in progress loses nothing, and an honest client finishes its
handshake, and sends its request, within milliseconds. So when too many wait, those that have waited
longest are closed for new ones. A burst is not such a case: a connection may wait for
:data:`PATIENCE_S` first, unless the bound on all of them is reached. Nor is a stalled server: a
connection whose request has arrived and was not read yet goes on waiting.

The APIs may use the descriptors that are reserved, which peers don't get. So when a connection was
accepted with one of those, the older half of the others is closed: clients that only wait can't use
them up. Closing a single one would not do: its descriptor, if not reserved, is what the next
connection gets, for which none would be closed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import attrs
import trio

from hbtrio.http.limits import HttpLimits

#: How long a connection may wait although too many do, in seconds.
PATIENCE_S: Final = 1.0

#: So many of one kind may wait in the reserve. An agent has two addresses with two kinds each: in
#: their handshake, and before a request.
MOST_IN_RESERVE: Final = 8

#: So many may be passed over for each new connection because something of theirs is unread.
MOST_SPARED: Final = 64


@attrs.frozen
class _Wait:
    since: float
    has_unread: Callable[[], bool]


class Waiting:
    """The connections of one kind that wait.

    Args:
        limits: uses ``max_waiting`` and ``max_connections``.
    """

    def __init__(self, limits: HttpLimits) -> None:
        self._most = limits.max_connections
        self._most_for_long = min(limits.max_waiting, limits.max_connections)
        #: How each waits, the longest waiting first.
        self._waits: dict[trio.CancelScope, _Wait] = {}

    def make_room(self, *, in_reserve: bool = False) -> None:
        """Closes what must be closed before one more may wait.

        Args:
            in_reserve: whether the new one has one of the reserved descriptors.
        """
        if in_reserve and len(self._waits) >= MOST_IN_RESERVE:
            for _ in range((len(self._waits) + 1) // 2):
                self._close_oldest()
        spared = 0
        while self._waits:
            scope, oldest = next(iter(self._waits.items()))
            had_time = trio.current_time() - oldest.since > PATIENCE_S
            if len(self._waits) < (self._most_for_long if had_time else self._most):
                break
            if len(self._waits) >= self._most or not oldest.has_unread():
                self._close_oldest()
                continue
            self.discard(scope)
            self.add(scope, oldest.has_unread)
            spared += 1
            if spared == MOST_SPARED:
                break

    def add(self, scope: trio.CancelScope, has_unread: Callable[[], bool]) -> None:
        """Adds a connection, as the one that has waited shortest.

        Args:
            scope: cancelled to close it.
            has_unread: whether something of its peer has arrived that nobody has read yet.
        """
        self._waits[scope] = _Wait(trio.current_time(), has_unread)

    def discard(self, scope: trio.CancelScope) -> None:
        """Forgets a connection that no longer waits; safe to call for one that was closed."""
        self._waits.pop(scope, None)

    def _close_oldest(self) -> None:
        oldest = next(iter(self._waits))
        del self._waits[oldest]
        oldest.cancel()
