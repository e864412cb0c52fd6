"""One vote or notice at the agent, from its command to a host to its one end.

Three things happen in any order: its host replies that it has opened the round, the reply to
whoever asked is written, and the host reports the outcome. The state says which of them have. A
verdict may be sent once the reply is written, so that an ``allow`` does not overtake it: the VIM
would take it for the answer of its next step.

Where the outcome does not come, the agent ends the round itself, see :class:`RoundEnd`. Whether a
report was first all the same is up to the store: it closes a round once.
"""

from __future__ import annotations

from enum import Enum
from typing import Final

import attrs

from hbtrio.fsm.table import Table
from hbtrio.wire.vocabulary import VoteResult

#: The VIM's timer is as long as the window. A verdict that comes just after it is taken for the
#: next step's answer, so that a silent guest has agreed this much before, in seconds.
MARGIN_S: Final = 0.25

#: Why there is no verdict where whoever asked did not wait for the reply.
NOT_HEARD: Final = "nobody waited for the reply"


class FleetRoundState(Enum):
    """What is known of a round."""

    ASKED = "asked"  # its host was sent the command; nobody knows whether it has opened the round
    EARLY = "reported early"  # the same, and yet it has reported the outcome
    OPENED = "opened"  # its host has opened it; the reply to whoever asked is not written
    AWAITED = "awaited"  # the reply is written too; what is missing is the outcome
    REPORTED = "reported"  # the outcome is on its way to the store, the reply is not written
    DUE = "due"  # the outcome is on its way to the store, and its verdict may follow at once
    STORED = "stored"  # its host's report is in the store, and so is the verdict
    AGREED = "agreed"  # the window is over: silence is agreement, and a verdict says so
    LOST = "lost"  # its host's process has ended and took the round with it; a verdict says so
    DROPPED = "dropped"  # not opened, or nobody waits for it: there is no verdict
    FORGOTTEN = "forgotten"  # it could not be stored: nothing follows from it


class FleetRoundEvent(Enum):
    """What can happen to a round."""

    HOST_OPENED = "its host has opened it"
    HOST_OPENED_NONE = "its host has opened none, or can't be reached"
    NOT_STORED = "the store did not take it"
    REPLY_WRITTEN = "the reply to whoever asked is written"
    REPLY_UNHEARD = "whoever asked did not wait for the reply"
    OUTCOME_REPORTED = "its host has reported the outcome"
    OUTCOME_STORED = "the report is in the store"
    WINDOW_CLOSED = "its window is nearly over"
    HOST_RESTARTED = "its host's process is another one now"
    AGENT_RESTARTED = "a new process of the agent has found it"
    CLOCK_SET_BACK = "by the wall clock it is yet to be asked for"


_S, _E = FleetRoundState, FleetRoundEvent

