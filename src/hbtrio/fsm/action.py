"""Decides the steps of an action, from the vote to the last notice (PROTOCOL.md, section 0).

The machine follows one row of the event table: vote, pre-notice, command, wait for a VM that
restarts, stops or freezes, post-notice. Each method takes the result of a step and returns the next
step. An action always ends in exactly one of DONE, REJECTED and FAILED.

A host that was ended in the middle resumes an action at its state, see :meth:`Action.resume`.
"""

from __future__ import annotations

from enum import Enum
from typing import Final

import attrs

from hbtrio.fsm.table import Table
from hbtrio.wire.vocabulary import (
    ACTION_TABLE,
    EVENT_TABLE,
    ActionName,
    ActionRule,
    Event,
    ExpectedEffect,
)


class ActionState(Enum):
    """The state of an action."""

    PLANNED = "planned"  # nothing was sent or run
    VOTING = "voting"  # the vote is open
    PREPARING = "preparing"  # the pre-notice is open
    PERFORMING = "performing"  # the command runs
    AWAITING = "awaiting"  # the command has succeeded; the VM restarts
    GOING_DOWN = "going down"  # the command has succeeded; the VM stops or freezes
    FINISHING = "finishing"  # the post-notice is open
    # The event does not happen, which the instance is told because it had the pre-notice.
    FINISHING_FAILED = "finishing after a failure"
    DONE = "done"
    REJECTED = "rejected"  # by the vote or a group; no command was run
    # The command failed or had no effect, or the action expired before its first step.
    FAILED = "failed"


class ActionEvent(Enum):
    """The events of an action."""

    VOTE_DUE = "it starts with a vote"
    NOTICE_DUE = "it starts with a pre-notice"
    PERFORM_DUE = "it starts with the command"
    ACCEPTED = "the vote was accepted"
    REJECTED = "the vote was rejected"
    NOTICED = "the notice is over"
    PERFORMED_GOES_DOWN = "performed, the VM stops or freezes"
    PERFORMED_RESTARTS = "performed, the VM restarts"
    PERFORMED_THEN_NOTICE = "performed, a post-notice follows"
    FAILED = "the command failed, nothing follows"
    FAILED_THEN_NOTICE = "the command failed, an end notice follows"
    EXPIRED = "the first step came too late"
    DENIED = "the rule of a group forbids it"
    LAPSED_THEN_NOTICE = "the host was away for too long, an end notice follows"
    CALLED_OFF = "called off before the command, nothing follows"
    CALLED_OFF_THEN_NOTICE = "called off before the command, an end notice follows"
    BACK = "the VM is back or its RESTART window is over"
    BACK_THEN_NOTICE = "the same, and a post-notice follows"
    DOWN = "the VM is down or frozen"
    STAYED = "the VM never went down, nothing follows"
    STAYED_THEN_NOTICE = "the VM never went down, an end notice follows"


_S, _E = ActionState, ActionEvent

_ROWS: dict[ActionState, dict[ActionEvent, ActionState]] = {
    _S.PLANNED: {
        _E.VOTE_DUE: _S.VOTING,
        _E.NOTICE_DUE: _S.PREPARING,
        _E.PERFORM_DUE: _S.PERFORMING,
        _E.EXPIRED: _S.FAILED,
        _E.CALLED_OFF: _S.FAILED,
        _E.DENIED: _S.REJECTED,
    },
    # The first step may have to wait for a vote or notice that is open on the instance.
    _S.VOTING: {
        _E.ACCEPTED: _S.PREPARING,
        _E.REJECTED: _S.REJECTED,
        _E.EXPIRED: _S.FAILED,
        _E.CALLED_OFF: _S.FAILED,
    },
    _S.PREPARING: {
        _E.NOTICED: _S.PERFORMING,
        _E.EXPIRED: _S.FAILED,
        _E.LAPSED_THEN_NOTICE: _S.FINISHING_FAILED,
        _E.CALLED_OFF: _S.FAILED,
        _E.CALLED_OFF_THEN_NOTICE: _S.FINISHING_FAILED,
    },
    _S.PERFORMING: {
        _E.PERFORMED_GOES_DOWN: _S.GOING_DOWN,
        _E.PERFORMED_RESTARTS: _S.AWAITING,
        _E.PERFORMED_THEN_NOTICE: _S.FINISHING,
        _E.FAILED: _S.FAILED,
        _E.FAILED_THEN_NOTICE: _S.FINISHING_FAILED,
        _E.EXPIRED: _S.FAILED,
        _E.CALLED_OFF: _S.FAILED,
        _E.CALLED_OFF_THEN_NOTICE: _S.FINISHING_FAILED,
    },
    _S.AWAITING: {
        _E.BACK: _S.DONE,
        _E.BACK_THEN_NOTICE: _S.FINISHING,
        _E.STAYED: _S.FAILED,
        _E.STAYED_THEN_NOTICE: _S.FINISHING_FAILED,
    },
    _S.GOING_DOWN: {
        _E.DOWN: _S.DONE,
        _E.STAYED: _S.FAILED,
        _E.STAYED_THEN_NOTICE: _S.FINISHING_FAILED,
    },
    _S.FINISHING: {_E.NOTICED: _S.DONE},
    _S.FINISHING_FAILED: {_E.NOTICED: _S.FAILED},
    _S.DONE: {},
    _S.REJECTED: {},
    _S.FAILED: {},
}

