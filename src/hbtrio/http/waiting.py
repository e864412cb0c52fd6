"""Keeps the connections that may be closed for new ones, of one kind, and closes them.

Closing a connection without a request in progress loses nothing, and an honest client finishes its
handshake, and sends its request, within milliseconds. So when too many wait, those that have waited
longest are closed for new ones. A burst is not such a case: a connection may wait for
:data:`PATIENCE_S` first, unless the bound on all of them is reached.

The APIs may use the descriptors that are reserved, which peers don't get. So when a connection was
accepted with one of those, the older half of the others is closed: clients that only wait can't use
them up. Closing a single one would not do: its descriptor, if not reserved, is what the next
connection gets, for which none would be closed.
"""

from __future__ import annotations

from typing import Final

import trio

from hbtrio.http.limits import HttpLimits

#: How long a connection may wait although too many do, in seconds.
PATIENCE_S: Final = 1.0

#: So many of one kind may wait in the reserve. An agent has two addresses with two kinds each: in
#: their handshake, and before a request.
MOST_IN_RESERVE: Final = 8


class Waiting:
    """The connections of one kind that wait.

    Args:
        limits: uses ``max_waiting`` and ``max_connections``.
    """

    def __init__(self, limits: HttpLimits) -> None:
        self._most = limits.max_connections
        self._most_for_long = min(limits.max_waiting, limits.max_connections)
        #: When each began to wait, the longest waiting first.
        self._since: dict[trio.CancelScope, float] = {}

    def make_room(self, *, in_reserve: bool = False) -> None:
        """Closes what must be closed before one more may wait.

        Args:
            in_reserve: whether the new one has one of the reserved descriptors.
        """
        if in_reserve and len(self._since) >= MOST_IN_RESERVE:
            for _ in range((len(self._since) + 1) // 2):
                self._close_oldest()
        while self._since:
            had_time = trio.current_time() - next(iter(self._since.values())) > PATIENCE_S
            if len(self._since) < (self._most_for_long if had_time else self._most):
                break
            self._close_oldest()

    def add(self, scope: trio.CancelScope) -> None:
        """Adds a connection, as the one that has waited shortest."""
        self._since[scope] = trio.current_time()

    def discard(self, scope: trio.CancelScope) -> None:
        """Forgets a connection that no longer waits; safe to call for one that was closed."""
        self._since.pop(scope, None)

    def _close_oldest(self) -> None:
        oldest = next(iter(self._since))
        del self._since[oldest]
        oldest.cancel()
