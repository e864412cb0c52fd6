"""Finds out what became of an action that the agent asked for before its link or itself ended."""

from __future__ import annotations

from typing import Final

import trio

from hbtrio.fsm.action import ActionState
from hbtrio.nursery.host.memory import HostMemory, NotKept
from hbtrio.nursery.host.remembering import ACTION, Remembering
from hbtrio.wire.operator import ProgressLine

#: How many entries of the history of one instance are looked at, the newest.
_ENTRIES: Final = 500

#: Seconds between two looks at whether the disk has all.
_LOOK_S: Final = 0.1

_ENDS: Final = frozenset(
    state.value for state in (ActionState.DONE, ActionState.REJECTED, ActionState.FAILED)
)
_REFUSED: Final = "refused"

_NO_OUTCOME: Final = "its outcome was lost with what the host had not written"


class Unbegun(Exception):
    """No such action was begun, or it was refused; the text is the reason."""


async def until_recalled(memory: HostMemory, remembering: Remembering) -> None:
    """Returns once the actions of earlier runs have been resumed.

    And once the disk has what this run has done. Without a state directory it returns at once.
    """
    if not memory.is_kept:
        await trio.lowlevel.checkpoint()
        return
    await remembering.until_recalled()
    while not memory.is_written:  # noqa: ASYNC110 - the memory has no event for it
        await trio.sleep(_LOOK_S)


async def last_line(memory: HostMemory, uuid: str, name: str, who: str) -> ProgressLine:
    """Returns the last line of an action that is not in progress.

    Args:
        memory: has the history.
        uuid: the instance.
        name: the action.
        who: who requested it; of several actions of theirs, the last one counts.

    Raises:
        Unbegun: there was none.
        NotKept: it can't be known.
    """
    for one in await memory.history(_ENTRIES, uuid=uuid):
        head, _, what = one.entry.reason.partition(": ")
        if (one.entry.kind, one.entry.who, head) != (ACTION, who, name):
            continue
        outcome, _, reason = what.partition(": ")
        if outcome in _ENDS:
            return ProgressLine(step="end", outcome=outcome, reason=reason)
        if outcome == _REFUSED:
            raise Unbegun(what)
        raise NotKept(_NO_OUTCOME)
    raise Unbegun("no such action was begun")
