"""Logs why an application is not registered, once per reason."""

from __future__ import annotations

import logging
from typing import Final

_log = logging.getLogger("hbtrio.app")

#: How long a guest daemon may be missing or restarting without a warning, in seconds.
GRACE_S: Final = 60.0


class DowntimeLog:
    """The log of one period in which an application is not registered.

    Each reason is logged once, and again when its level rises, because attempts to register go on
    indefinitely. Repetitions are logged as debug.

    Args:
        name: the application's name.
        since: the start of the period, in seconds on any clock.
    """

    def __init__(self, name: str, since: float) -> None:
        self._name = name
        self._since = since
        # Bounded: one entry per error of connect(), and a few more.
        self._logged: dict[str, int] = {}

    def log_reason(self, reason: str, level: int, now: float) -> None:
        """Logs a reason why the application is not registered.

        Args:
            reason: the reason.
            level: the logging level; at least WARNING after 60 s.
            now: the time, on the same clock.
        """
        if now - self._since >= GRACE_S:
            level = max(level, logging.WARNING)
        if level > self._logged.get(reason, logging.NOTSET):
            self._logged[reason] = level
        else:
            level = logging.DEBUG
        _log.log(level, "%s is not registered: %s", self._name, reason)
