"""Rate limits with bounded memory: a sliding window and a token bucket."""

from __future__ import annotations

import math


class Quota:
    """Grants at most ``count`` in any ``period_s`` seconds.

    Args:
        count: how many are granted, at least 0; memory use is proportional.
        period_s: the length of the window, in seconds.
        most: the most that ``count`` may be set to later; 0: it stays as it is.
    """

    __slots__ = ("_granted", "_most", "_period_s", "count")

    def __init__(self, count: int, period_s: float, most: int = 0) -> None:
        self.count = count
        self._period_s = period_s
        self._most = max(count, most, 1)
        # A deque takes 760 bytes even if it is empty, and each instance has several quotas.
        self._granted: list[float] = []

    def take(self, now: float) -> bool:
        """Takes one if the quota allows it at ``now``; returns whether it did."""
        granted = self._granted
        while granted and now - granted[0] >= self._period_s:
            del granted[0]
        if len(granted) >= self.count:
            return False
        granted.append(now)
        return True

    def free_at(self, now: float) -> float:
        """Returns when the quota grants the next one; ``now`` if it does already."""
        granted = self.taken(now)
        if len(granted) < self.count:
            return now
        return granted[-self.count] + self._period_s if self.count else math.inf

    def used(self, now: float) -> int:
        """Returns how many were granted within the period that ends at ``now``."""
        return len(self.taken(now))

    def taken(self, now: float) -> list[float]:
        """Returns when those within the period that ends at ``now`` were granted, in order."""
        return [at for at in self._granted if now - at < self._period_s]

    def restore(self, at: float) -> None:
        """Counts one that was granted before this quota was there, the oldest first."""
        self._granted.append(at)
        del self._granted[: -self._most]

    def give_back(self) -> None:
        """Takes back the one granted last: it was of no use."""
        self._granted.pop()


class ByteBucket:
    """A token bucket that limits how fast a tenant's channel is read.

    Args:
        rate: bytes per second that the bucket regains, over 0.
        burst: the size of the bucket, in bytes.
        now: seconds on the caller's clock.
    """

    __slots__ = ("_burst", "_level", "_rate", "_updated")

    def __init__(self, rate: float, burst: float, now: float) -> None:
        self._rate = rate
        self._burst = burst
        self._level = burst
        self._updated = now

    def take(self, count: int, now: float) -> float:
        """Takes ``count`` bytes that were read; returns how many seconds to pause reading."""
        level = self._level + (now - self._updated) * self._rate
        if level > self._burst:  # min() would cost more than the rest of this method
            level = self._burst
        level -= count
        self._updated = now
        self._level = level
        return -level / self._rate if level < 0 else 0.0
