"""Queues a host's reports until its agent acknowledges them: numbered, bounded, resent.

The queue keeps only the newest ``heartbeating`` or ``stopped`` of an instance, because an older
state no longer matters. A full queue drops the verdicts of votes and notices last: each belongs to
one window, so the oldest verdicts of a full queue belong to windows that ended long ago.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

import attrs

from hbtrio.wire.link_messages import LinkReport

_STATES: Final = frozenset({"heartbeating", "stopped"})
_VERDICTS: Final = frozenset({"vote", "notice"})


class ReportQueue:
    """Holds the reports that wait for their acknowledgement.

    Args:
        limit: the most reports to hold; at least 1.
    """

    def __init__(self, limit: int = 10_000) -> None:
        self._limit = limit
        self._waiting: OrderedDict[int, LinkReport] = OrderedDict()
        self._states: dict[str, int] = {}
        self._next = 1
        #: Reports dropped because the queue was full.
        self.dropped = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, report: LinkReport) -> LinkReport:
        """Adds a report and returns it with its number; may drop another report."""
        numbered = attrs.evolve(report, number=self._next)
        self._next += 1
        if report.kind in _STATES:
            older = self._states.get(report.uuid)
            if older is not None:
                del self._waiting[older]
            self._states[report.uuid] = numbered.number
        self._waiting[numbered.number] = numbered
        if len(self._waiting) > self._limit:
            self._drop_one()
        return numbered

    def after(self, number: int, most: int) -> list[LinkReport]:
        """Returns the reports with numbers above ``number``, in order, at most ``most``."""
        found: list[LinkReport] = []
        for waiting in self._waiting.values():
            if waiting.number > number:
                found.append(waiting)
                if len(found) == most:
                    break
        return found

    def acknowledge(self, number: int) -> None:
        """Removes every report up to and including ``number``."""
        while self._waiting and next(iter(self._waiting)) <= number:
            _, report = self._waiting.popitem(last=False)
            if self._states.get(report.uuid) == report.number:
                del self._states[report.uuid]

    def _drop_one(self) -> None:
        number = next(
            (n for n, report in self._waiting.items() if report.kind not in _VERDICTS),
            next(iter(self._waiting)),
        )
        report = self._waiting.pop(number)
        if self._states.get(report.uuid) == number:
            del self._states[report.uuid]
        self.dropped += 1
