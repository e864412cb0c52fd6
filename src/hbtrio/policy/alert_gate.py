"""Decides which alerts are sent: each once for a while, and only so many a minute.

Whoever is woken by the first of a thousand lost instances needs no thousand messages: what is above
the rate is counted by kind, and told in one message when the minute is over.
"""

from __future__ import annotations

import math
from collections import Counter, OrderedDict
from collections.abc import Hashable
from typing import Final

from hbtrio.policy.quota import Quota

#: For this long the same alert is not sent again, in seconds.
REPEAT_S: Final = 300.0

_MINUTE_S: Final = 60.0

#: Alerts that are remembered; beyond it the oldest may be sent again too soon.
_REMEMBERED: Final = 20_000


class AlertGate:
    """Admits alerts.

    Args:
        per_minute: how many are sent in a minute, at least 1.
    """

    def __init__(self, per_minute: int) -> None:
        self._quota = Quota(per_minute, _MINUTE_S)
        self._sent: OrderedDict[Hashable, float] = OrderedDict()
        self._withheld: Counter[str] = Counter()
        #: When :meth:`withheld` has something to tell; infinity for never.
        self.due = math.inf
        #: Alerts that were not sent, as the same one was sent just before.
        self.repeated = 0

    def admits(self, kind: str, key: Hashable, now: float) -> bool:
        """Returns whether to send an alert, and counts it.

        Args:
            kind: what it is about.
            key: the same for the same alert.
            now: seconds on the caller's clock.
        """
        if now - self._sent.get(key, -math.inf) < REPEAT_S:
            self.repeated += 1
            return False
        if not self._quota.take(now):
            self._withheld[kind] += 1
            self.due = min(self.due, now + _MINUTE_S)
            return False
        self._sent[key] = now
        self._sent.move_to_end(key)
        if len(self._sent) > _REMEMBERED:
            self._sent.popitem(last=False)
        return True

    def forget(self, key: Hashable) -> bool:
        """Lets the next alert with this key be sent; returns whether one was sent just before."""
        return self._sent.pop(key, None) is not None

    def withheld(self) -> dict[str, int]:
        """Returns how many alerts were above the rate since the last call, by kind."""
        found = dict(self._withheld)
        self._withheld.clear()
        self.due = math.inf
        return found
