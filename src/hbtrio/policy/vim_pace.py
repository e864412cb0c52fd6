"""Says how many requests the VIM bears at once, from how it takes them.

A VIM that answers at once is asked more at once, step by step; one that fails or takes long is
asked half as much. TCP finds what a path bears in the same way.
"""

from __future__ import annotations

import math
from typing import Final

#: At first, and at least: so many did no VIM harm.
LEAST: Final = 6

#: A request that took no longer than this, in seconds, was taken well. A healthy VIM answers within
#: milliseconds, and one that works on two for each that it did before takes twice as long.
_WELL_S: Final = 0.5


class VimPace:
    """How many requests may be in progress. Times are on the caller's clock, in seconds.

    Args:
        most: the most, at least ``LEAST``.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self.limit = LEAST
        #: Requests taken well since the limit was changed.
        self._well = 0
        self._halved_at = -math.inf

    def ended(self, *, began: float, now: float, failed: bool, in_progress: int) -> None:
        """Learns from the end of a request.

        Args:
            began: when it began. One from before the limit was halved does not halve it again.
            now: the time.
            failed: whether it did not arrive or was answered with an error.
            in_progress: how many requests were, with it. A limit that is not reached is not raised:
                nothing would be known of what lies beyond it.
        """
        if failed or now - began > _WELL_S:
            if began > self._halved_at:
                self.limit = max(LEAST, self.limit // 2)
                self._halved_at, self._well = now, 0
        elif in_progress >= self.limit:
            self._well += 1
            if self._well >= self.limit:
                self.limit = min(self.most, self.limit + 1)
                self._well = 0
