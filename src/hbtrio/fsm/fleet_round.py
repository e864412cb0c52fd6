"""Decides the life of a vote or notice at the agent, from the command to a host to its only end.

Three things happen in any order: the host replies that it has opened the round, the reply to the
requester is written, and the host reports the outcome. The state is which of them have happened. A
verdict may be sent once the reply is written. If an ``allow`` overtook the reply, the VIM would
take it for the answer of its next step.

If no outcome arrives, the agent ends the round itself, see :class:`RoundEnd`. The store closes a
round only once, and so decides whether a report came first.
"""

from __future__ import annotations

from enum import Enum
from typing import Final

import attrs

from hbtrio.fsm.table import Table
from hbtrio.policy.allowances import agrees_after_s, answer_within_s
from hbtrio.wire.vocabulary import VoteResult

#: Why there is no verdict: the VIM closed the connection before the reply was written.
NOT_HEARD: Final = "the requester did not wait for the reply"

#: The same, if the request ended even before the host's reply.
ENDED_EARLY: Final = "the request ended before the host had replied"


class FleetRoundState(Enum):
    """What is known of a round."""

    ASKED = "asked"  # the command was sent; unknown whether the host has opened the round
    EARLY = "reported early"  # the same, but the host has reported the outcome
    OPENED = "opened"  # the host has opened it; the reply to the requester is not written
    AWAITED = "awaited"  # the reply is written; only the outcome is missing
    REPORTED = "reported"  # the outcome is being stored; the reply is not written
    DUE = "due"  # the outcome is being stored; the verdict may follow at once
    STORED = "stored"  # the host's report and the verdict are in the store
    # The next two end with the reported outcome if there is one that could not be stored.
    AGREED = "agreed"  # the window is over, silence is agreement; there is a verdict
    LOST = "lost"  # the host's process has ended, and the round with it; there is a verdict
    DENIED = "denied"  # the rule of a group forbids it, the host is not asked; there is a verdict
    DROPPED = "dropped"  # not opened, or no requester waits: there is no verdict
    FORGOTTEN = "forgotten"  # it could not be stored: it has no consequence


class FleetRoundEvent(Enum):
    """What can happen to a round."""

    HOST_OPENED = "the host opened it"
    HOST_OPENED_NONE = "the host opened none, or can't be reached"
    NOT_STORED = "the store failed"
    REPLY_WRITTEN = "the reply to the requester was written"
    REPLY_UNHEARD = "the requester did not wait for the reply"
    OUTCOME_REPORTED = "the host reported the outcome"
    OUTCOME_STORED = "the report was stored"
    WINDOW_CLOSED = "the window is nearly over"
    HOST_RESTARTED = "the host's process was restarted"
    AGENT_RESTARTED = "the agent was restarted"
    CLOCK_SET_BACK = "the wall clock was set to before the request"
    DENIED = "the rule of a group forbids it"


_S, _E = FleetRoundState, FleetRoundEvent

