"""Decides when to warn that a certificate expires: 30, 7 and 1 days before, and when it has.

Each threshold is warned of once. A process that starts late warns of the one that has passed last,
with the time that is left then. A renewed certificate starts anew.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final

import attrs

#: Days before the expiry; 0 is the expiry itself.
THRESHOLDS_DAYS: Final = (30, 7, 1, 0)


@attrs.frozen
class FileCertificate:
    """A certificate in use.

    Attributes:
        where: the key of the configuration that names its file, such as ``link.authority``.
        path: the file.
        owner: its common name, or "".
        expires: when it expires.
    """

    where: str
    path: str
    owner: str
    expires: datetime


def threshold(expires: datetime, now: datetime) -> int | None:
    """Returns the last threshold that has passed, in days; None before the first one."""
    left = expires - now
    passed = [days for days in THRESHOLDS_DAYS if left <= timedelta(days=days)]
    return min(passed, default=None)


def expiry_text(expires: datetime, now: datetime) -> str:
    """Describes an expiry: "expires in 6 days, on 2025-03-01", or "expired on 2025-03-01"."""
    left, day = expires - now, expires.date().isoformat()
    if left <= timedelta():
        return f"expired on {day}"
    hours = int(left.total_seconds() // 3600)
    count, unit = (hours, "hour") if hours < 48 else (hours // 24, "day")
    return f"expires in {count} {unit}{'' if count == 1 else 's'}, on {day}"


class ExpiryWarnings:
    """Remembers what was warned of, by certificate."""

    def __init__(self) -> None:
        self._warned: dict[str, tuple[datetime, int]] = {}

    def is_due(self, name: str, expires: datetime, now: datetime) -> bool:
        """Returns whether to warn now, and notes that it was done.

        Args:
            name: the certificate; the same after its renewal.
            expires: when it expires.
            now: the wall clock's time. A clock that is set back repeats no warning.
        """
        passed = threshold(expires, now)
        if passed is None:
            self._warned.pop(name, None)
            return False
        warned = self._warned.get(name)
        if warned is not None and warned[0] == expires and warned[1] <= passed:
            return False
        self._warned[name] = (expires, passed)
        return True

    def keep_only(self, names: set[str]) -> None:
        """Forgets the certificates that are no longer in use."""
        for name in self._warned.keys() - names:
            del self._warned[name]
