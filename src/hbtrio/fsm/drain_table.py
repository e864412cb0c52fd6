"""The states of one instance in a drain, and what leads from one to another.

Three states hold one of the drain's slots: ``ASKED``, ``TOLD`` and ``ACTING``. An instance that
refuses, or is blocked, holds none, and has its turn again.
"""

from __future__ import annotations

from enum import Enum
from typing import Final

from hbtrio.fsm.table import Table


class DrainState(Enum):
    """The state of an instance in a drain."""

    WAITING = "waiting"  # its turn has not come
    ASKED = "asked"  # its action has begun; nothing was announced
    REJECTED = "rejected"  # its guest has rejected; it is asked again
    BLOCKED = "blocked"  # something else forbids the action now; it has its turn again
    TOLD = "told"  # it has had the notice
    ACTING = "acting"  # the command runs, or the VM is going down
    DONE = "done"
    SKIPPED = "skipped"  # nothing was done to it
    FAILED = "failed"  # its action failed
    CANCELLED = "cancelled"  # the drain was cancelled or aborted before its command


class DrainEvent(Enum):
    """What happens to an instance in a drain."""

    TURN = "its turn has come"
    NOTICED = "the notice is sent"
    PERFORMED = "the command begins"
    REJECTED = "its guest rejects"
    BLOCKED = "its group or another action forbids it now"
    SKIPPED = "nothing will be done to it"
    GONE = "it is no longer there"
    DONE = "its action is done"
    FAILED = "its action failed"
    CANCELLED = "nothing more is done to it"
    UNBEGUN = "a restart came before its action had begun"


_S, _E = DrainState, DrainEvent

_OUT_OF_TURN: Final = {
    _E.TURN: _S.ASKED,
    _E.SKIPPED: _S.SKIPPED,
    _E.GONE: _S.DONE,
    _E.CANCELLED: _S.CANCELLED,
}

#: How an action ends.
_ENDS: Final = {_E.DONE: _S.DONE, _E.FAILED: _S.FAILED, _E.CANCELLED: _S.CANCELLED}

_ROWS: dict[DrainState, dict[DrainEvent, DrainState]] = {
    _S.WAITING: _OUT_OF_TURN,
    _S.ASKED: {
        _E.NOTICED: _S.TOLD,
        _E.PERFORMED: _S.ACTING,
        _E.REJECTED: _S.REJECTED,
        _E.BLOCKED: _S.BLOCKED,
        _E.SKIPPED: _S.SKIPPED,
        _E.GONE: _S.DONE,
        _E.UNBEGUN: _S.WAITING,
        **_ENDS,
    },
    _S.REJECTED: _OUT_OF_TURN,
    _S.BLOCKED: _OUT_OF_TURN,
    _S.TOLD: {_E.PERFORMED: _S.ACTING, **_ENDS},
    # Of a command that was about to begin when the drain was cancelled.
    _S.ACTING: _ENDS,
    _S.DONE: {},
    _S.SKIPPED: {},
    _S.FAILED: {},
    _S.CANCELLED: {},
}

DRAIN_TABLE: Final[Table[DrainState, DrainEvent]] = Table(
    "an instance in a drain",
    _S.WAITING,
    _ROWS,
    {state: frozenset(set(DrainEvent) - set(row)) for state, row in _ROWS.items()},
    DrainEvent,
)

#: States that hold a slot: an action is in progress.
IN_PROGRESS: Final = frozenset({_S.ASKED, _S.TOLD, _S.ACTING})

#: States from which an instance has its turn.
OUT_OF_TURN: Final = frozenset({_S.WAITING, _S.REJECTED, _S.BLOCKED})

#: States that no event leaves.
ENDED: Final = frozenset(DRAIN_TABLE.terminal)
