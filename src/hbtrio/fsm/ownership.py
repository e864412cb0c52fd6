"""Decides who may act on an instance: at most one owner at a time.

An orchestrator's action owns from the VIM's accepted vote or the first notice to its end notice, an
operator's action until it ends, and a corrective command until it exits. RESTART is not ownership.
An orchestrator may forget an action, so its ownership lapses: ``NEXT_STEP_S`` after a vote without
the next step, and after a notice at the time at which its event counts as called off.

An operator's action takes an instance from an orchestrator's: who asks now knows best. A vote of
the orchestrator that is open then is rejected in the end, or both would act. The action waits for a
corrective command that runs. Notices of an orchestrator are always delivered, and under an
operator's action they change nothing.
"""

from __future__ import annotations

import math
from enum import Enum
from typing import Final

from hbtrio.fsm.table import Table

#: Seconds that an orchestrator has from one step of its action to the next.
NEXT_STEP_S: Final = 60.0


class Owner(Enum):
    """Who acts on an instance, and who is next."""

    __hash__ = object.__hash__

    NOBODY = "nobody"
    ORCHESTRATOR = "an announced event"
    OPERATOR = "an operator's action"
    COMMAND = "a corrective command"
    COMMAND_THEN_ORCHESTRATOR = "a corrective command; an announced event is next"
    COMMAND_THEN_OPERATOR = "a corrective command; an operator's action is next"


class OwnershipEvent(Enum):
    """What changes who owns an instance."""

    __hash__ = object.__hash__

    STEP = "the VIM's vote was accepted, or its notice was sent"
    OVER = "the VIM's end notice was sent, or its action lapsed"
    ACT = "an operator's action begins"
    ACT_ENDED = "the operator's action has ended"
    COMMAND = "a corrective command starts"
    COMMAND_ENDED = "the corrective command has ended"


_S, _E = Owner, OwnershipEvent

_ROWS: Final[dict[Owner, dict[OwnershipEvent, Owner]]] = {
    _S.NOBODY: {
        _E.STEP: _S.ORCHESTRATOR,
        _E.OVER: _S.NOBODY,
        _E.ACT: _S.OPERATOR,
        _E.COMMAND: _S.COMMAND,
    },
    _S.ORCHESTRATOR: {
        _E.STEP: _S.ORCHESTRATOR,
        _E.OVER: _S.NOBODY,
        _E.ACT: _S.OPERATOR,
    },
    _S.OPERATOR: {
        _E.STEP: _S.OPERATOR,
        _E.OVER: _S.OPERATOR,
        _E.ACT_ENDED: _S.NOBODY,
    },
    _S.COMMAND: {
        _E.STEP: _S.COMMAND_THEN_ORCHESTRATOR,
        _E.OVER: _S.COMMAND,
        _E.ACT: _S.COMMAND_THEN_OPERATOR,
        _E.COMMAND_ENDED: _S.NOBODY,
    },
    _S.COMMAND_THEN_ORCHESTRATOR: {
        _E.STEP: _S.COMMAND_THEN_ORCHESTRATOR,
        _E.OVER: _S.COMMAND,
        _E.ACT: _S.COMMAND_THEN_OPERATOR,
        _E.COMMAND_ENDED: _S.ORCHESTRATOR,
    },
    _S.COMMAND_THEN_OPERATOR: {
        _E.STEP: _S.COMMAND_THEN_OPERATOR,
        _E.OVER: _S.COMMAND_THEN_OPERATOR,
        _E.ACT_ENDED: _S.COMMAND,
        _E.COMMAND_ENDED: _S.OPERATOR,
    },
}

OWNERSHIP_TABLE: Table[Owner, OwnershipEvent] = Table(
    "ownership",
    _S.NOBODY,
    _ROWS,
    {owner: frozenset(set(OwnershipEvent) - set(row)) for owner, row in _ROWS.items()},
    OwnershipEvent,
)

_OF_ORCHESTRATOR: Final = frozenset({_S.ORCHESTRATOR, _S.COMMAND_THEN_ORCHESTRATOR})
_OF_OPERATOR: Final = frozenset({_S.OPERATOR, _S.COMMAND_THEN_OPERATOR})
_OF_COMMAND: Final = frozenset({_S.COMMAND, _S.COMMAND_THEN_ORCHESTRATOR, _S.COMMAND_THEN_OPERATOR})