_ROWS: Final[dict[FleetRoundState, dict[FleetRoundEvent, FleetRoundState]]] = {
    # Of a host that is restarted before it has replied, whoever waits for its reply hears enough.
    _S.ASKED: {
        _E.HOST_OPENED: _S.OPENED,
        _E.HOST_OPENED_NONE: _S.DROPPED,
        _E.NOT_STORED: _S.FORGOTTEN,
        _E.OUTCOME_REPORTED: _S.EARLY,
        _E.HOST_RESTARTED: _S.ASKED,
    },
    _S.EARLY: {
        _E.HOST_OPENED: _S.REPORTED,
        _E.HOST_OPENED_NONE: _S.DROPPED,
        _E.NOT_STORED: _S.FORGOTTEN,
        _E.OUTCOME_REPORTED: _S.EARLY,
        _E.OUTCOME_STORED: _S.STORED,
        _E.HOST_RESTARTED: _S.EARLY,
    },
    _S.OPENED: {
        _E.REPLY_WRITTEN: _S.AWAITED,
        _E.REPLY_UNHEARD: _S.DROPPED,
        _E.OUTCOME_REPORTED: _S.REPORTED,
        _E.WINDOW_CLOSED: _S.AGREED,
        _E.HOST_RESTARTED: _S.LOST,
        _E.AGENT_RESTARTED: _S.DROPPED,
    },
    _S.AWAITED: {
        _E.OUTCOME_REPORTED: _S.DUE,
        _E.WINDOW_CLOSED: _S.AGREED,
        _E.HOST_RESTARTED: _S.LOST,
        _E.AGENT_RESTARTED: _S.AWAITED,
        _E.CLOCK_SET_BACK: _S.DROPPED,
    },
    # Its link may have ended before the store took the report: it may come again, or never.
    _S.REPORTED: {
        _E.REPLY_WRITTEN: _S.DUE,
        _E.REPLY_UNHEARD: _S.DROPPED,
        _E.OUTCOME_REPORTED: _S.REPORTED,
        _E.OUTCOME_STORED: _S.STORED,
        _E.WINDOW_CLOSED: _S.AGREED,
        _E.HOST_RESTARTED: _S.LOST,
    },
    _S.DUE: {
        _E.OUTCOME_REPORTED: _S.DUE,
        _E.OUTCOME_STORED: _S.STORED,
        _E.WINDOW_CLOSED: _S.AGREED,
        _E.HOST_RESTARTED: _S.LOST,
    },
    _S.STORED: {},
    _S.AGREED: {},
    _S.LOST: {},
    _S.DROPPED: {},
    _S.FORGOTTEN: {},
}

FLEET_ROUND_TABLE: Final[Table[FleetRoundState, FleetRoundEvent]] = Table(
    "vote or notice at the agent",
    _S.ASKED,
    _ROWS,
    {state: frozenset(set(FleetRoundEvent) - set(row)) for state, row in _ROWS.items()},
    FleetRoundEvent,
)


@attrs.frozen
class RoundEnd:
    """How the agent ends a round without its host's report.

    Args:
        result: of the round.
        reason: why.
        has_verdict: whether the VIM, if it has asked, is sent a verdict.
    """

    result: VoteResult
    reason: str
    has_verdict: bool


