"""Hears of what a delivery to the VIM has given up, and keeps it for a test."""

from __future__ import annotations

import attrs

from hbtrio.store.records import HistoryEntry


@attrs.frozen
class GivenUp:
    """What was given up: how the history has it; the states, and whether for good."""

    entries: list[HistoryEntry] = attrs.field(factory=list)
    states: list[tuple[str, bool]] = attrs.field(factory=list)

    def undelivered(self, entry: HistoryEntry) -> None:
        self.entries.append(entry)

    def state_given_up(self, uuid: str, *, for_good: bool) -> None:
        self.states.append((uuid, for_good))
