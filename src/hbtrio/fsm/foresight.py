"""Foresees what would follow if an instance were lost now, for people who ask beforehand.

The decision is that of :func:`~hbtrio.fsm.corrective.decide`. What it would ask for first can't be
known before the loss; presumed is the answer of an instance that is itself at fault.
"""

from __future__ import annotations

from typing import Any, Final

import attrs

from hbtrio.fsm.corrective import Act, Ask, Known, NotNow, Picture, Question, decide
from hbtrio.fsm.domain import Standing

_PRESUMED: Final[dict[Question, dict[str, Any]]] = {
    Question.LIBVIRT: {"known": Known(Standing.RUNNING)},
    Question.TRAFFIC: {"busy": ""},
    Question.CONFIRM: {"refusal": ""},
}


@attrs.frozen
class Foresight:
    """What would be decided, and what would be asked for before, in that order."""

    decision: Act | NotNow
    asks: tuple[Question, ...] = ()


def foresee(picture: Picture) -> Foresight:
    """Returns what would be decided about a loss of this moment."""
    asks: list[Question] = []
    while isinstance(step := decide(picture), Ask):
        asks.append(step.question)
        picture = attrs.evolve(picture, **_PRESUMED[step.question])
    return Foresight(step, tuple(asks))
