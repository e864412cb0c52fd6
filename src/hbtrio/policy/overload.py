"""Judges whether a daemon is overloaded: late for so long that it is no passing stall.

A stall is over within seconds (:mod:`hbtrio.policy.time_guard`), and is nothing that an operator
could help with. An overload lasts. Lateness adds up and punctuality takes it away again, so a
daemon that is late for most of the time is overloaded even if it is on time in between.
"""

from __future__ import annotations

from enum import Enum
from typing import Final

#: Seconds of lateness from which on work that can wait is shed. More than one stall adds.
SHED_S: Final = 5.0

#: Seconds of lateness that raise the alarm.
ALARM_S: Final = 10.0

#: Seconds between two observations that count at most: while stopped, a daemon is not overloaded.
_STEP_S: Final = 2.0


class OverloadChange(Enum):
    """What an observation has changed."""

    SHEDS = "sheds"
    ALARM = "alarm"
    OVER = "over"


class Overload:
    """Adds lateness up.

    Args:
        now: the time of creation, in seconds on the caller's monotonic clock.
    """

    def __init__(self, now: float) -> None:
        #: Whether work that can wait is shed, until the daemon has been on time for as long as it
        #: was late, at most ``ALARM_S``.
        self.sheds = False
        #: Whether the alarm is on; it ends with the shedding.
        self.alarm = False
        #: Alarms so far, for status and metrics.
        self.alarms = 0
        self._lateness_s = 0.0
        self._observed = now

    @property
    def calm(self) -> bool:
        """Whether no lateness is left."""
        return self._lateness_s == 0.0

    def observe(self, now: float, *, late: bool) -> OverloadChange | None:
        """Records whether the daemon is late; call it at least every second or two.

        Args:
            now: the time.
            late: whether the on-time guard says so.

        Returns:
            What has changed with it, or None.
        """
        passed_s = min(now - self._observed, _STEP_S)
        self._observed = now
        self._lateness_s += passed_s if late else -passed_s
        self._lateness_s = min(max(self._lateness_s, 0.0), ALARM_S)
        if self._lateness_s >= ALARM_S and not self.alarm:
            self.sheds = self.alarm = True
            self.alarms += 1
            return OverloadChange.ALARM
        if self._lateness_s >= SHED_S and not self.sheds:
            self.sheds = True
            return OverloadChange.SHEDS
        if self._lateness_s == 0.0 and self.sheds:
            self.sheds = self.alarm = False
            return OverloadChange.OVER
        return None
