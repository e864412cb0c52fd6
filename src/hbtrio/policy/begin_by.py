"""Bounds until when a command may begin, by the clock of the process that carries it out.

A process that was stopped finds commands in its socket whose requesters were told long ago that
the outcome is unknown. So a command carries the last moment at which it may begin, by the
*receiver's* clock: neither a stall of either process nor a step of a wall clock can revive or drop
it. The times of a command, in seconds from the request:

    0                        the request is read
    BEGIN_S + deadline_s     from here on the receiver does not begin it
    REPLY_S + deadline_s     the sender gives up waiting for a reply: the outcome is unknown

So what a sender was told is unknown has begun already, or never begins.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

import attrs

#: How long after its request a command may begin, in seconds, beyond its own deadline.
BEGIN_S: Final = 4.0

#: How long a sender waits for the reply to a command, in seconds, beyond its own deadline. More
#: than ``BEGIN_S``: the reply to a command that began at the last moment has to come back.
REPLY_S: Final = 5.0

#: How far apart two machines' clocks drift at most, in seconds per second: chronyd slews a clock by
#: up to 8.3 % while it corrects it.
DRIFT: Final = 0.1


class Expired(Exception):
    """The moment until which a command might begin has passed: nothing was done."""


class PeerClock:
    """Estimates a peer's clock from its readings, and is never ahead of it.

    The peer made a reading before it was received here. So the difference to this process's clock
    at the reception is at most the true one, and the largest difference is the best: a reading that
    waited in a socket changes nothing.
    """

    __slots__ = ("_offset_s", "_read_at")

    def __init__(self) -> None:
        self._offset_s = -math.inf
        self._read_at = 0.0

    @property
    def is_known(self) -> bool:
        """Whether the peer has sent a reading."""
        return self._offset_s > -math.inf

    def read(self, clock_s: float, now: float) -> None:
        """Takes a reading of the peer that was received at ``now``, on this process's clock."""
        self._offset_s = max(clock_s - now, self._offset_at(now))
        self._read_at = now

    def at(self, moment: float, now: float) -> float | None:
        """Returns the peer's clock at a moment of this process's clock, or slightly less.

        Args:
            moment: not before ``now``.
            now: this process's clock.

        Returns:
            None if the peer has sent no reading; never below 0.
        """
        if not self.is_known:
            return None
        return max(0.0, moment + self._offset_at(max(moment, now)))

    def _offset_at(self, now: float) -> float:
        return self._offset_s - DRIFT * (now - self._read_at)


@attrs.frozen
class BeginBy:
    """Until when a command may begin.

    Args:
        clock: this process's clock.
        until_s: the moment on that clock; infinity for a sender that has not named one.
    """

    clock: Callable[[], float]
    until_s: float = math.inf

    @property
    def left_s(self) -> float:
        """Seconds until the moment; negative once it has passed."""
        return self.until_s - self.clock()

    def extended(self, wait_s: float) -> BeginBy:
        """Allows for a wait that was just announced to the sender, in seconds."""
        return BeginBy(self.clock, max(self.until_s, self.clock() + wait_s + BEGIN_S))

    def check(self) -> None:
        """Checks that the command may begin now.

        Call this directly before it begins, after the last wait.

        Raises:
            Expired: it may not; the text says since when.
        """
        left_s = self.left_s
        if left_s < 0:
            known = left_s > -math.inf
            since = f" {-left_s:.1f} s ago" if known else ", it was for another process"
            raise Expired(f"expired{since}: nothing was done")


#: For what may begin at any time.
ANY_TIME: Final = BeginBy(lambda: 0.0)


@attrs.frozen
class ProcessClock:
    """The clock by which a process's commands expire.

    Args:
        now: reads it.
        boot_id: identifies the process: a moment on the clock of another one means nothing here.
    """

    now: Callable[[], float]
    boot_id: str

    def begin_by(self, until_s: float | None, boot_id: str) -> BeginBy:
        """Makes the bound of a command.

        Args:
            until_s: the moment that the command names; None from a sender that names none.
            boot_id: the process whose clock that is; for another one, the moment has passed.
        """
        if until_s is None:
            return ANY_TIME
        return BeginBy(self.now, until_s if boot_id == self.boot_id else -math.inf)
