"""Decides the life of one hold on a host's alarms, from the host's alarm to the release.

While a hold is in force, alarms of the host's instances are stored instead of sent. The first
recovery of a failed instance begins the release: the others have ``SETTLE_S`` to recover, and those
that have not are alarmed. The store may be slow, and events continue meanwhile: a hold is in force
from the moment it is made, and accepts no alarm while it is being ended, because it will not look
for alarms again.
"""

from __future__ import annotations

from collections.abc import Set
from datetime import datetime
from enum import Enum
from typing import Final

from hbtrio.fsm.table import Table
from hbtrio.policy.backoff import Backoff

#: After the first recovery the other instances have this long, in seconds, to recover. A host that
#: was frozen challenges all of them within a few intervals.
SETTLE_S: Final = 10.0


class HoldState(Enum):
    """What is known of a hold."""

    WAITING = "waiting"  # no failed instance has recovered
    SETTLING = "settling"  # one has recovered; the others still have time
    DUE = "due"  # their time is over; it ends when the store is free
    ENDING = "ending"  # the store is releasing the alarms; the hold accepts no more
    OVER = "over"


class HoldEvent(Enum):
    """What can happen to a hold."""

    RECOVERED = "a failed instance recovered, or all have left"
    LINK_DROPPED = "the host's link dropped"
    MORE_FAILED = "instances failed behind a link that had dropped"
    TIME_OVER = "the others' time to recover is over"
    END_BEGAN = "the store begins the release: it is due, or an operator asked"
    END_FAILED = "the store failed before any instance recovered"
    END_FAILED_SETTLING = "the store failed after an instance recovered"
    END_FAILED_REPLACED = "the store failed while the host was held again"
    ENDED = "the store has released the alarms"


_S, _E = HoldState, HoldEvent

_ROWS: Final[dict[HoldState, dict[HoldEvent, HoldState]]] = {
    _S.WAITING: {
        _E.RECOVERED: _S.SETTLING,
        _E.LINK_DROPPED: _S.WAITING,
        _E.MORE_FAILED: _S.WAITING,
        _E.END_BEGAN: _S.ENDING,
    },
    # Recoveries from before the link dropped no longer count.
    _S.SETTLING: {
        _E.RECOVERED: _S.SETTLING,
        _E.LINK_DROPPED: _S.WAITING,
        _E.MORE_FAILED: _S.WAITING,
        _E.TIME_OVER: _S.DUE,
        _E.END_BEGAN: _S.ENDING,
    },
    _S.DUE: {
        _E.RECOVERED: _S.DUE,
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
_NEWS: Final = frozenset({_E.RECOVERED, _E.LINK_DROPPED, _E.MORE_FAILED})

HOLD_TABLE: Final[Table[HoldState, HoldEvent]] = Table(
    "hold on a host's alarms",
    _S.WAITING,
    _ROWS,
    {
        _S.WAITING: _ENDS | {_E.TIME_OVER},
        _S.SETTLING: _ENDS,
        _S.DUE: _ENDS | {_E.TIME_OVER},
        # Callers check `in_force` before they report anything else.
        _S.ENDING: _NEWS | {_E.TIME_OVER, _E.END_BEGAN},
        _S.OVER: frozenset(_E),
    },
    HoldEvent,
)


class AlarmHold:
    """Holds back a host's alarms. Times are in seconds on the caller's clock.

    Args:
        hostname: the host.
        since: when it was raised, with its zone.
        reason: why.
        lost: the failed instances, one of which has to recover; None: any instance.
    """

    def __init__(
        self, hostname: str, since: datetime, reason: str, lost: Set[str] | None = None
    ) -> None:
        self.hostname = hostname
        self.since = since
        self.reason = reason
        self.lost: Set[str] | None = lost
        self.state: HoldState = HOLD_TABLE.initial
        #: When the others' time to recover is over; None before the first recovery.
        self.settles_at: float | None = None
        #: Why the release began; "" before it.
        self.settle_reason = ""
        self._backoff = Backoff()

    @property
    def in_force(self) -> bool:
        """Whether it accepts alarms."""
        return self.state not in (HoldState.ENDING, HoldState.OVER)

    @property
    def due_at(self) -> float | None:
        """When to call :meth:`time_over`; None: not before something else has happened."""
        return self.settles_at if self.state is HoldState.SETTLING else None

    def concerns(self, uuid: str) -> bool:
        """Returns whether the recovery of this instance begins the release."""
        return self.lost is None or uuid in self.lost

    def recovered(self, reason: str, now: float) -> bool:
        """Handles a recovery; returns whether the release begins with it."""
        begins = self.state is HoldState.WAITING
        self._step(HoldEvent.RECOVERED)
        if begins:
            self.settles_at, self.settle_reason = now + SETTLE_S, reason
        return begins

    def link_dropped(self) -> None:
        """Handles a dropped link: earlier recoveries no longer count."""
        self._step(HoldEvent.LINK_DROPPED)
        self._wait_on()

    def more_failed(self, lost: Set[str]) -> None:
        """Adds failed instances.

        After a dropped link, any recovery would have begun the release. Now one of these has to
        recover, because so many failures are not explained by the link.
        """
        if self.lost is not None:
            self.lost = self.lost | lost
            return
        self._step(HoldEvent.MORE_FAILED)
        self.lost = lost
        self._wait_on()

    def time_over(self) -> None:
        """Handles the end of the others' time to recover."""
        self._step(HoldEvent.TIME_OVER)

    def settled(self) -> bool:
        """Begins the release if it is still due; returns whether it is."""
        if self.state is not HoldState.DUE:
            return False
        self._step(HoldEvent.END_BEGAN)
        return True

    def released(self) -> bool:
        """Begins the release for an operator; returns False if it has already begun."""
        if not self.in_force:
            return False
        self._step(HoldEvent.END_BEGAN)
        return True

    def end_failed(self, now: float, *, replaced: bool) -> None:
        """Resumes the hold after a failed store, unless a new hold has ``replaced`` it."""
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
