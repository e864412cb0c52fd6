"""Not being registered, as the application's log tells it."""

from __future__ import annotations

import logging
from typing import Final

_log = logging.getLogger("hbtrio.app")

#: How long a guest daemon may not be there yet, or be under way again, without a warning: seconds.
GRACE_S: Final = 60.0


class DowntimeLog:
    """The time in which an application is not registered.

    Each reason is told once, and once more when it has become serious: attempts go on for good, and
    none of them is news.

    Args:
        name: the application's.
        since: when it began, in seconds on any clock.
    """

    def __init__(self, name: str, since: float) -> None:
        self._name = name
        self._since = since
        # As many as there are errors of connect(), and a few more.
        self._told: dict[str, int] = {}

    def because(self, reason: str, level: int, now: float) -> None:
        """Logs the reason.

        Args:
            reason: what went wrong.
            level: how bad it is; after 60 s of absence it is a warning at the least.
            now: on the same clock.
        """
        if now - self._since >= GRACE_S:
            level = max(level, logging.WARNING)
        if level > self._told.get(reason, logging.NOTSET):
            self._told[reason] = level
        else:
            level = logging.DEBUG
        _log.log(level, "%s is not registered: %s", self._name, reason)
