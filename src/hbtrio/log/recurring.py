"""Keeps faults that recur from filling the log: a line when one begins, changes or ends."""

from __future__ import annotations

import logging
import math
from typing import Final

#: Seconds between two lines about a shortage; and without a refusal until it is over.
SHORTAGE_S: Final = 60.0


class LogOnce:
    """Limits a recurring fault to one log line until its text changes or the fault ends.

    Check before logging::

        if self._fault.is_new(text):
            _log.warning("agent: %s; retrying", text)
    """

    __slots__ = ("_last",)

    def __init__(self) -> None:
        self._last = ""

    def is_new(self, text: str) -> bool:
        """Returns whether this text differs from the last one; must not be empty."""
        is_new = text != self._last
        self._last = text
        return is_new

    def clear(self) -> bool:
        """Ends the fault, so that any text is new again; returns whether there was a fault."""
        was_logged = bool(self._last)
        self._last = ""
        return was_logged


class ShortageLog:
    """Counts what is refused for want of a resource, and logs it once a minute.

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
        if now - self._logged >= SHORTAGE_S:
            self._logged = now
            self._log.error("%s: %s (%d since the last line)", self._what, reason, self._refused)
            self._refused = 0

    def served(self, now: float) -> None:
        """Logs the end of a shortage that has refused nothing for a minute."""
        if self._last > -math.inf and now - self._last >= SHORTAGE_S:
            self._log.warning("no longer: %s", self._what)
            self._logged = self._last = -math.inf
            self._refused = 0
