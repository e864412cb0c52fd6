"""The time of a planned action: from when on a guest is asked, and when its vote no longer counts.

A planned action is a drain of one instance (:mod:`hbtrio.fsm.drain`) with a time. Its times are of
the drain's clock, in seconds.
"""

from __future__ import annotations

from typing import Final

import attrs

#: How late the last turn may come, in seconds: a daemon that was only restarted carries it out.
LATE_S: Final = 60.0

#: Why nothing is done after a longer absence.
STALE: Final = "its time was over before it could be carried out"


@attrs.frozen(kw_only=True)
class PlannedTime:
    """When an action is due.

    Args:
        not_before: when the guest is asked first.
        before: when the action is performed without its vote; after ``not_before``.

    Raises:
        ValueError: ``before`` is not after ``not_before``.
    """

    not_before: float
    before: float

    def __attrs_post_init__(self) -> None:
        if not self.not_before < self.before:
            raise ValueError("before: not after not_before")

    def is_stale(self, due: float, now: float) -> bool:
        """Returns whether a turn must not be taken any more.

        Args:
            due: when it was due.
            now: the present time.
        """
        return now > self.before and now - due > LATE_S
