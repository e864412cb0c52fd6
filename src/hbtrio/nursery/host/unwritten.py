"""Collects what is to be stored of a host until it is written, within bounds.

What is given without a checkpoint between is one transaction: an action's row is stored with the
entries of the history that were recorded before it, and with its drain's place.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterable
from typing import Final, TypeVar

import attrs
import trio

from hbtrio.fsm.drain_records import DrainPlace, DrainRecord, StoredDrain
from hbtrio.store.host_records import (
    ActionRecord,
    CorrectiveRun,
    HoldRecord,
    KnownInstance,
    MemberRecord,
)
from hbtrio.store.host_store import Changes
from hbtrio.store.records import HistoryEntry

K = TypeVar("K")
V = TypeVar("V")

#: Of each kind, per write; but all that waits of actions and drains: each of them is stored whole.
AT_ONCE: Final = 1000

#: Of each kind, the most that may wait for a disk; a host has at most as many instances.
WAITING: Final = 100_000


@attrs.frozen
class Ended:
    """An action that has ended, its outcome, and whether that is written."""

    outcome: HistoryEntry
    written: trio.Event = attrs.field(factory=trio.Event)


@attrs.frozen
class Holding:
    """A hold, or with None its end, and whether that is written."""

    hold: HoldRecord | None
    written: trio.Event = attrs.field(factory=trio.Event)


@attrs.define(eq=False)
class Awaited:
    """Something whose storing is waited for.

    Args:
        tried: set once it is stored, or the disk has not taken it for now.
        is_written: whether it is stored.
    """

    tried: trio.Event = attrs.field(factory=trio.Event)
    is_written: bool = False

    def written(self) -> None:
        """Takes that it is stored."""
        self.is_written = True
        self.tried.set()


@attrs.frozen
class Stepped:
    """The step that an action is at."""

    record: ActionRecord
    awaited: Awaited = attrs.field(factory=Awaited)


@attrs.frozen
class Batch:
    """What one write stores; None stands for what is to be removed."""

    known: dict[str, KnownInstance | None]
    holds: dict[tuple[str, str], Holding]
    runs: list[CorrectiveRun]
    in_vain: list[str]
    members: dict[str, MemberRecord | None]
    ended: dict[str, Ended]
    history: list[HistoryEntry]
    drains: dict[str, DrainRecord]
    places: dict[tuple[str, int], DrainPlace]
    actions: dict[str, Stepped]
    begun: list[Awaited]

    @property
    def changes(self) -> Changes:
        """The batch, as the store takes it."""
        return Changes(
            known=tuple(one for one in self.known.values() if one is not None),
            forgotten=tuple(uuid for uuid, one in self.known.items() if one is None),
            runs=tuple(self.runs),
            in_vain=tuple(self.in_vain),
            held=tuple(one.hold for one in self.holds.values() if one.hold is not None),
            released=tuple(key for key, one in self.holds.items() if one.hold is None),
            members=tuple(one for one in self.members.values() if one is not None),
            departed=tuple(uuid for uuid, one in self.members.items() if one is None),
            ended=tuple((id_, one.outcome) for id_, one in self.ended.items()),
            history=tuple(self.history),
            drains=tuple(self.drains.values()),
            drain_places=tuple(self.places.values()),
            actions=tuple(one.record for one in self.actions.values()),
        )

    def written(self) -> None:
        """Lets those go on who wait for it."""
        for ended in self.ended.values():
            ended.written.set()
        for holding in self.holds.values():
            holding.written.set()
        for awaited in self._awaited:
            awaited.written()

    def failed(self) -> None:
        """Lets those go on who do not wait longer than for an attempt."""
        for awaited in self._awaited:
            awaited.tried.set()

    @property
    def _awaited(self) -> list[Awaited]:
        return [*self.begun, *(one.awaited for one in self.actions.values())]


class Unwritten:
    """What is to be stored; the oldest gives way if too much waits."""

    def __init__(self) -> None:
        #: Entries of the history that gave way.
        self.lost = 0
        self._known: OrderedDict[str, KnownInstance | None] = OrderedDict()
        #: What was put last of each instance, so that only changes are written.
        self._last: dict[str, KnownInstance] = {}
        self._holds: OrderedDict[tuple[str, str], Holding] = OrderedDict()
        self._runs: deque[CorrectiveRun] = deque(maxlen=WAITING)
        self._in_vain: deque[str] = deque(maxlen=WAITING)
        self._members: OrderedDict[str, MemberRecord | None] = OrderedDict()
        self._ended: OrderedDict[str, Ended] = OrderedDict()
        self._history: deque[HistoryEntry] = deque()
        self._drains: OrderedDict[str, DrainRecord] = OrderedDict()
        self._places: OrderedDict[tuple[str, int], DrainPlace] = OrderedDict()
        self._actions: OrderedDict[str, Stepped] = OrderedDict()
        self._begun: list[Awaited] = []

    def __bool__(self) -> bool:
        instances = (self._known, self._holds, self._members, self._runs, self._in_vain)
        drains = (self._drains, self._places)
        return any((*instances, self._ended, self._actions, self._history, *drains))

    @property
    def is_awaited(self) -> bool:
        """Whether somebody waits until it is tried to store something."""
        return bool(self._begun or self._actions)

    def know(self, known: KnownInstance) -> bool:
        """Takes what is known of an instance; returns whether it differs from the last time."""
        if self._last.get(known.uuid) == known:
            return False
        self._last[known.uuid] = known
        _put(self._known, known.uuid, known)
        return True

    def forget(self, uuid: str) -> None:
        """Takes the end of an instance."""
        self._last.pop(uuid, None)
        _put(self._known, uuid, None)

    def hold(self, kind: str, uuid: str, hold: HoldRecord | None) -> trio.Event:
        """Takes a hold, or with None its end; returns what is set once that is written.

        It is not set if another one replaces it before.
        """
        holding = Holding(hold)
        _put(self._holds, (kind, uuid), holding)
        return holding.written

    def member(self, uuid: str, member: MemberRecord | None) -> None:
        """Takes a member of groups, or with None that it is one no longer."""
        _put(self._members, uuid, member)

    def ran(self, run: CorrectiveRun) -> None:
        """Takes a corrective command that was run."""
        self._runs.append(run)

    def ran_in_vain(self, uuid: str) -> None:
        """Takes that the last command of an instance does not count."""
        for run in reversed(self._runs):
            if run.uuid == uuid:
                self._runs.remove(run)
                return
        self._in_vain.append(uuid)

    def step(self, action: ActionRecord) -> Awaited:
        """Takes an action that begins, or its next step.

        Returns what is waited for; of one that the next step replaces before, nothing is heard.
        """
        stepped = Stepped(action)
        _put(self._actions, action.id, stepped)
        return stepped.awaited

    def end(self, id_: str, outcome: HistoryEntry) -> trio.Event:
        """Takes the end of an action; returns what is set once it is written."""
        self._actions.pop(id_, None)
        ended = Ended(outcome)
        _put(self._ended, id_, ended)
        return ended.written

    def begin_drain(self, drain: StoredDrain) -> Awaited:
        """Takes a drain that begins; returns what is waited for."""
        self.drain(drain.record, drain.places)
        self._begun.append(Awaited())
        return self._begun[-1]

    def drain(self, record: DrainRecord | None, places: Iterable[DrainPlace]) -> None:
        """Takes a drain that has changed, if it has, and instances of it that have."""
        if record is not None:
            _put(self._drains, record.id, record)
        for place in places:
            _put(self._places, (place.drain, place.position), place)

    def record(self, entry: HistoryEntry) -> None:
        """Takes an entry of the history."""
        self._history.append(entry)
        if len(self._history) > WAITING:
            self._history.popleft()
            self.lost += 1

    def take(self) -> Batch:
        """Takes the oldest, to be written.

        Actions and drains come with the last of the history: what it has of them is never stored
        after them.
        """
        history = [self._history.popleft() for _ in range(min(AT_ONCE, len(self._history)))]
        most = 0 if self._history else WAITING
        begun = [] if self._history else self._begun
        if begun:
            self._begun = []
        return Batch(
            _taken(self._known),
            _taken(self._holds),
            [self._runs.popleft() for _ in range(min(AT_ONCE, len(self._runs)))],
            [self._in_vain.popleft() for _ in range(min(AT_ONCE, len(self._in_vain)))],
            _taken(self._members),
            _taken(self._ended, most),
            history,
            _taken(self._drains, most),
            _taken(self._places, most),
            _taken(self._actions, most),
            begun,
        )

    def put_back(self, batch: Batch) -> None:
        """Takes back what could not be written; what came meanwhile is newer."""
        self._known = OrderedDict(batch.known | self._known)
        self._holds = OrderedDict(batch.holds | self._holds)
        self._members = OrderedDict(batch.members | self._members)
        self._ended = OrderedDict(batch.ended | self._ended)
        actions = batch.actions | self._actions
        self._actions = OrderedDict(
            (id_, one) for id_, one in actions.items() if id_ not in self._ended
        )
        self._drains = OrderedDict(batch.drains | self._drains)
        self._places = OrderedDict(batch.places | self._places)
        runs = WAITING - len(self._runs)
        self._runs.extendleft(reversed(batch.runs[-runs:] if runs else []))
        self._in_vain.extendleft(reversed(batch.in_vain))
        fit = min(len(batch.history), WAITING - len(self._history))
        self.lost += len(batch.history) - fit
        self._history.extendleft(reversed(batch.history[len(batch.history) - fit :]))


def _put(waiting: OrderedDict[K, V], key: K, value: V) -> None:
    waiting[key] = value
    waiting.move_to_end(key)
    if len(waiting) > WAITING:
        waiting.popitem(last=False)


def _taken(waiting: OrderedDict[K, V], most: int = AT_ONCE) -> dict[K, V]:
    return dict(waiting.popitem(last=False) for _ in range(min(most, len(waiting))))
