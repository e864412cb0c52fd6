"""Publishes the history of an agent, and counts what its hosts' events say, for its metrics."""

from __future__ import annotations

from collections import Counter

from hbtrio.nursery.broadcast import Broadcast
from hbtrio.policy.more_time import seconds_of
from hbtrio.store.records import HistoryEntry
from hbtrio.wire.vocabulary import EVENT_TABLE, Event


class CountedHistory(Broadcast[HistoryEntry]):
    """The entries that the agent has taken since its start, each once."""

    def __init__(self) -> None:
        super().__init__()
        #: Rejects of actions that did not stand, by event.
        self.overridden: Counter[Event] = Counter()
        #: By how many seconds windows were extended, by event.
        self.extended_s: Counter[Event] = Counter()
        self.listen(self._count)

    def _count(self, entry: HistoryEntry) -> None:
        if entry.event not in EVENT_TABLE:
            return
        event = Event(entry.event)
        if entry.kind == "overridden":
            self.overridden[event] += 1
        elif entry.kind == "extended":
            self.extended_s[event] += seconds_of(entry.reason)
