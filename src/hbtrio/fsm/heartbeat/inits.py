"""How many inits of one guest are heard."""

from __future__ import annotations

from typing import Final

from hbtrio.fsm.heartbeat.effects import Effect, Note
from hbtrio.policy.quota import Quota

#: A guest retries ``init`` every 5 s; one that says it more often than this is not heard.
INITS: Final = 6
INITS_PERIOD_S: Final = 10.0

_REFUSED: Final = (Note(f"ignoring inits: more than {INITS} in {INITS_PERIOD_S:g} s"),)
_REFUSED_AGAIN: Final[tuple[Effect, ...]] = ()


class InitLimit:
    """The quota of one guest's inits. A refusal is noted once, until one is heard again."""

    def __init__(self) -> None:
        self._quota = Quota(INITS, INITS_PERIOD_S)
        self._noted = False

    def refusal(self, now: float) -> tuple[Effect, ...] | None:
        """None if an ``init`` at ``now`` is to be heard; else what there is to say about it."""
        if self._quota.take(now):
            self._noted = False
            return None
        noted, self._noted = self._noted, True
        return _REFUSED_AGAIN if noted else _REFUSED
