"""The arguments of handlers: a vote or a notice, with its event and deadline."""

from __future__ import annotations

from datetime import datetime

import attrs

from hbtrio.app.more_time import WindowTime
from hbtrio.wire.vocabulary import EVENT_TABLE, Event, ExpectedEffect


@attrs.frozen
class _Request:
    #: The event that is about to happen to the VM, or has happened: ``Event.STOP`` equals
    #: ``"stop"``. ``Event.UNKNOWN`` stands for an event that this version doesn't know.
    event: Event
    _time: WindowTime = attrs.field(repr=False, eq=False)
    #: When the operator has planned the event for, with its zone: then it happens without a vote.
    #: None if it is not planned, and with a host or guest daemon that is too old to tell.
    planned_at: datetime | None = None

    @property
    def window_s(self) -> float:
        """The length of the window, in seconds, with the time that :meth:`extend` was granted."""
        return self._time.window_s

    @property
    def deadline(self) -> float:
        """When the window closes, on the clock of :func:`anyio.current_time`.

        The handler is then cancelled, and a later result is not sent.
        """
        return self._time.deadline

    @property
    def remaining_s(self) -> float:
        """Seconds until the window closes, at least 0. May be read from any thread.

        A response takes a moment to arrive, so don't use up all of this time.
        """
        return self._time.remaining_s

    async def extend(self, seconds: int) -> int:
        """Asks the host for more time, before the window ends; :attr:`deadline` moves with it.

        The host limits the time that a window gets in all (``[windows.max_extension_s]`` of its
        host.toml), by default to none. Cancelled, it waits no longer; what is granted counts.

        Args:
            seconds: whole seconds, 1 to 86400, added to the present deadline.

        Returns:
            How many seconds were granted: 1 or more, at most ``seconds``.

        Raises:
            NoMoreTime: none were granted, with the reason: the host gives none, the VIM asks, the
                limit is reached, the vote or notice is over, or the guest daemon did not answer
                within 5 s, as one that is too old to know of this.
            TypeError: ``seconds`` is not a whole number.
            ValueError: ``seconds`` is out of range.
        """
        return await self._time.extend(seconds)

    def extend_sync(self, seconds: int) -> int:
        """Does what :meth:`extend` does in a handler that runs in a thread; blocks meanwhile.

        Raises:
            RuntimeError: this is the thread of the event loop, or that has ended.
            NoMoreTime, TypeError, ValueError: as :meth:`extend`.
        """
        return self._time.extend_sync(seconds)


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
