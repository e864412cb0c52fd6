"""One hold on a host's alarms, from the host's alarm to the release.

While a hold is in force, alarms of the host's instances are kept instead of sent. The first of
those that failed to be well again begins the release: the others have ``SETTLE_S`` to be, and those
that are not are alarmed. The store is slow at times, and things go on happening meanwhile: a hold
holds back from the moment it is made, and while it is being ended nobody leaves an alarm to it any
more, for it will not look again.
"""

from __future__ import annotations

from collections.abc import Set
from datetime import datetime
from enum import Enum
from typing import Final

from hbtrio.fsm.table import Table
from hbtrio.policy.backoff import Backoff

#: After the first good heartbeat the others have this long, in seconds, to be heard of. A host that
#: was frozen challenges all of them within a few intervals.
SETTLE_S: Final = 10.0


class HoldState(Enum):
    """What is known of a hold."""

    WAITING = "waiting"  # none of the instances that failed was heard of
    SETTLING = "settling"  # one was heard of; the others still have time
    DUE = "due"  # their time is over; it ends as soon as the store's turn comes
    ENDING = "ending"  # the store is asked to release the alarms; none is left to it any more
    OVER = "over"


class HoldEvent(Enum):
    """What can happen to a hold."""

    HEARD_OF = "one that failed is well again, or all of them have left"
    LINK_DROPPED = "the host's link dropped"
    MORE_FAILED = "instances failed behind a link that had dropped"
    TIME_OVER = "the time of the others is over"
    END_BEGAN = "the store's turn came: it is due, or somebody releases it"
    END_FAILED = "the store failed, and none had been heard of"
    END_FAILED_SETTLING = "the store failed, and the release had begun"
    END_FAILED_REPLACED = "the store failed, and the host is held anew meanwhile"
    ENDED = "the store has released the alarms"


_S, _E = HoldState, HoldEvent

_ROWS: Final[dict[HoldState, dict[HoldEvent, HoldState]]] = {
    _S.WAITING: {
        _E.HEARD_OF: _S.SETTLING,
        _E.LINK_DROPPED: _S.WAITING,
        _E.MORE_FAILED: _S.WAITING,
        _E.END_BEGAN: _S.ENDING,
    },
    # What was heard of before a link dropped counts no more.
    _S.SETTLING: {
        _E.HEARD_OF: _S.SETTLING,
        _E.LINK_DROPPED: _S.WAITING,
        _E.MORE_FAILED: _S.WAITING,
        _E.TIME_OVER: _S.DUE,
        _E.END_BEGAN: _S.ENDING,
    },
    _S.DUE: {
        _E.HEARD_OF: _S.DUE,
        _E.LINK_DROPPED: _S.WAITING,
        _E.MORE_FAILED: _S.WAITING,
        _E.END_BEGAN: _S.ENDING,
    },
    _S.ENDING: {
        _E.END_FAILED: _S.WAITING,
        _E.END_FAILED_SETTLING: _S.SETTLING,
        _E.END_FAILED_REPLACED: _S.OVER,
        _E.ENDED: _S.OVER,
    },
    _S.OVER: {},
}

_ENDS: Final = frozenset({_E.END_FAILED, _E.END_FAILED_SETTLING, _E.END_FAILED_REPLACED, _E.ENDED})
_NEWS: Final = frozenset({_E.HEARD_OF, _E.LINK_DROPPED, _E.MORE_FAILED})

HOLD_TABLE: Final[Table[HoldState, HoldEvent]] = Table(
    "hold on a host's alarms",
    _S.WAITING,
    _ROWS,
    {
        _S.WAITING: _ENDS | {_E.TIME_OVER},
        _S.SETTLING: _ENDS,
        _S.DUE: _ENDS | {_E.TIME_OVER},
        # Whoever has news asks first whether it is in force.
        _S.ENDING: _NEWS | {_E.TIME_OVER, _E.END_BEGAN},
        _S.OVER: frozenset(_E),
    },
    HoldEvent,
)


class AlarmHold:
    """A hold on a host's alarms. Times are in seconds on the caller's clock.

    Args:
        hostname: the host.
        since: when it was raised, with its zone.
        reason: why.
        lost: the instances one of which has to be heard of; None: any.
    """

    def __init__(
        self, hostname: str, since: datetime, reason: str, lost: Set[str] | None = None
    ) -> None:
        self.hostname = hostname
        self.since = since
        self.reason = reason
        self.lost: Set[str] | None = lost
        self.state: HoldState = HOLD_TABLE.initial
        #: When the time of the others is over; None while none was heard of.
        self.settles_at: float | None = None
        #: What began the release; "" while none has.
        self.settle_reason = ""
        self._backoff = Backoff()

    @property
    def in_force(self) -> bool:
        """Whether alarms may be left to it."""
        return self.state not in (HoldState.ENDING, HoldState.OVER)

    @property
    def due_at(self) -> float | None:
        """When to call :meth:`time_over`; None: not before something else has happened."""
        return self.settles_at if self.state is HoldState.SETTLING else None

    def concerns(self, uuid: str) -> bool:
        """Whether hearing of this instance begins the release."""
        return self.lost is None or uuid in self.lost

    def heard_of(self, reason: str, now: float) -> bool:
        """The release begins, unless it has; returns whether it does now."""
        begins = self.state is HoldState.WAITING
        self._step(HoldEvent.HEARD_OF)
        if begins:
            self.settles_at, self.settle_reason = now + SETTLE_S, reason
        return begins

    def link_dropped(self) -> None:
        """What was heard of before counts no more."""
        self._step(HoldEvent.LINK_DROPPED)
        self._wait_on()

    def more_failed(self, lost: Set[str]) -> None:
        """These have failed as well.

        One of them has to be heard of where any instance would have done: behind a link that
        dropped, so many failed that it was not the link alone.
        """
        if self.lost is not None:
            self.lost = self.lost | lost
            return
        self._step(HoldEvent.MORE_FAILED)
        self.lost = lost
        self._wait_on()

    def time_over(self) -> None:
        """The time of the others is over."""
        self._step(HoldEvent.TIME_OVER)

    def settled(self) -> bool:
        """The store's turn has come; whether it is still due, and is being ended now."""
        if self.state is not HoldState.DUE:
            return False
        self._step(HoldEvent.END_BEGAN)
        return True

    def released(self) -> bool:
        """Somebody releases it, and has the store's turn; False if it was ended before."""
        if not self.in_force:
            return False
        self._step(HoldEvent.END_BEGAN)
        return True

    def end_failed(self, now: float, *, replaced: bool) -> None:
        """The store failed; it goes on, unless the host is held anew meanwhile (``replaced``)."""
        if replaced:
            self._step(HoldEvent.END_FAILED_REPLACED)
        elif self.settles_at is None:
            self._step(HoldEvent.END_FAILED)
        else:
            self._step(HoldEvent.END_FAILED_SETTLING)
            if self.settles_at <= now:
                self.settles_at = now + self._backoff.next_delay_s()

    def ended(self) -> None:
        """The store has released the alarms."""
        self._step(HoldEvent.ENDED)

    def _wait_on(self) -> None:
        self.settles_at, self.settle_reason = None, ""
        self._backoff.reset()

    def _step(self, event: HoldEvent) -> None:
        self.state = HOLD_TABLE.after(self.state, event)