class FleetRound:
    """A vote or notice at the agent. Times are in seconds on the caller's clock.

    A method that returns a :class:`RoundEnd` has ended the round; the caller has the store close
    it.

    Args:
        vote: a vote, else a notice.
        window_s: its window, as the instance has advertised it.
        now: the time of the command.

    Raises, from every method: :class:`~hbtrio.fsm.table.IllegalEvent`, with nothing changed.
    """

    def __init__(self, *, vote: bool, window_s: float, now: float) -> None:
        self.is_vote = vote
        self.state: FleetRoundState = FLEET_ROUND_TABLE.initial
        self.window_s = window_s
        #: When the window is over.
        self.ends_at = now + window_s
        #: Whether a former process of the agent has asked: the verdict expires by the wall clock.
        self.is_resumed = False

    @classmethod
    def resumed(
        cls, *, vote: bool, window_s: float, replied: bool, age_s: float, now: float
    ) -> FleetRound:
        """A round that a former process of the agent left open; then :meth:`agent_restarted`.

        Args:
            vote: a vote, else a notice.
            window_s: its window.
            replied: whether the reply to whoever asked was written.
            age_s: for how long it has been asked for, by the wall clock.
            now: the time.
        """
        found = cls(vote=vote, window_s=window_s, now=now - age_s)
        found.state = FleetRoundState.AWAITED if replied else FleetRoundState.OPENED
        found.is_resumed = True
        return found

    @property
    def agrees_at(self) -> float:
        """When silence is agreement, once its host has opened it."""
        return self.ends_at - MARGIN_S

    @property
    def verdict_until(self) -> float | None:
        """Until when its verdict is of use; None: a former process has asked, by its own clock."""
        return None if self.is_resumed else self.ends_at

    @property
    def is_over(self) -> bool:
        """Whether it has ended."""
        return self.state in _OVER

    @property
    def awaits_reply(self) -> bool:
        """Whether the reply to whoever asked is yet to be written."""
        return self.state in _UNREPLIED

    def host_opened(self, seconds: float, now: float) -> None:
        """Its host has opened it, with this window from now on: it may have had to wait.

        Of a round whose outcome is stored by now this is no news, as in the two methods below:
        whoever waits for the host's reply, or for the store, is woken after that.
        """
        if self.state is not FleetRoundState.STORED:
            self._step(FleetRoundEvent.HOST_OPENED)
            self.window_s = seconds
            self.ends_at = now + seconds

    def host_opened_none(self, reason: str) -> RoundEnd | None:
        """Its host has not; None: and has yet reported an outcome, which counts."""
        if self.state is FleetRoundState.STORED:
            return None
        return self._end(FleetRoundEvent.HOST_OPENED_NONE, VoteResult.ERROR, reason)

    def not_stored(self) -> None:
        """The store did not take it."""
        if self.state is not FleetRoundState.STORED:
            self._step(FleetRoundEvent.NOT_STORED)

    def reply_written(self) -> bool:
        """The reply to whoever asked is written; returns whether a verdict may be there by now."""
        self._step(FleetRoundEvent.REPLY_WRITTEN)
        return self.state is FleetRoundState.DUE

    def reply_unheard(self) -> RoundEnd | None:
        """Whoever asked did not wait for the reply."""
        return self._end(FleetRoundEvent.REPLY_UNHEARD, VoteResult.ERROR, NOT_HEARD)

    def outcome_reported(self) -> None:
        """Its host has reported the outcome, which the store is to take."""
        self._step(FleetRoundEvent.OUTCOME_REPORTED)

    def outcome_stored(self) -> None:
        """The store has taken it."""
        self._step(FleetRoundEvent.OUTCOME_STORED)

    def window_closed(self) -> RoundEnd | None:
        """:attr:`agrees_at` has come."""
        agreed = VoteResult.ACCEPT if self.is_vote else VoteResult.COMPLETE
        reason = f"no answer within {self.window_s:g} s"
        return self._end(FleetRoundEvent.WINDOW_CLOSED, agreed, reason)

    def host_restarted(self) -> RoundEnd | None:
        """Its host's process is another one now; None: whoever waits for the reply hears of it."""
        reason = "the host daemon was restarted"
        return self._end(FleetRoundEvent.HOST_RESTARTED, VoteResult.ERROR, reason)

    def agent_restarted(self, age_s: float) -> RoundEnd | None:
        """A new process of the agent has found it; None: it goes on.

        Args:
            age_s: for how long it has been asked for, by the wall clock.
        """
        reason = "the agent was restarted before its reply"
        end = self._end(FleetRoundEvent.AGENT_RESTARTED, VoteResult.ERROR, reason)
        if end is None and age_s < 0:
            # By such a clock a verdict would be in time for as long as that was set back.
            reason = "the clock was set back: the VIM may no longer wait"
            end = self._end(FleetRoundEvent.CLOCK_SET_BACK, VoteResult.ERROR, reason)
        return end

    def _step(self, event: FleetRoundEvent) -> None:
        self.state = FLEET_ROUND_TABLE.after(self.state, event)

    def _end(self, event: FleetRoundEvent, result: VoteResult, reason: str) -> RoundEnd | None:
        self._step(event)
        if self.state not in _ENDED_HERE:
            return None
        return RoundEnd(result, reason, has_verdict=self.state is not FleetRoundState.DROPPED)


_UNREPLIED: Final = frozenset({_S.ASKED, _S.EARLY, _S.OPENED, _S.REPORTED})
_ENDED_HERE: Final = frozenset({_S.AGREED, _S.LOST, _S.DROPPED})
_OVER: Final = _ENDED_HERE | {_S.STORED, _S.FORGOTTEN}