class Ownership:
    """Who owns one instance.

    Times are in seconds, on any one clock.
    """

    __slots__ = ("_act", "_command", "_event", "lapses_at", "owner")

    def __init__(self) -> None:
        self.owner = OWNERSHIP_TABLE.initial
        #: When the orchestrator's action lapses: :meth:`lapse` is to be called; infinity for never.
        self.lapses_at = math.inf
        self._event = self._act = self._command = ""

    @property
    def free(self) -> bool:
        """Whether nobody owns the instance: a corrective command may start."""
        return self.owner is Owner.NOBODY

    @property
    def command_runs(self) -> bool:
        """Whether a corrective command runs, for which an operator's action waits."""
        return self.owner in _OF_COMMAND

    @property
    def refuses_vote(self) -> bool:
        """Whether an orchestrator's vote is refused: an operator's action is in progress."""
        return self.owner in _OF_OPERATOR

    @property
    def is_in_event(self) -> bool:
        """Whether an announced event or an operator's action is in progress."""
        return self.owner in _OF_ORCHESTRATOR or self.owner in _OF_OPERATOR

    @property
    def event(self) -> str:
        """The orchestrator's event that is announced; "" if it has none or does not own it."""
        return self._event if self.owner in _OF_ORCHESTRATOR else ""

    @property
    def acts(self) -> str:
        """The operator's action or corrective command in progress; "" if there is none."""
        if self.owner in _OF_OPERATOR:
            return self._act
        return self._command if self.command_runs else ""

    @property
    def words(self) -> str:
        """Who owns it, for status and events: ``an operator's action (reboot)``."""
        if self.free:
            return self.owner.value
        if self.command_runs:
            return f"{Owner.COMMAND.value} ({self._command})"
        what = self._event if self.owner is Owner.ORCHESTRATOR else self._act
        return f"{self.owner.value} ({what})"

    # -- an orchestrator's action -------------------------------------------------------------

    def vote_accepted(self, event: str, now: float) -> None:
        """Handles an orchestrator's vote that was accepted: the next step is due."""
        self._step_of_orchestrator(event, now + NEXT_STEP_S)

    def noticed(self, event: str, called_off_at: float) -> None:
        """Handles an orchestrator's notice, other than an end notice.

        Args:
            event: what it is about.
            called_off_at: when the event counts as called off if nothing else is heard of it.
        """
        self._step_of_orchestrator(event, called_off_at)

    def end_noticed(self) -> None:
        """Handles an orchestrator's end notice: its action is over."""
        self._over()

    def lapse(self, now: float) -> None:
        """Ends an orchestrator's action of which nothing was heard for too long."""
        if now >= self.lapses_at:
            self._over()

    def _step_of_orchestrator(self, event: str, lapses_at: float) -> None:
        self._take(OwnershipEvent.STEP)
        if self.owner in _OF_ORCHESTRATOR:
            self.lapses_at, self._event = lapses_at, event

    def _over(self) -> None:
        self._take(OwnershipEvent.OVER)

    # -- an operator's action -----------------------------------------------------------------

    def act_begins(self, action: str) -> None:
        """Handles the begin of an operator's action; see :attr:`command_runs`, for which it waits.

        Raises:
            IllegalEvent: one is in progress.
        """
        self._take(OwnershipEvent.ACT)
        self._act = action

    def act_ended(self) -> None:
        """Handles the end of the operator's action, also of one that still waits."""
        self._take(OwnershipEvent.ACT_ENDED)

    # -- a corrective command -----------------------------------------------------------------

    def command_begins(self, action: str) -> None:
        """Handles the start of a corrective command.

        Raises:
            IllegalEvent: the instance is not :attr:`free`.
        """
        self._take(OwnershipEvent.COMMAND)
        self._command = action

    def command_ended(self) -> None:
        """Handles the end of the corrective command, whatever its outcome."""
        self._take(OwnershipEvent.COMMAND_ENDED)

    def _take(self, event: OwnershipEvent) -> None:
        self.owner = OWNERSHIP_TABLE.after(self.owner, event)
        if self.owner not in _OF_ORCHESTRATOR:
            self.lapses_at = math.inf