_ROWS: Final[dict[FleetRoundState, dict[FleetRoundEvent, FleetRoundState]]] = {
    # If the host is restarted before its reply, the wait for the reply ends with an error.
    _S.ASKED: {
        _E.HOST_OPENED: _S.OPENED,
        _E.HOST_OPENED_NONE: _S.DROPPED,
        _E.NOT_STORED: _S.FORGOTTEN,
        _E.REPLY_UNHEARD: _S.DROPPED,
        _E.OUTCOME_REPORTED: _S.EARLY,
        _E.HOST_RESTARTED: _S.ASKED,
        _E.DENIED: _S.DENIED,
    },
    _S.EARLY: {
        _E.HOST_OPENED: _S.REPORTED,
        _E.HOST_OPENED_NONE: _S.DROPPED,
        _E.NOT_STORED: _S.FORGOTTEN,
        _E.REPLY_UNHEARD: _S.DROPPED,
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
    # The link may have ended before the report was stored: it may come again, or never.
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
    _S.DENIED: {},
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
    """How the agent ends a round without the host's report.

    Args:
        result: of the round.
        reason: why.
        has_verdict: whether a verdict is sent, if the VIM was the requester.
    """

    result: VoteResult
    reason: str
    has_verdict: bool


class FleetRound:
    """The machine of one vote or notice. Times are in seconds on the caller's clock.

    A method that returns a :class:`RoundEnd` has ended the round; the caller has the store close
    it.

    Args:
        vote: a vote, else a notice.
        window_s: its window, as the instance has advertised it.
        now: the time of the command.
        for_vim: whether the VIM is the requester, whose timer bounds the wait.

    Raises, from every method: :class:`~hbtrio.fsm.table.IllegalEvent`, with nothing changed.
    """

    def __init__(self, *, vote: bool, window_s: float, now: float, for_vim: bool) -> None:
        self.is_vote = vote
        self.state: FleetRoundState = FLEET_ROUND_TABLE.initial
        self.window_s = window_s
        self._opened_at = now
        self._for_vim = for_vim
        #: The outcome that the host has reported, and its reason; None before that.
        self._reported: tuple[VoteResult, str] | None = None

    @classmethod
    def resumed(
        cls,
        *,
        vote: bool,
        window_s: float,
        replied: bool,
        age_s: float,
        now: float,
        for_vim: bool,
    ) -> FleetRound:
        """Restores a round that a previous process left open; call :meth:`agent_restarted` next.

        Args:
            vote: a vote, else a notice.
            window_s: its window.
            replied: whether the reply to the requester was written.
            age_s: seconds since the request, by the wall clock.
            now: the time.
            for_vim: whether the VIM is the requester.
        """
        found = cls(vote=vote, window_s=window_s, now=now - age_s, for_vim=for_vim)
        found.state = FleetRoundState.AWAITED if replied else FleetRoundState.OPENED
        return found

    @property
    def agrees_at(self) -> float:
        """When silence becomes agreement, once the host has opened the round."""
        return self._opened_at + self._agrees_after_s

    @property
    def ends_at(self) -> float:
        """When the requester no longer waits for the result: until then a verdict may be sent."""
        return self._opened_at + answer_within_s(self.window_s, for_vim=self._for_vim)

    @property
    def is_over(self) -> bool:
        """Whether it has ended."""
        return self.state in _OVER

    @property
    def is_dropped(self) -> bool:
        """Whether it has ended without a verdict."""
        return self.state is FleetRoundState.DROPPED

    @property
    def awaits_reply(self) -> bool:
        """Whether the reply to the requester is not written yet."""
        return self.state in _UNREPLIED

    def host_opened(self, seconds: float, now: float) -> None:
        """Handles the host's reply: its window of ``seconds`` starts now.

        Ignored if the outcome is stored already, as in the two methods below: the task that waits
        for the host's reply, or for the store, may be woken after that.
        """
        if self.state is not FleetRoundState.STORED:
            self._step(FleetRoundEvent.HOST_OPENED)
            self.window_s = seconds
            self._opened_at = now

    def host_opened_none(self, reason: str) -> RoundEnd | None:
        """Handles a refusal, or a host out of reach; None if the outcome is stored already."""
        if self.state is FleetRoundState.STORED:
            return None
        return self._end(FleetRoundEvent.HOST_OPENED_NONE, VoteResult.ERROR, reason)

    def denied(self, reason: str) -> RoundEnd | None:
        """Handles the rule of a group that forbids the event, before the host was asked."""
        return self._end(FleetRoundEvent.DENIED, VoteResult.REJECT, reason)

    def not_stored(self) -> None:
        """Handles a failure of the store."""
        if self.state is not FleetRoundState.STORED:
            self._step(FleetRoundEvent.NOT_STORED)

    def reply_written(self) -> bool:
        """Handles the written reply; returns whether the verdict may be in the store already."""
        self._step(FleetRoundEvent.REPLY_WRITTEN)
        return self.state is FleetRoundState.DUE

    def reply_unheard(self) -> RoundEnd | None:
        """Handles a requester that did not wait for the reply."""
        reason = ENDED_EARLY if self.state in _UNOPENED else NOT_HEARD
        return self._end(FleetRoundEvent.REPLY_UNHEARD, VoteResult.ERROR, reason)

    def outcome_reported(self, result: VoteResult, reason: str) -> None:
        """Handles the reported outcome, which is to be stored next.

        If that fails until the window is over, as on a full disk, the round ends with it all the
        same: a reject that has arrived is no agreement.
        """
        self._step(FleetRoundEvent.OUTCOME_REPORTED)
        self._reported = result, reason

    def outcome_stored(self) -> None:
        """Handles the stored outcome."""
        self._step(FleetRoundEvent.OUTCOME_STORED)

    def window_closed(self) -> RoundEnd | None:
        """Handles the deadline :attr:`agrees_at`."""
        agreed = VoteResult.ACCEPT if self.is_vote else VoteResult.COMPLETE
        # A window may be longer than the VIM waits.
        within_s = min(self.window_s, self._agrees_after_s)
        reason = f"no answer within {within_s:g} s"
        return self._end(FleetRoundEvent.WINDOW_CLOSED, *(self._reported or (agreed, reason)))

    def host_restarted(self) -> RoundEnd | None:
        """Handles a restarted host; None if the wait for its reply reports the error."""
        lost = VoteResult.ERROR, "the host daemon was restarted"
        return self._end(FleetRoundEvent.HOST_RESTARTED, *(self._reported or lost))

    def agent_restarted(self, age_s: float) -> RoundEnd | None:
        """Handles a restart of the agent; None if the round continues.

        Args:
            age_s: seconds since the request, by the wall clock.
        """
        reason = "the agent was restarted before its reply"
        end = self._end(FleetRoundEvent.AGENT_RESTARTED, VoteResult.ERROR, reason)
        if end is None and age_s < 0:
            # The verdict would expire too late, by as much as the clock was set back.
            reason = "the clock was set back: the VIM may no longer wait"
            end = self._end(FleetRoundEvent.CLOCK_SET_BACK, VoteResult.ERROR, reason)
        return end

    @property
    def _agrees_after_s(self) -> float:
        return agrees_after_s(self.window_s, for_vim=self._for_vim)

    def _step(self, event: FleetRoundEvent) -> None:
        self.state = FLEET_ROUND_TABLE.after(self.state, event)

    def _end(self, event: FleetRoundEvent, result: VoteResult, reason: str) -> RoundEnd | None:
        self._step(event)
        if self.state not in _ENDED_HERE:
            return None
        return RoundEnd(result, reason, has_verdict=self.state is not FleetRoundState.DROPPED)


_UNOPENED: Final = frozenset({_S.ASKED, _S.EARLY})
_UNREPLIED: Final = frozenset({_S.ASKED, _S.EARLY, _S.OPENED, _S.REPORTED})
_ENDED_HERE: Final = frozenset({_S.AGREED, _S.LOST, _S.DENIED, _S.DROPPED})
_OVER: Final = _ENDED_HERE | {_S.STORED, _S.FORGOTTEN}
