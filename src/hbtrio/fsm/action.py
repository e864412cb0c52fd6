"""An action on an instance, from the vote to the last notice (PROTOCOL.md, section 0).

The machine walks one row of the event table: vote, pre-notice, perform, wait for a VM that reboots,
post-notice. It returns the next step to carry out and is told how that went. Whatever happens, it
ends in exactly one of DONE, REJECTED and FAILED.
"""

from __future__ import annotations

from enum import Enum

import attrs

from hbtrio.fsm.table import Table
from hbtrio.wire.vocabulary import ACTION_TABLE, ActionName, ActionRule, Event


class ActionState(Enum):
    """Where an action stands."""

    PLANNED = "planned"  # nothing was said or done
    VOTING = "voting"  # the instance is asked whether it may be
    PREPARING = "preparing"  # it may; the instance is told, and prepares
    PERFORMING = "performing"  # the command runs
    AWAITING = "awaiting"  # the command is done; the VM is to come back
    FINISHING = "finishing"  # it is done; the instance is told
    MENDING = (
        "finishing after a failure"  # it failed; an instance told of a beginning hears of an end
    )
    DONE = "done"
    REJECTED = "rejected"  # the instance said no; nothing was done
    FAILED = "failed"  # the command failed


class ActionEvent(Enum):
    """What can happen to an action."""

    VOTE_DUE = "it starts with a vote"
    NOTICE_DUE = "it starts with a pre-notice"
    PERFORM_DUE = "it starts with the command"
    ACCEPTED = "the vote was accepted"
    REJECTED = "the vote was rejected"
    NOTICED = "the notice is over"
    PERFORMED = "performed, nothing follows"
    PERFORMED_RESTARTS = "performed, the VM restarts"
    PERFORMED_TELLS = "performed, a post-notice follows"
    FAILED = "the command failed, nothing follows"
    FAILED_TELLS = "the command failed, a post-notice follows"
    BACK = "the VM is back or its RESTART window is over"
    BACK_TELLS = "the same, and a post-notice follows"


_S, _E = ActionState, ActionEvent

_ROWS: dict[ActionState, dict[ActionEvent, ActionState]] = {
    _S.PLANNED: {
        _E.VOTE_DUE: _S.VOTING,
        _E.NOTICE_DUE: _S.PREPARING,
        _E.PERFORM_DUE: _S.PERFORMING,
    },
    _S.VOTING: {_E.ACCEPTED: _S.PREPARING, _E.REJECTED: _S.REJECTED},
    _S.PREPARING: {_E.NOTICED: _S.PERFORMING},
    _S.PERFORMING: {
        _E.PERFORMED: _S.DONE,
        _E.PERFORMED_RESTARTS: _S.AWAITING,
        _E.PERFORMED_TELLS: _S.FINISHING,
        _E.FAILED: _S.FAILED,
        _E.FAILED_TELLS: _S.MENDING,
    },
    _S.AWAITING: {_E.BACK: _S.DONE, _E.BACK_TELLS: _S.FINISHING},
    _S.FINISHING: {_E.NOTICED: _S.DONE},
    _S.MENDING: {_E.NOTICED: _S.FAILED},
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
    """Open the vote on this event; then :meth:`Action.voted`."""

    event: Event


@attrs.frozen
class GiveNotice:
    """Send the notice of this event and wait for its window; then :meth:`Action.noticed`."""

    event: Event


@attrs.frozen
class Perform:
    """Run the command; then :meth:`Action.performed`."""


@attrs.frozen
class AwaitReturn:
    """Wait for the VM to heartbeat again or its RESTART window to end; then :meth:`Action.back`."""


@attrs.frozen
class Finish:
    """The action is over: :attr:`Action.state` is DONE, REJECTED or FAILED."""


Step = AskVote | GiveNotice | Perform | AwaitReturn | Finish


class Action:
    """One action on one instance.

    Args:
        name: which row of the event table.
        force: skip the vote; the notices are given all the same.
    """

    def __init__(self, name: ActionName, *, force: bool = False) -> None:
        self.name = name
        self.state = ACTION_FSM.initial
        self._rule: ActionRule = ACTION_TABLE[name]
        self._force = force

    @property
    def before(self) -> Event | None:
        """The event that is announced before the command, if there is one."""
        return self._rule.before

    @property
    def restarting(self) -> Event | None:
        """The event in which the VM goes down and comes back, if there is one."""
        return self._rule.before if self._rule.restarts else None

    def start(self) -> Step:
        """The first step."""
        if self._rule.before is None:
            return self._step(ActionEvent.PERFORM_DUE)
        return self._step(ActionEvent.NOTICE_DUE if self._force else ActionEvent.VOTE_DUE)

    def voted(self, *, rejected: bool) -> Step:
        """The vote is over."""
        return self._step(ActionEvent.REJECTED if rejected else ActionEvent.ACCEPTED)

    def noticed(self) -> Step:
        """A notice is over; its result does not matter."""
        return self._step(ActionEvent.NOTICED)

    def performed(self, *, succeeded: bool) -> Step:
        """The command has ended."""
        rule = self._rule
        if not succeeded:
            told = rule.before is not None and rule.after is not None
            return self._step(ActionEvent.FAILED_TELLS if told else ActionEvent.FAILED)
        if rule.restarts:
            return self._step(ActionEvent.PERFORMED_RESTARTS)
        return self._step(
            ActionEvent.PERFORMED if rule.after is None else ActionEvent.PERFORMED_TELLS
        )

    def back(self) -> Step:
        """The VM is back, or it is too late to wait for it."""
        return self._step(ActionEvent.BACK if self._rule.after is None else ActionEvent.BACK_TELLS)

    def _step(self, event: ActionEvent) -> Step:
        self.state = ACTION_FSM.after(self.state, event)
        match self.state:
            case ActionState.VOTING if self._rule.before is not None:
                return AskVote(self._rule.before)
            case ActionState.PREPARING if self._rule.before is not None:
                return GiveNotice(self._rule.before)
            case ActionState.PERFORMING:
                return Perform()
            case ActionState.AWAITING:
                return AwaitReturn()
            case ActionState.FINISHING | ActionState.MENDING if self._rule.after is not None:
                return GiveNotice(self._rule.after)
            case _:
                return Finish()
