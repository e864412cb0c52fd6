"""Shortages: tells them from faults, and logs each once a minute while it lasts."""

from __future__ import annotations

import logging
import math
from typing import Final

#: Seconds between two lines about a shortage; and without a refusal until it is over.
PERIOD_S: Final = 60.0


class ShortageLog:
    """Counts what is refused for want of a resource.

    Args:
        log: the logger.
        what: what the shortage causes: ``"channels are not connected"``.
    """

    def __init__(self, log: logging.Logger, what: str) -> None:
        self._log = log
        self._what = what
        self._refused = 0
        self._logged = -math.inf
        self._last = -math.inf

    def refused(self, reason: str, now: float) -> None:
        """Counts a refusal, and logs it unless a line was logged within the last minute.

        Args:
            reason: what there is too little of.
            now: the time, in seconds.
        """
        self._refused += 1
        self._last = now
        if now - self._logged >= PERIOD_S:
            self._logged = now
            self._log.error("%s: %s (%d since the last line)", self._what, reason, self._refused)
            self._refused = 0

    def served(self, now: float) -> None:
        """Logs the end of a shortage that has refused nothing for a minute."""
        if self._last > -math.inf and now - self._last >= PERIOD_S:
            self._log.warning("no longer: %s", self._what)
            self._logged = self._last = -math.inf
            self._refused = 0


def is_thread_shortage(error: RuntimeError) -> bool:
    """Returns whether no thread could be started, because the system allows no more of them.

    Python has no exception of its own for that.
    """
    return str(error) == "can't start new thread"
