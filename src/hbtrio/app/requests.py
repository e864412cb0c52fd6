"""The arguments of handlers: a vote or a notice, with its event and deadline."""

from __future__ import annotations

import time
from typing import Self

import anyio
import attrs

from hbtrio.wire.vocabulary import EVENT_TABLE, Event, ExpectedEffect


@attrs.frozen
class _Request:
    #: The event that is about to happen to the VM, or has happened: ``Event.STOP`` equals
    #: ``"stop"``. ``Event.UNKNOWN`` stands for an event that this version doesn't know.
    event: Event
    #: The length of the window, in seconds.
    window_s: float
    #: When the window closes, on the clock of :func:`anyio.current_time`. The handler is then
    #: cancelled, and a later result is not sent.
    deadline: float
    # The deadline on time.monotonic(), which every thread can read.
    _ends_at: float = attrs.field(repr=False, eq=False)

    @classmethod
    def opened(cls, event: Event, window_s: float) -> Self:
        """Creates a request whose window opens now."""
        now = anyio.current_time()
        return cls(event, window_s, now + window_s, time.monotonic() + window_s)

    @property
    def remaining_s(self) -> float:
        """Seconds until the window closes, at least 0. May be read from any thread.

        A response takes a moment to arrive, so don't use up all of this time.
        """
        try:
            remaining_s = self.deadline - anyio.current_time()
        except RuntimeError:  # a thread without an event loop
            remaining_s = self._ends_at - time.monotonic()
        return max(0.0, remaining_s)


@attrs.frozen
class Vote(_Request):
    """Asks whether this event may happen.

    Return :class:`~hbtrio.app.Accept` or :class:`~hbtrio.app.Reject`. Silence is consent.
    """


@attrs.frozen
class Notice(_Request):
    """Announces that this event is about to happen, or has happened.

    The event waits until the handler returns, but no longer than the window.
    """

    @property
    def happened(self) -> bool:
        """Whether the event has happened: unpause, resume and ``*_end``."""
        rule = EVENT_TABLE.get(self.event)
        return rule is not None and rule.effect is ExpectedEffect.RETURNS
