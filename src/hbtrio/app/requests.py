"""What handlers are asked and told: a vote, a notice, and how long there is for it."""

from __future__ import annotations

import time
from typing import Self

import anyio
import attrs

from hbtrio.wire.vocabulary import EVENT_TABLE, Event, ExpectedEffect


@attrs.frozen
class _Request:
    #: What is about to happen to the VM, or has happened: ``Event.STOP`` or just ``"stop"``.
    #: ``Event.UNKNOWN`` is one that this version of the SDK has no name for.
    event: Event
    #: How long the window is, in seconds.
    window_s: float
    #: When the window closes, in terms of :func:`anyio.current_time`. The handler is cancelled
    #: then, and what it returns later is not sent.
    deadline: float
    # The same on the clock that every thread can read.
    _ends_at: float = attrs.field(repr=False, eq=False)

    @classmethod
    def opened(cls, event: Event, window_s: float) -> Self:
        """One whose window opens now."""
        now = anyio.current_time()
        return cls(event, window_s, now + window_s, time.monotonic() + window_s)

    @property
    def remaining_s(self) -> float:
        """Seconds until the window closes, 0 when it is over. May be read from any thread.

        An answer takes a moment to arrive: whoever spends all of this comes too late.
        """
        try:
            remaining_s = self.deadline - anyio.current_time()
        except RuntimeError:  # a thread without an event loop
            remaining_s = self._ends_at - time.monotonic()
        return max(0.0, remaining_s)


@attrs.frozen
class Vote(_Request):
    """Whether this event may happen.

    Answer :class:`~hbtrio.app.Accept` or :class:`~hbtrio.app.Reject`. Silence is agreement.
    """


@attrs.frozen
class Notice(_Request):
    """This event is about to happen, or has happened.

    The event waits until the handler returns, but no longer than the window.
    """

    @property
    def happened(self) -> bool:
        """Whether the event is over: unpause, resume and the events that end in ``_end``."""
        rule = EVENT_TABLE.get(self.event)
        return rule is not None and rule.effect is ExpectedEffect.RETURNS
