"""What a host has reported and its agent has not acknowledged: numbered, bounded, replayed.

States are coalesced: of one instance only the newest of ``heartbeating`` and ``stopped`` waits,
since an older one says nothing that matters any more. A full queue gives way on everything else
before it drops a verdict of a vote or notice: there is at most one for each window, so that a queue
full of them holds none but those whose windows were over long ago.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

import attrs

from hbtrio.wire.link_messages import LinkReport

_STATES: Final = frozenset({"heartbeating", "stopped"})
_VERDICTS: Final = frozenset({"vote", "notice"})


class ReportQueue:
    """Reports waiting for their acknowledgement.

    Args:
        limit: how many may wait; at least 1.
    """

    def __init__(self, limit: int = 10_000) -> None:
        self._limit = limit
        self._waiting: OrderedDict[int, LinkReport] = OrderedDict()
        self._states: dict[str, int] = {}
        self._next = 1
        #: Reports that had to give way.
        self.dropped = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, report: LinkReport) -> LinkReport:
        """Takes a report, numbers it and returns it so."""
        numbered = attrs.evolve(report, number=self._next)
        self._next += 1
        if report.kind in _STATES:
            older = self._states.get(report.uuid)
            if older is not None:
                del self._waiting[older]
            self._states[report.uuid] = numbered.number
        self._waiting[numbered.number] = numbered
        if len(self._waiting) > self._limit:
            self._give_way()
        return numbered

    def after(self, number: int, most: int) -> list[LinkReport]:
        """The reports behind ``number``, in order, at most ``most`` of them."""
        found: list[LinkReport] = []
        for waiting in self._waiting.values():
            if waiting.number > number:
                found.append(waiting)
                if len(found) == most:
                    break
        return found

    def acknowledge(self, number: int) -> None:
        """Forgets every report up to ``number``."""
        while self._waiting and next(iter(self._waiting)) <= number:
            _, report = self._waiting.popitem(last=False)
            if self._states.get(report.uuid) == report.number:
                del self._states[report.uuid]

    def _give_way(self) -> None:
        number = next(
            (n for n, report in self._waiting.items() if report.kind not in _VERDICTS),
            next(iter(self._waiting)),
        )
        report = self._waiting.pop(number)
        if self._states.get(report.uuid) == number:
            del self._states[report.uuid]
        self.dropped += 1