ACTION_FSM: Table[ActionState, ActionEvent] = Table(
    "action",
    _S.PLANNED,
    _ROWS,
    {state: frozenset(set(ActionEvent) - set(row)) for state, row in _ROWS.items()},
    ActionEvent,
)


@attrs.frozen
class AskVote:
    """Open the vote on this event, then call :meth:`Action.voted`."""

    event: Event


@attrs.frozen
class GiveNotice:
    """Send the notice of this event, wait for its end, then call :meth:`Action.noticed`."""

    event: Event


@attrs.frozen
class Perform:
    """Run the command, then call :meth:`Action.performed`."""


@attrs.frozen
class Inspect:
    """See whether an interrupted command took effect, then call :meth:`Action.performed`."""


@attrs.frozen
class AwaitReturn:
    """Wait until the VM heartbeats or its RESTART window ends, then call :meth:`Action.back`.

    Call :meth:`Action.stayed` instead if it never went down.
    """


@attrs.frozen
class AwaitDown:
    """Wait until the VM is down or frozen, within a bound, then call :meth:`Action.down`.

    Call :meth:`Action.stayed` instead if it is not by the end of the bound.
    """


@attrs.frozen
class Finish:
    """End the action: :attr:`Action.state` is DONE, REJECTED or FAILED."""


Step = AskVote | GiveNotice | Perform | Inspect | AwaitReturn | AwaitDown | Finish

#: Nothing was done to the VM so far.
_BEFORE_COMMAND: Final = frozenset({_S.PLANNED, _S.VOTING, _S.PREPARING})

#: The steps that an action which is called off is not to begin.
BEFORE_COMMAND: Final = _BEFORE_COMMAND | {_S.PERFORMING}


