"""What a host reports: one record per thing that an operator or orchestrator must know."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import datetime
from enum import StrEnum
from typing import Final

import attrs

from hbtrio.nursery.broadcast import Broadcast
from hbtrio.wire.operator import EventLine, encode_line
from hbtrio.wire.vocabulary import CorrectiveAction, Event, VoteResult

_log = logging.getLogger("hbtrio.reports")


class ReportKind(StrEnum):
    """What a report is about."""

    HEARTBEATING = "heartbeating"
    STOPPED = "stopped"
    LOSS = "loss"
    UNHEALTHY = "unhealthy"
    VOTE = "vote"
    NOTICE = "notice"
    RESTART_EXPIRED = "restart-expired"


#: What somebody may have to do something about.
_LEVELS: Final = dict.fromkeys(
    (ReportKind.LOSS, ReportKind.UNHEALTHY, ReportKind.RESTART_EXPIRED), logging.WARNING
)


@attrs.frozen
class Report:
    """One report.

    Args:
        time: wall-clock time with its zone.
        kind: what it is about.
        uuid: the instance.
        reason: one line for a person; may hold a tenant's words.
        name: what the instance calls itself, printable and bounded; empty if it has not said.
        event: for a vote or notice, its event.
        result: for a vote or notice, how it ended.
        corrective_action: for loss and ill health, what the guest asked for.
    """

    time: datetime
    kind: ReportKind
    uuid: str
    reason: str
    name: str = ""
    event: Event | None = None
    result: VoteResult | None = None
    corrective_action: CorrectiveAction | None = None
    #: For a vote or notice that an agent commanded, the id of its command.
    command_id: str = ""

    def as_line(self) -> str:
        """The report as one line of JSON, without its newline."""
        return encode_line(event_line(self)).decode()


def event_line(report: Report) -> EventLine:
    """A report as a line of the operator API and of the events file."""
    return EventLine(
        time=report.time.isoformat(timespec="milliseconds"),
        kind=report.kind,
        uuid=report.uuid,
        reason=report.reason,
        name=report.name,
        event=report.event or "",
        result=report.result or "",
        corrective_action=report.corrective_action or "",
        command_id=report.command_id,
    )


class Reports(Broadcast[Report]):
    """Takes reports and hands them to the log, to listeners and to every follower.

    Args:
        now: the wall clock with its zone; handed in for simulations.
    """

    def __init__(self, now: Callable[[], datetime]) -> None:
        super().__init__()
        self.now = now
        self._listeners: list[Callable[[Report], None]] = []

    def listen(self, listener: Callable[[Report], None]) -> None:
        """Calls ``listener`` with every report, in the task that makes it: it must not block."""
        self._listeners.append(listener)

    def publish(self, news: Report) -> None:
        """Records one report. It never blocks: a follower that does not read is cut off."""
        words = " ".join(word for word in (news.kind, news.event, news.result) if word)
        # The name at the end: it is a tenant's word, and must not look like the kind.
        reason = f": {news.reason}" if news.reason else ""
        name = f" ({news.name})" if news.name else ""
        level = _LEVELS.get(news.kind, logging.INFO)
        _log.log(level, "%s %s%s%s", news.uuid, words, reason, name)
        for listener in self._listeners:
            listener(news)
        super().publish(news)
