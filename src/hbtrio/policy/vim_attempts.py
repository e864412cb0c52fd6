"""How many requests to the VIM may be under way, and whose turn it is not.

Two kinds of trouble, two kinds of waiting. The VIM can't be reached: nothing is sent for a while,
then one entry tries for all, so that a thousand entries do not hammer at a VIM that is starting.
One request fails on a VIM that can be reached: its instance rests, the others go on.

A verdict waits for none of that: it has a window. Some of the requests under way are kept for
verdicts, and a state or alarm that hangs holds up not even the verdict of its own instance.
"""

from __future__ import annotations

import math
from collections.abc import Set
from enum import Enum
from typing import Final

import attrs

from hbtrio.policy.backoff import Backoff
from hbtrio.wire.vim_result import NotSent, SendResult

#: Requests under way at once, and how many of them states and alarms leave to verdicts: each of
#: theirs may hang for as long as a vote's whole window.
SLOTS: Final = 8
FOR_VERDICTS: Final = 2

#: A state or alarm under way for so long, in seconds, hangs: a verdict of its instance need not
#: come behind it. A VIM that is well answers in a few milliseconds; the verdict of a silent guest
#: has a quarter of a second.
_HANGS_S: Final = 0.1

#: An instance that rested and has had nothing to send for so long, in seconds, is forgotten.
_FORGET_S: Final = 300.0


class Reach(Enum):
    """How a result changed what is known of the VIM."""

    UNCHANGED = "as before"
    GAINED = "the VIM can be reached again"
    LOST = "the VIM can't be reached"


@attrs.frozen
class Turn:
    """What may be begun now.

    Args:
        limit: how many requests at most.
        others: how many of them may be no verdicts.
        busy: instances of which nothing may be sent.
        resting: instances of which only verdicts may be sent, which wait for no state or alarm.
    """

    limit: int
    others: int
    busy: Set[str]
    resting: Set[str]


@attrs.frozen
class _UnderWay:
    """A request under way: since when, and in which spell without a VIM."""

    uuid: str
    is_verdict: bool
    since: float
    spell: int


@attrs.define
class _Rest:
    """An instance whose last request failed on a VIM that could be reached."""

    until: float = -math.inf
    backoff: Backoff = attrs.field(factory=Backoff)


class VimAttempts:
    """The requests under way, and what the last ones said of the VIM.

    All times are in seconds on one clock, the caller's.
    """

    def __init__(self) -> None:
        #: Whether the last request got through to the VIM.
        self.reachable = True
        #: Since when the VIM can be reached, if it could not be before.
        self.reachable_since = -math.inf
        #: By entry. Of one instance one, or a verdict beside a state or alarm that hangs.
        self._under_way: dict[int, _UnderWay] = {}
        self._rests: dict[str, _Rest] = {}
        # The wait for a VIM that can't be reached: attempts that began before it was entered do not
        # lengthen it, or the eight that fail together would.
        self._backoff = Backoff()
        self._held_until = -math.inf
        self._spell = 0

    def __len__(self) -> int:
        """How many requests are under way."""
        return len(self._under_way)

    @property
    def rests(self) -> Set[str]:
        """The instances that rest, or rested not long ago."""
        return self._rests.keys()

    def begin(self, entry_id: int, uuid: str, *, is_verdict: bool, now: float) -> None:
        """A request about this instance is begun."""
        self._under_way[entry_id] = _UnderWay(uuid, is_verdict, now, self._spell)

    def learn(self, entry_id: int, result: SendResult, now: float) -> Reach:
        """What became of a request under way, which says whether the VIM can be reached."""
        was_reachable = self.reachable
        if not isinstance(result, NotSent):
            self.reachable = True
            self._try_at_once()
            if was_reachable:
                return Reach.UNCHANGED
            self.reachable_since = now
            return Reach.GAINED
        if self._under_way[entry_id].spell != self._spell:
            return Reach.UNCHANGED
        self._spell += 1
        self.reachable = False
        self._held_until = now + self._backoff.next_delay_s()
        return Reach.LOST if was_reachable else Reach.UNCHANGED

    def end(self, entry_id: int) -> None:
        """The request is over, and what became of it is kept."""
        del self._under_way[entry_id]

    def forget_all(self) -> None:
        """No request is under way any more: whoever made them was cancelled."""
        self._under_way.clear()

    def vim_spoke(self) -> bool:
        """The VIM has made a request just now, so it is up; returns whether that is news.

        Without this the verdict of a VIM's first vote after an outage could wait for up to a
        minute, and be too late.
        """
        if not self.reachable:
            self._try_at_once()
        return not self.reachable

    def rest(self, uuid: str, now: float) -> None:
        """A state or alarm of the instance failed: no other is sent for a while."""
        rest = self._rests.setdefault(uuid, _Rest())
        rest.until = now + rest.backoff.next_delay_s()

    def end_rest(self, uuid: str) -> None:
        """A state or alarm of the instance is done with."""
        self._rests.pop(uuid, None)

    def turn(self, now: float) -> Turn:
        """What may be begun now."""
        under_way = self._under_way.values()
        instances = {one.uuid for one in under_way}
        for uuid in [uuid for uuid, rest in self._rests.items() if rest.until < now - _FORGET_S]:
            if uuid not in instances:
                del self._rests[uuid]
        resting = {uuid for uuid, rest in self._rests.items() if rest.until > now}
        busy = {one.uuid for one in under_way if one.is_verdict or one.since + _HANGS_S > now}
        return Turn(*self._room(now), busy, resting | instances)

    def wait_s(self, now: float) -> float:
        """For how many seconds :meth:`turn` says the same, if no request begins or ends."""
        changes = [self._held_until, *(rest.until for rest in self._rests.values())]
        changes += [one.since + _HANGS_S for one in self._under_way.values() if not one.is_verdict]
        return min((at - now for at in changes if at > now), default=math.inf)

    def _room(self, now: float) -> tuple[int, int]:
        if self._held_until > now:
            return 0, 0
        # A VIM that could not be reached is tried with one entry for all, and one verdict beside it
        # if there is one: the VIM may be back while that one still waits to be connected.
        # What hangs since it could be reached may do so for 20 s more: only its tries count.
        if not self.reachable:
            tries = [one.is_verdict for one in self._under_way.values() if one.spell == self._spell]
            room = max(0, 2 * SLOTS - len(self))
            others = min(room, int(False not in tries))
            return min(room, others + int(True not in tries)), others
        others = sum(not one.is_verdict for one in self._under_way.values())
        limit = max(0, SLOTS - len(self))
        return limit, max(0, min(limit, SLOTS - FOR_VERDICTS - others))

    def _try_at_once(self) -> None:
        self._held_until = -math.inf
        self._backoff.reset()
