"""Says why the VIM got no verdict of a vote or notice, as the agent's history has it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import attrs

from hbtrio.store.outbox import TOO_LATE

#: What the agent has recorded about what the VIM asked of an instance, since an id.
SINCE: Final = """\
SELECT kind, result, reason FROM history WHERE uuid = ? AND who = 'vim' AND id > ? ORDER BY id
"""

NEWEST: Final = "SELECT coalesce(max(id), 0) FROM history"


@attrs.frozen
class Line:
    """A line of the history, in the order of :data:`SINCE`."""

    kind: str
    result: str
    reason: str


def why_missing(uuid: str, kind: str, told: int | str, lines: Iterable[Line]) -> str | None:
    """Returns the reason that the history gives for a missing verdict; None if it gives none.

    Args:
        uuid: the instance that was asked.
        kind: vote or notice.
        told: what the VIM was told: the reason of a refusal, or a timer in seconds. With 0 it does
            not wait, so the instance must not have been heartbeating; with any other, the verdict
            must have been too late to be sent.
        lines: of the instance since the question.
    """
    for line in lines:
        unasked = (line.kind, line.result) == (kind, "error")
        match told:
            case str():
                explains = unasked and line.reason == told
            case 0:
                explains = unasked and line.reason.startswith(f"{uuid} is not heartbeating: ")
            case _:
                explains = (line.kind, line.reason) == ("undelivered", f"action: {TOO_LATE}")
        if explains:
            return line.reason
    return None
