"""Steps through one correction: the failure of one instance, until it is dealt with.

A failure is held for an interval, then :func:`~hbtrio.fsm.corrective.decide` decides. A command
that can't have done anything is tried again; any other end is final, and RESTART decides. What
was not done is decided anew once its cause has ended, and only if the VM then stays silent under
fresh challenges: it counts as a failure of that moment.

Each method takes what happened and returns the next step.
"""

from __future__ import annotations

from enum import Enum
from typing import Final

import attrs

from hbtrio.fsm.corrective import Cause, Never, NotNow
from hbtrio.fsm.table import Table

#: Seconds before the second attempt, and the longest wait; each is twice the one before.
RETRY_S: Final = 5.0
RETRY_MAX_S: Final = 60.0

#: Attempts after the first one.
RETRIES: Final = 5

#: A VM has to stay silent for this many seconds or intervals, the longer, before it is decided
#: anew. A guest without challenges says ``init`` after 5 s.
SILENT_S: Final = 7.0
SILENT_INTERVALS: Final = 2

#: Seconds until ``confirm`` and ``no_io_for_s`` are asked again.
ASK_AGAIN_S: Final = 60.0


class CorrectionState(Enum):
    """Where a correction is."""

    __hash__ = object.__hash__

    HELD = "held"  # to see whether others fail too
    DECIDING = "deciding"
    RUNNING = "running"
    RETRYING = "retrying"  # the command could not do anything
    HINDERED = "hindered"  # until the cause ends
    PROBING = "probing"  # the cause has ended: is it still silent?
    ENDED = "ended"


class CorrectionEvent(Enum):
    """What happens to a correction."""

    __hash__ = object.__hash__

    HELD = "the hold is over"
    ACTS = "decided: a command runs"
    HINDERED = "decided: not now"
    DROPPED = "decided: never"
    RAN = "the command has ended"
    RAN_IN_VAIN = "the command could not do anything"
    GIVES_UP = "the command could not do anything, the last time"
    RETRIES = "the time of the next attempt"
    CAUSE_ENDED = "the cause has ended"
    STILL_SILENT = "no answer to fresh challenges"
    BACK = "the VM answers, is gone, or has another correction"


_S, _E = CorrectionState, CorrectionEvent

_ROWS: Final[dict[CorrectionState, dict[CorrectionEvent, CorrectionState]]] = {
    _S.HELD: {_E.HELD: _S.DECIDING, _E.BACK: _S.ENDED},
    _S.DECIDING: {
        _E.ACTS: _S.RUNNING,
        _E.HINDERED: _S.HINDERED,
        _E.DROPPED: _S.ENDED,
        _E.BACK: _S.ENDED,
    },
    _S.RUNNING: {_E.RAN: _S.ENDED, _E.RAN_IN_VAIN: _S.RETRYING, _E.GIVES_UP: _S.ENDED},
    _S.RETRYING: {_E.RETRIES: _S.DECIDING, _E.BACK: _S.ENDED},
    _S.HINDERED: {_E.CAUSE_ENDED: _S.PROBING, _E.BACK: _S.ENDED},
    _S.PROBING: {_E.STILL_SILENT: _S.HELD, _E.BACK: _S.ENDED},
    _S.ENDED: {},
}

CORRECTION_TABLE: Table[CorrectionState, CorrectionEvent] = Table(
    "correction",
    _S.HELD,
    _ROWS,
    {state: frozenset(set(CorrectionEvent) - set(row)) for state, row in _ROWS.items()},
    CorrectionEvent,
)


@attrs.frozen
class Hold:
    """Wait for others that fail with it, then call :meth:`Correction.held`."""


@attrs.frozen
class Decide:
    """Decide, then call :meth:`Correction.acts` or :meth:`Correction.hindered`."""


@attrs.frozen
class Run:
    """Run the command, then call :meth:`Correction.ran` or :meth:`Correction.ran_in_vain`."""


@attrs.frozen
class Retry:
    """Wait for so many seconds, then call :meth:`Correction.retries`."""

    seconds: float


@attrs.frozen
class AwaitEnd:
    """Wait until the cause ends, then call :meth:`Correction.cause_ended`.

    ``news``: whether it was not reported before.
    """

    why: NotNow
    news: bool


@attrs.frozen
class Probe:
    """Challenge the VM for so many seconds, then call :meth:`Correction.still_silent`."""

    seconds: float


@attrs.frozen
class End:
    """It is over; ``why`` is for a report, or None."""

    why: NotNow | None = None


Step = Hold | Decide | Run | Retry | AwaitEnd | Probe | End


class Correction:
    """One correction. An instance that is back ends it in every state but RUNNING.

    Args:
        interval_s: the instance's heartbeat interval.
    """

    def __init__(self, interval_s: float) -> None:
        self.state = CORRECTION_TABLE.initial
        #: Why nothing is done, for status; None while it is being decided.
        self.why: NotNow | None = None
        #: Whether this is a decision anew: the failure is not of this moment.
        self.anew = False
        self._told: Cause | None = None
        #: Attempts in vain so far.
        self.failures = 0
        self._interval_s = interval_s

    def start(self) -> Step:
        """Returns the first step."""
        return Hold()

    def held(self) -> Step:
        """Handles the end of the hold."""
        self._take(CorrectionEvent.HELD)
        return Decide()

    def acts(self) -> Step:
        """Handles the decision to run a command."""
        self._take(CorrectionEvent.ACTS)
        self.why = self._told = None
        return Run()

    def hindered(self, why: NotNow) -> Step:
        """Handles the decision to run nothing now, or never."""
        self.why = why
        if isinstance(why, Never):
            self._take(CorrectionEvent.DROPPED)
            return End(why)
        self._take(CorrectionEvent.HINDERED)
        news, self._told = why.cause is not self._told, why.cause
        return AwaitEnd(why, news)

    def cause_ended(self) -> Step:
        """Handles the end of the cause: fresh challenges show whether the VM is still silent."""
        self._take(CorrectionEvent.CAUSE_ENDED)
        return Probe(max(SILENT_S, SILENT_INTERVALS * self._interval_s))

    def still_silent(self) -> Step:
        """Handles silence to the fresh challenges: a failure of this moment."""
        self._take(CorrectionEvent.STILL_SILENT)
        self.anew, self.failures = True, 0
        return Hold()

    def back(self) -> Step:
        """Handles an instance that answers, is gone, or has failed anew."""
        self._take(CorrectionEvent.BACK)
        self.why = None
        return End()

    def ran(self) -> Step:
        """Handles the end of a command that may have done something."""
        self._take(CorrectionEvent.RAN)
        return End()

    def ran_in_vain(self) -> Step:
        """Handles a command that can't have done anything."""
        self.failures += 1
        if self.failures > RETRIES:
            self._take(CorrectionEvent.GIVES_UP)
            return End()
        self._take(CorrectionEvent.RAN_IN_VAIN)
        return Retry(min(RETRY_S * 2.0 ** (self.failures - 1), RETRY_MAX_S))

    def retries(self) -> Step:
        """Handles the time of the next attempt."""
        self._take(CorrectionEvent.RETRIES)
        return Decide()

    def _take(self, event: CorrectionEvent) -> None:
        self.state = CORRECTION_TABLE.after(self.state, event)
