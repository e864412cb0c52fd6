"""Holds on instances: for a time nothing corrective is done to them, they are watched as ever.

Operators set and end holds at a host or at its agent, and each tells the other. So each word about
an instance has a number, and the highest counts. One whose hold is over is kept for as long as an
older hold may still be in force elsewhere, or that would be taken for news.

Times without a zone are in seconds on the caller's clock.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Final

import attrs

#: The longest hold, in seconds: one that is forgotten keeps a failed VM down for a week at most.
#: Who needs longer sets it again, or turns `corrective` off for the instance in host.toml.
MAX_HOLD_S: Final = 7 * 86_400

#: The most characters of a reason: every status repeats it.
MAX_REASON: Final = 200


class HoldRefused(Exception):
    """A hold that can't be set or ended."""


@attrs.frozen(kw_only=True)
class InstanceHold:
    """The last word about an instance: its hold, or that this is over.

    Args:
        uuid: the instance.
        number: that of this word about the instance; a higher one replaces it.
        since: when it was set or ended, with its zone.
        until: when its time is over, with its zone.
        ends_at: the same on the caller's clock.
        who: who set or ended it.
        reason: why it was set.
        is_ended: whether it is over.
    """

    uuid: str
    number: int
    since: datetime
    until: datetime
    ends_at: float
    who: str
    reason: str
    is_ended: bool = False

    @property
    def words(self) -> str:
        """The hold, as operators read it: until when, by whom, why."""
        until = self.until.isoformat(timespec="seconds")
        return f"on hold until {until} by {self.who}: {self.reason}"

    @property
    def rank(self) -> tuple[int, datetime, datetime, str, str]:
        """Orders the words about an instance, the same everywhere, those of one moment, too."""
        return (self.number, self.until, self.since, self.who, self.reason)

    @property
    def forget_at(self) -> float:
        """When every older hold on the instance is over in any case."""
        return self.ends_at - (self.until - self.since).total_seconds() + MAX_HOLD_S


def checked(seconds: float, reason: str) -> str:
    """Returns the reason of a hold that is asked for, without blanks around it.

    Args:
        seconds: for how long; 1 to ``MAX_HOLD_S``.
        reason: why; one line of 1 to ``MAX_REASON`` characters.

    Raises:
        HoldRefused: one of them is out of range.
    """
    if not (math.isfinite(seconds) and 1 <= seconds <= MAX_HOLD_S):
        raise HoldRefused(
            f"a hold is for 1 s to {MAX_HOLD_S // 86_400} days, so that a forgotten one ends; "
            "set it again before its end for longer"
        )
    reason = reason.strip()
    if not (reason and reason.isprintable() and len(reason) <= MAX_REASON):
        text = f"a hold needs a reason, one line of at most {MAX_REASON} characters"
        raise HoldRefused(text)
    return reason


class InstanceHolds:
    """The holds of many instances, by uuid."""

    def __init__(self) -> None:
        self._words: dict[str, InstanceHold] = {}

    def __iter__(self) -> Iterator[InstanceHold]:
        """Iterates over the holds in force."""
        return (hold for hold in self._words.values() if not hold.is_ended)

    def of(self, uuid: str) -> InstanceHold | None:
        """Returns the hold in force on an instance; None: it is not on hold."""
        hold = self._words.get(uuid)
        return None if hold is None or hold.is_ended else hold

    def word(self, uuid: str) -> InstanceHold | None:
        """Returns the last word about an instance, which may be the end of a hold."""
        return self._words.get(uuid)

    def words(self) -> tuple[InstanceHold, ...]:
        """Returns the last word about each instance."""
        return tuple(self._words.values())

    def begin(
        self, uuid: str, seconds: float, reason: str, who: str, *, now: float, wall: datetime
    ) -> InstanceHold:
        """Sets a hold, in place of one that is in force.

        Args:
            uuid: the instance.
            seconds: for how long from now on.
            reason: why.
            who: who asks for it.
            now: the time.
            wall: the same by the wall clock, with its zone.

        Raises:
            HoldRefused: see :func:`checked`.
        """
        hold = InstanceHold(
            uuid=uuid,
            number=self._next_number(uuid, wall),
            since=wall,
            until=wall + timedelta(seconds=seconds),
            ends_at=now + seconds,
            who=who,
            reason=checked(seconds, reason),
        )
        self._words[uuid] = hold
        return hold

    def end(self, uuid: str, who: str, *, wall: datetime) -> InstanceHold:
        """Ends a hold; returns the word about that.

        Raises:
            HoldRefused: the instance is not on hold.
        """
        if (hold := self.of(uuid)) is None:
            raise HoldRefused(f"{uuid} is not on hold")
        number = self._next_number(uuid, wall)
        ended = attrs.evolve(hold, number=number, since=wall, who=who, is_ended=True)
        self._words[uuid] = ended
        return ended

    def take(self, word: InstanceHold, now: float) -> bool:
        """Takes a word that was stored, or said elsewhere; returns whether it is news."""
        known = self._words.get(word.uuid)
        if word.forget_at <= now or (known is not None and known.rank >= word.rank):
            return False
        self._words[word.uuid] = word
        return True

    def restore(self, word: InstanceHold, before: InstanceHold | None) -> None:
        """Takes back a word that could not be stored, unless another one has replaced it."""
        if self._words.get(word.uuid) != word:
            return
        if before is None:
            del self._words[word.uuid]
        else:
            self._words[word.uuid] = before

    @property
    def due_at(self) -> float:
        """When :meth:`expire` has something to do next; infinity: never, as things are."""
        return min(map(_due_at, self._words.values()), default=math.inf)

    def expire(self, now: float) -> tuple[list[InstanceHold], list[str]]:
        """Ends the holds whose time is over, and forgets the words that no longer matter.

        Returns:
            The holds that are over now, and the instances about which nothing is known any more.
        """
        due = [word for word in self._words.values() if _due_at(word) <= now]
        over = [word for word in due if not word.is_ended]
        for word in over:
            self._words[word.uuid] = attrs.evolve(word, is_ended=True)
        forgotten = [word.uuid for word in due if word.forget_at <= now]
        for uuid in forgotten:
            del self._words[uuid]
        return over, forgotten

    def _next_number(self, uuid: str, wall: datetime) -> int:
        # By the clock, so that it is higher than that of a hold which is over and forgotten here,
        # but not yet where the clocks are behind.
        known = self._words.get(uuid)
        return max(round(wall.timestamp() * 1000), 0 if known is None else known.number + 1)


def _due_at(word: InstanceHold) -> float:
    return word.forget_at if word.is_ended else word.ends_at
