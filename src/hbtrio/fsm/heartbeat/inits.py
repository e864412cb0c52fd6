"""Limits how many inits of one guest are handled."""

from __future__ import annotations

from typing import Final

from hbtrio.fsm.heartbeat.effects import Effect, Note
from hbtrio.policy.quota import Quota

#: A guest retries ``init`` every 5 s; inits beyond this rate are ignored.
INITS: Final = 6
INITS_PERIOD_S: Final = 10.0

_REFUSED: Final = (Note(f"ignoring inits: more than {INITS} in {INITS_PERIOD_S:g} s"),)
_REFUSED_AGAIN: Final[tuple[Effect, ...]] = ()


class InitLimit:
    """The quota of one guest's inits. Ignored inits are logged once, until one is handled again."""

    def __init__(self) -> None:
        self._quota = Quota(INITS, INITS_PERIOD_S)
        self._noted = False

    def refusal(self, now: float) -> tuple[Effect, ...] | None:
        """Returns None if an ``init`` at ``now`` is to be handled; else the effects."""
        if self._quota.take(now):
            self._noted = False
            return None
        noted, self._noted = self._noted, True
        return _REFUSED_AGAIN if noted else _REFUSED
