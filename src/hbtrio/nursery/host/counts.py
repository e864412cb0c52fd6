"""Counts what happens on a host, for its metrics; the counts begin with the daemon."""

from __future__ import annotations

from collections import Counter

from hbtrio.nursery.host.reports import Report, ReportKind
from hbtrio.policy.histogram import Histogram
from hbtrio.system.runner import ProcessRunner
from hbtrio.wire.vocabulary import Event, WindowKind


class HostCounts:
    """What a host's channels, rounds and corrections have come to so far.

    Labels are words of closed lists, so their number is bounded.

    Args:
        processes: runs the host's commands, and counts the restarts of its reaper.
    """

    def __init__(self, processes: ProcessRunner) -> None:
        self.processes = processes
        #: From each challenge to its answer.
        self.round_trips = Histogram()
        #: Challenges that were not answered in time.
        self.misses = 0
        #: Reports by kind.
        self.reports: Counter[ReportKind] = Counter()
        #: Votes and notices, by kind, event and result.
        self.rounds: Counter[tuple[str, str, str]] = Counter()
        #: Rejects of actions that were overridden, by event.
        self.overridden: Counter[Event] = Counter()
        #: By how many seconds windows were extended, by their kind.
        self.extended_s: Counter[WindowKind] = Counter()
        #: Corrective commands, by action and outcome.
        self.corrective: Counter[tuple[str, str]] = Counter()
        #: Corrective commands that were not run, by cause.
        self.not_acted: Counter[str] = Counter()

    def report(self, report: Report) -> None:
        """Counts a report."""
        self.reports[report.kind] += 1
        match report.kind:
            case ReportKind.VOTE | ReportKind.NOTICE:
                self.rounds[report.kind, report.event or "", report.result or ""] += 1
            case ReportKind.CORRECTIVE:
                self.corrective[report.corrective_action or "", report.outcome] += 1
            case ReportKind.NOT_ACTED:
                self.not_acted[report.cause] += 1
