"""The RESTART window of an instance, as the machine sees it: until when the instance may be away.

While no guest is known it is the time in which one has to say ``init``.

A reset by anyone opens it anew. Without a bound, a VM in a boot loop would never be lost, so the
window ends at most 2 x RESTART after the first reset since the last answer. A reset by hbtrio or
the VIM starts that count anew. Time in which the VM is paused does not count.
"""

from __future__ import annotations

import math
from typing import Final

import attrs


@attrs.frozen
class ReturnWindow:
    """Until when an instance is expected back. It is replaced, never changed.

    Args:
        until: when it ends; infinity if none is open.
        latest: when it ends in any case, by the first reset since the last answer; infinity if
            there was none.
        paused_at: since when the VM is paused; NaN if it is not.
    """

    until: float = math.inf
    latest: float = math.inf
    paused_at: float = math.nan

    @property
    def is_open(self) -> bool:
        """Whether the instance is expected back."""
        return self.until < math.inf

    @property
    def ends_a_boot_loop(self) -> bool:
        """Whether it ends because there was one reset after the other."""
        return self.until == self.latest < math.inf

    def opened(self, now: float, restart_s: float) -> ReturnWindow:
        """A restart or return that was announced; the count of resets starts anew."""
        return ReturnWindow(now + restart_s)

    def reset(self, now: float, restart_s: float) -> ReturnWindow:
        """The VM was reset by someone; its end is not after ``now`` if there were too many."""
        latest = min(self.latest, now + 2 * restart_s)
        return ReturnWindow(min(now + restart_s, latest), latest)

    def extended(self, now: float, seconds: float) -> ReturnWindow:
        """It ends that much later than ``now``; the resets still count."""
        return attrs.evolve(self, until=now + seconds)

    def closed(self) -> ReturnWindow:
        """The instance is not expected back any more; the resets still count."""
        return attrs.evolve(self, until=math.inf)

    def answered(self) -> ReturnWindow:
        """The guest has answered: the resets before that do not count."""
        return attrs.evolve(self, latest=math.inf)

    def paused(self, now: float) -> ReturnWindow:
        """The VM stands still from now on."""
        return attrs.evolve(self, paused_at=now) if math.isnan(self.paused_at) else self

    def resumed(self, now: float) -> ReturnWindow:
        """The VM runs again; what was left of the window is left."""
        if math.isnan(self.paused_at):
            return self
        paused_s = now - self.paused_at
        return ReturnWindow(self.until + paused_s, self.latest + paused_s)

    def put_off(self, seconds: float) -> ReturnWindow:
        """This process did not run for so long, in which nothing could be known of the VM."""
        return ReturnWindow(self.until + seconds, self.latest + seconds, self.paused_at + seconds)


#: The instance is not expected back, and was not reset.
NO_WINDOW: Final = ReturnWindow()
