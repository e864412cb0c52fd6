"""Limits the requests to the VIM that are in progress, and backs off after failures.

If the VIM can't be reached, nothing is sent for a while and then one entry is tried for all, so a
thousand entries don't overload a VIM that is starting. If one request fails although the VIM can be
reached, only its instance waits.

A verdict doesn't wait for either, because its window is limited. Some slots are reserved for
verdicts, and a state or alarm that hangs doesn't delay the verdict of its own instance. Nor do
verdicts that hang: a VIM that stalls for a moment reads all that are written when it goes on.
"""

from __future__ import annotations

import math
from collections.abc import Set
from enum import Enum
from typing import Final

import attrs

from hbtrio.policy.backoff import Backoff
from hbtrio.policy.vim_pace import LEAST, VimPace
from hbtrio.wire.vim_result import ErrorStatus, MissingAnswer, NotSent, SendResult, Unconfirmed

#: Requests beside those that the pace allows, for verdicts alone: a state or alarm may hang for as
#: long as a vote's whole window. And the most requests in progress at first.
FOR_VERDICTS: Final = 2
SLOTS: Final = LEAST + FOR_VERDICTS

#: The most requests in progress if verdicts hang, which then take no slot.
MOST: Final = 64

#: A request in progress for this many seconds hangs, so no other verdict waits for it, except that
#: verdicts of one instance never pass each other. A healthy VIM answers within milliseconds; the
#: verdict of a silent guest has 0.25 s.
_HANGS_S: Final = 0.1

#: The backoff of an instance is dropped this many seconds after its last wait ended.
_FORGET_S: Final = 300.0


class Reach(Enum):
    """How a result changed whether the VIM can be reached."""

    UNCHANGED = "as before"
    GAINED = "the VIM can be reached again"
    LOST = "the VIM can't be reached"


@attrs.frozen
class Turn:
    """Which requests may be started now.

    Args:
        limit: the most requests to start.
        others: the most of them that are not verdicts.
        busy: instances for which nothing may be sent.
        resting: instances for which only verdicts may be sent.
    """

    limit: int
    others: int
    busy: Set[str]
    resting: Set[str]


@attrs.frozen
class _UnderWay:
    """A request in progress: its start, and the count of failed tries when it started."""

    uuid: str
    is_verdict: bool
    since: float
    spell: int


@attrs.define
class _Rest:
    """The backoff of an instance whose last request failed although the VIM could be reached."""

    until: float = -math.inf
    backoff: Backoff = attrs.field(factory=Backoff)


class VimAttempts:
    """Tracks the requests in progress and whether the VIM can be reached.

    All times are in seconds on the caller's clock.

    Args:
        most: the most states and alarms in progress, see :class:`~hbtrio.policy.vim_pace.VimPace`.
    """

    def __init__(self, most: int = LEAST) -> None:
        self._pace = VimPace(most)
        #: Whether the last request reached the VIM.
        self.reachable = True
        #: When the VIM became reachable again or this process went on after a stop, or -inf.
        self.reachable_since = -math.inf
        #: By entry: one per instance, or a verdict beside a state or alarm that hangs.
        self._under_way: dict[int, _UnderWay] = {}
        self._rests: dict[str, _Rest] = {}
        # The wait for a VIM that can't be reached. Only attempts that started after the previous
        # failure lengthen the wait: otherwise the eight that fail together would.
        self._backoff = Backoff()
        self._held_until = -math.inf
        self._spell = 0

    def __len__(self) -> int:
        """Returns how many requests are in progress."""
        return len(self._under_way)

    @property
    def rests(self) -> Set[str]:
        """The instances that wait after a failure, or did so not long ago."""
        return self._rests.keys()

    def begin(self, entry_id: int, uuid: str, *, is_verdict: bool, now: float) -> None:
        """Records the start of a request about this instance."""
        self._under_way[entry_id] = _UnderWay(uuid, is_verdict, now, self._spell)

    def learn(self, entry_id: int, result: SendResult, now: float) -> Reach:
        """Takes the result of a request and returns how the VIM's reachability changed."""
        was_reachable = self.reachable
        self._pace.ended(
            began=self._under_way[entry_id].since,
            now=now,
            failed=_has_failed(result),
            in_progress=len(self),
        )
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
        """Records the end of a request, once its result is stored."""
        del self._under_way[entry_id]

    def forget_all(self) -> None:
        """Drops all requests in progress, because their tasks were cancelled."""
        self._under_way.clear()

    def vim_spoke(self) -> bool:
        """Ends the wait because the VIM has just sent a request; returns whether there was one.

        Otherwise the verdict of the VIM's first vote after an outage could wait for up to a minute
        and come too late.
        """
        if not self.reachable:
            self._try_at_once()
        return not self.reachable

    def process_resumed(self, now: float) -> None:
        """Notes that this process has been stopped for long: the VIM could not be tried."""
        self.reachable_since = now

    def rest(self, uuid: str, now: float) -> None:
        """Makes the instance wait after the failure of a state or alarm."""
        rest = self._rests.setdefault(uuid, _Rest())
        rest.until = now + rest.backoff.next_delay_s()

    def end_rest(self, uuid: str) -> None:
        """Ends the instance's wait: its state or alarm was delivered or dropped."""
        self._rests.pop(uuid, None)

    def turn(self, now: float) -> Turn:
        """Returns which requests may be started now."""
        under_way = self._under_way.values()
        instances = {one.uuid for one in under_way}
        for uuid in [uuid for uuid, rest in self._rests.items() if rest.until < now - _FORGET_S]:
            if uuid not in instances:
                del self._rests[uuid]
        resting = {uuid for uuid, rest in self._rests.items() if rest.until > now}
        busy = {one.uuid for one in under_way if one.is_verdict or one.since + _HANGS_S > now}
        return Turn(*self._room(now), busy, resting | instances)

    def wait_s(self, now: float) -> float:
        """Returns for how many seconds :meth:`turn` stays the same if no request starts or ends."""
        changes = [self._held_until, *(rest.until for rest in self._rests.values())]
        changes += [one.since + _HANGS_S for one in self._under_way.values()]
        return min((at - now for at in changes if at > now), default=math.inf)

    def _room(self, now: float) -> tuple[int, int]:
        if self._held_until > now:
            return 0, 0
        # An unreachable VIM is tried with one entry, and with one verdict beside that entry: the
        # VIM may be back while the entry's connection attempt still hangs. Requests that hang
        # since before the outage may do so for 20 s more, so only tries of this spell count.
        if not self.reachable:
            tries = [one.is_verdict for one in self._under_way.values() if one.spell == self._spell]
            room = max(0, self._pace.most + FOR_VERDICTS + SLOTS - len(self))
            others = min(room, int(False not in tries))
            return min(room, others + int(True not in tries)), others
        others = sum(not one.is_verdict for one in self._under_way.values())
        hanging = sum(
            one.is_verdict and one.since + _HANGS_S <= now for one in self._under_way.values()
        )
        slots = self._pace.limit
        limit = max(0, min(slots + FOR_VERDICTS + hanging, MOST) - len(self))
        return limit, max(0, min(limit, slots - others))

    def _try_at_once(self) -> None:
        self._held_until = -math.inf
        self._backoff.reset()


def _has_failed(result: SendResult) -> bool:
    """Returns whether a VIM that is well would not have done this: it closes without an answer."""
    if isinstance(result, Unconfirmed):
        return result.silence is not MissingAnswer.CLOSED
    return isinstance(result, NotSent | ErrorStatus)
