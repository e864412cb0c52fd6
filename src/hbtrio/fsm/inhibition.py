"""What an application inhibits: the events that the guest rejects for it."""

from __future__ import annotations

import msgspec

from hbtrio.wire.vocabulary import Event


class Inhibition(msgspec.Struct, frozen=True):
    """The events that an application rejects while it is registered.

    The guest rejects them by itself: a stopped process still inhibits, as with systemd-inhibit.

    Args:
        events: the events.
        reason: why, for the operator.
        since: when it came.
    """

    events: frozenset[Event]
    reason: str
    since: float