class Action:
    """One action on one instance.

    Args:
        name: the row of the event table.
        force: skip the vote, but not the notices.
    """

    def __init__(self, name: ActionName, *, force: bool = False) -> None:
        self.name = name
        self.state = ACTION_FSM.initial
        self._rule: ActionRule = ACTION_TABLE[name]
        self._force = force
        #: Whether the instance had the pre-notice.
        self._noticed = False

    @property
    def before(self) -> Event | None:
        """The event that is voted on and noticed before the command, or None."""
        return self._rule.before

    @property
    def restarting(self) -> Event | None:
        """The event in which the VM goes down and comes back, or None."""
        return self._rule.before if self._rule.restarts else None

    @property
    def effect(self) -> ExpectedEffect:
        """What the command does to the VM."""
        before = self._rule.before
        return ExpectedEffect.RETURNS if before is None else EVENT_TABLE[before].effect

    @property
    def goes_down(self) -> bool:
        """Whether the action is done once the VM has stopped or stands still."""
        return self.effect is not ExpectedEffect.RETURNS and not (
            self._rule.restarts or self._rule.after
        )

    def start(self) -> Step:
        """Returns the first step."""
        if self._rule.before is None:
            return self._step(ActionEvent.PERFORM_DUE)
        return self._step(ActionEvent.NOTICE_DUE if self._force else ActionEvent.VOTE_DUE)

    def resume(self, state: ActionState, *, noticed: bool, in_time: bool) -> Step:
        """Returns the step at which to go on after the host was ended in the middle.

        A vote or notice is sent again, as its answer was lost with the connection. Of a command
        nobody knows whether it took effect.

        Args:
            state: the state at which the action was.
            noticed: whether the instance had the pre-notice.
            in_time: whether an action whose command has not begun may still go on.
        """
        self.state = state
        # It may have read the notice, although its answer was lost.
        self._noticed = noticed or state is ActionState.PREPARING
        if state in _BEFORE_COMMAND and not in_time:
            return self._step(
                ActionEvent.LAPSED_THEN_NOTICE if self._noticed else ActionEvent.EXPIRED
            )
        match state:
            case ActionState.PLANNED:
                return self.start()
            case ActionState.PERFORMING:
                return Inspect()
        return self._present_step

    def expired(self) -> Step:
        """Ends an action whose first step came too late: nothing was sent or run."""
        return self._step(ActionEvent.EXPIRED)

    def called_off(self) -> Step:
        """Ends an action before its command begins; whoever was notified is told of the end."""
        noticed = self._noticed and self._rule.cancelled is not None
        return self._step(ActionEvent.CALLED_OFF_THEN_NOTICE if noticed else ActionEvent.CALLED_OFF)

    def denied(self) -> Step:
        """Ends an action that the rule of a group forbids: nothing was sent or run."""
        return self._step(ActionEvent.DENIED)

    def voted(self, *, rejected: bool) -> Step:
        """Takes the result of the vote and returns the next step."""
        return self._step(ActionEvent.REJECTED if rejected else ActionEvent.ACCEPTED)

    def noticed(self, *, sent: bool = True) -> Step:
        """Takes the end of a notice, whatever its result, and returns the next step.

        Args:
            sent: whether the instance could be notified.
        """
        step = self._step(ActionEvent.NOTICED)
        self._noticed = self._noticed or sent
        return step

    def performed(self, *, succeeded: bool) -> Step:
        """Takes the end of the command and returns the next step."""
        rule = self._rule
        if not succeeded:
            return self._step(
                ActionEvent.FAILED_THEN_NOTICE if self._is_to_be_told else ActionEvent.FAILED
            )
        if rule.restarts:
            return self._step(ActionEvent.PERFORMED_RESTARTS)
        return self._step(
            ActionEvent.PERFORMED_GOES_DOWN
            if rule.after is None
            else ActionEvent.PERFORMED_THEN_NOTICE
        )

    def down(self) -> Step:
        """Takes that the VM is down or frozen, as was announced."""
        return self._step(ActionEvent.DOWN)

    def stayed(self) -> Step:
        """Takes that the VM never went down, although the command succeeded."""
        return self._step(
            ActionEvent.STAYED_THEN_NOTICE if self._is_to_be_told else ActionEvent.STAYED
        )

    @property
    def _is_to_be_told(self) -> bool:
        """Whether the instance expects an event that does not happen."""
        rule = self._rule
        return rule.cancelled is not None and (self._noticed or rule.after is not None)

    def back(self) -> Step:
        """Takes the VM's return, or the end of its RESTART window; returns the next step."""
        return self._step(
            ActionEvent.BACK if self._rule.after is None else ActionEvent.BACK_THEN_NOTICE
        )

    def _step(self, event: ActionEvent) -> Step:
        self.state = ACTION_FSM.after(self.state, event)
        return self._present_step

    @property
    def _present_step(self) -> Step:
        match self.state:
            case ActionState.VOTING if self._rule.before is not None:
                return AskVote(self._rule.before)
            case ActionState.PREPARING if self._rule.before is not None:
                return GiveNotice(self._rule.before)
            case ActionState.PERFORMING:
                return Perform()
            case ActionState.AWAITING:
                return AwaitReturn()
            case ActionState.GOING_DOWN:
                return AwaitDown()
            case ActionState.FINISHING if self._rule.after is not None:
                return GiveNotice(self._rule.after)
            case ActionState.FINISHING_FAILED if self._rule.cancelled is not None:
                return GiveNotice(self._rule.cancelled)
            case _:
                return Finish()
