"""Observes what a host reports, in the place of its events file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NoReturn

import trio

from hbtrio.nursery.host.reports import Report, ReportKind, Reports
from hbtrio.simulate.askers import Said
from hbtrio.simulate.histories import DRAIN, OVERRIDDEN, FindRequest
from hbtrio.simulate.observations import Decided, Reported
from hbtrio.simulate.places import Stage
from hbtrio.simulate.process import Process


class ObservedEvents:
    """Implements :class:`~hbtrio.nursery.host.events_file.EventsSink`.

    Args:
        stage: what all parts use.
        host: the host's name.
        process: its daemon: of a killed one nothing is observed.
        names: the instances' names by uuid.
        find: finds requests.
    """

    target = "-"
    fault = None

    def __init__(
        self,
        stage: Stage,
        host: str,
        process: Process,
        names: Mapping[str, str],
        find: Callable[[], FindRequest],
    ) -> None:
        self._stage = stage
        self._host = host
        self._process = process
        self._names = names
        self._find = find

    async def run(self, reports: Reports, *, task_status: trio.TaskStatus[None]) -> NoReturn:
        """Observes every report until cancelled."""
        reports.listen(self._see)
        task_status.started()
        await trio.sleep_forever()
        raise AssertionError("it sleeps until it is cancelled")

    async def reopen(self) -> None:
        """Does nothing: there is no file."""

    async def look(self) -> str | None:
        """Says that there is nothing to look at."""
        await trio.lowlevel.checkpoint()
        return None

    def _see(self, report: Report) -> None:
        if not self._process.alive:
            return
        now = self._stage.timeline.now
        if report.kind in (ReportKind.VOTE, ReportKind.NOTICE):
            is_vote, time_s = report.kind is ReportKind.VOTE, report.time.timestamp()
            about = report.uuid, report.event or "", is_vote
            request = self._find()(Said(*about, time_s, report.who, report.command_id))
            if request and not report.who.startswith(DRAIN):
                overridden = report.reason.startswith(OVERRIDDEN)
                result = report.result or ""
                self._stage.observe(Decided(now, self._host, request, result, overridden))
            return
        name = self._names.get(report.uuid, report.uuid)
        self._stage.observe(Reported(now, self._host, name, report.kind, report.cause))
