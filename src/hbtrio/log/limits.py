"""Bounds the log lines that a peer can cause, wherever in the program they are written.

A tenant, a peer or a stranger at a socket can make a daemon log a line as often as it likes: by
connecting and leaving, by sending nonsense, by replacing a socket's file. So every place in the
source that logs has a bound, and within it every subject: the first argument of the line, which is
the instance, the host or the peer that the line is about. A flood about one instance then hides no
line about another. Bounds are token buckets, because a host that starts has one line for each of
its instances at once. A subject that had no line for a minute has one even if others have used up
the bound of the place. What is withheld is counted, and the count is logged once a minute with an
example.
"""

from __future__ import annotations

import math
import re
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

import msgspec

from hbtrio.log.subject import NOBODY, Subject

#: Seconds from the first withheld line of a place to the line with their number.
PERIOD_S: Final = 60.0

#: Subjects whose lines are counted one by one; beyond it the one longest without a line is
#: forgotten, so the bound of the place is all that holds.
SUBJECTS: Final = 4096

#: Characters of a subject that count; a tenant's text may be long.
_SUBJECT_LENGTH: Final = 100

#: A client's port: each of its connections has another.
_PORT: Final = re.compile(r":\d+$")

#: A place in the source: file and line.
Place = tuple[str, int]


class LineRate(msgspec.Struct, frozen=True):
    """So many lines at once, and so many a minute from then on."""

    burst: int
    per_minute: int


#: Of one subject at one place.
SUBJECT_RATE: Final = LineRate(burst=60, per_minute=2)

#: Of one place in a daemon that serves many subjects.
PLACE_RATE: Final = LineRate(burst=1000, per_minute=120)

#: Of one place besides, for subjects that had no line for a minute: 100 hostile ones are all named
#: each minute.
RARE_RATE: Final = LineRate(burst=120, per_minute=120)

#: Of one place in a guest, which serves one host.
GUEST_PLACE_RATE: Final = LineRate(burst=120, per_minute=60)


class Withheld(msgspec.Struct):
    """The lines of one place that were withheld.

    Attributes:
        since: the time of the first one, on the caller's clock.
        example: its text.
        level: its level, as a number of :mod:`logging`.
        count: how many.
        subject: whom the first one is about.
    """

    since: float
    example: str
    level: int
    count: int = 1
    subject: Subject = NOBODY

    @property
    def text(self) -> str:
        """The line that stands for them."""
        if self.count == 1:
            return self.example
        return f"{self.count} lines like this were not logged, the first: {self.example}"


class _Bucket:
    __slots__ = ("_level", "_rate", "_updated", "taken_at")

    def __init__(self, rate: LineRate, now: float) -> None:
        self.taken_at = -math.inf
        self._rate = rate
        self._level = float(rate.burst)
        self._updated = now

    def has(self, now: float) -> bool:
        gained = (now - self._updated) * self._rate.per_minute / 60.0
        self._level = min(self._rate.burst, self._level + gained)
        self._updated = now
        return self._level >= 1

    def take(self) -> None:
        self._level -= 1
        self.taken_at = self._updated


class LineLimits:
    """Decides which lines are logged. Not safe for use by several threads at once.

    Args:
        place: the bound of each place.
        subject: the bound of each subject at a place.
        rare: the bound of the place for subjects that had no line for a minute.
    """

    def __init__(
        self,
        place: LineRate = PLACE_RATE,
        subject: LineRate = SUBJECT_RATE,
        rare: LineRate = RARE_RATE,
    ) -> None:
        self._rates = (place, rare)
        self._subject_rate = subject
        self._places: dict[Place, tuple[_Bucket, ...]] = {}
        self._subjects: OrderedDict[tuple[Place, str], _Bucket] = OrderedDict()
        self._withheld: dict[Place, Withheld] = {}

    def allows(self, place: Place, subject: str, now: float) -> bool:
        """Counts a line; returns whether it may be logged. If not, :meth:`withhold` it.

        Args:
            place: where it is logged, one of the finitely many of the source.
            subject: whom it is about, "" if it is always the same.
            now: seconds on a monotonic clock.
        """
        of_place = self._places.get(place)
        if of_place is None:
            of_place = self._places[place] = tuple(_Bucket(rate, now) for rate in self._rates)
        key = (place, _PORT.sub("", subject[:_SUBJECT_LENGTH]))
        of_subject = self._subjects.pop(key, None) or _Bucket(self._subject_rate, now)
        self._subjects[key] = of_subject
        if len(self._subjects) > SUBJECTS:
            self._subjects.popitem(last=False)
        # A subject beyond its own bound takes nothing from the others.
        if not of_subject.has(now):
            return False
        rare = now - of_subject.taken_at >= PERIOD_S
        for bucket in of_place if rare else of_place[:1]:
            if bucket.has(now):
                bucket.take()
                of_subject.take()
                return True
        return False

    def withhold(self, place: Place, now: float, example: Callable[[], Withheld]) -> bool:
        """Counts a line that may not be logged; returns whether it is the first of its place.

        Args:
            place: where it would have been logged.
            now: seconds on the clock of :meth:`allows`.
            example: called for the first line, so that the others are never formatted.
        """
        withheld = self._withheld.get(place)
        if withheld is None:
            self._withheld[place] = example()
            return True
        withheld.count += 1
        return False

    @property
    def due(self) -> float:
        """When :meth:`take_withheld` next has something to return; infinity if nothing is held."""
        return min((one.since + PERIOD_S for one in self._withheld.values()), default=math.inf)

    def take_withheld(self, now: float) -> list[Withheld]:
        """Returns and forgets what was first withheld ``PERIOD_S`` ago or earlier.

        Args:
            now: seconds on the clock of :meth:`allows`; infinity for all, at the end.
        """
        due = [place for place, one in self._withheld.items() if one.since + PERIOD_S <= now]
        return [self._withheld.pop(place) for place in due]
