"""Makes, logs and distributes a host's reports, for operators and orchestrators."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import datetime
from enum import StrEnum
from typing import Final

import attrs
import msgspec

from hbtrio.log.subject import fields
from hbtrio.nursery.broadcast import Broadcast
from hbtrio.text import reason_after
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
    EXTENDED = "extended"
    OVERRIDDEN = "overridden"
    WITHDRAWN = "withdrawn"
    RESTART_EXPIRED = "restart-expired"
    PAUSED = "paused"
    ABSENT = "absent"
    UNWATCHED = "unwatched"
    CORRECTIVE = "corrective"
    NOT_ACTED = "not-acted"
    HOLD = "hold"
    HOLD_OVER = "hold-over"


#: Reports that may need an operator, logged above level info.
_LEVELS: Final = dict.fromkeys(
    (
        ReportKind.LOSS,
        ReportKind.UNHEALTHY,
        ReportKind.RESTART_EXPIRED,
        ReportKind.ABSENT,
        ReportKind.UNWATCHED,
        ReportKind.NOT_ACTED,
    ),
    logging.WARNING,
)


@attrs.frozen
class Report:
    """One report.

    Args:
        time: wall-clock time with its zone.
        kind: what it is about.
        uuid: the instance.
        reason: one line of text; may contain text from a tenant.
        name: the name the instance reported, printable and bounded; empty before its first init.
        event: for a vote or notice, its event.
        result: for a vote or notice, its result.
        corrective_action: for loss and ill health, the action that the guest requested; for
            ``corrective`` and ``not-acted``, the action that was run or not.
        command_id: for a vote or notice that an agent commanded, the id of its command.
        who: for a vote or notice, who requested it; for the host's operators only.
        state: libvirt's answer about the domain; empty without libvirt.
        outcome: for ``corrective``, how the command ended.
        cause: for ``not-acted``, the kind of reason.
        alarm: whether somebody has to see to it: hbtrio does nothing more about it.
    """

    time: datetime
    kind: ReportKind
    uuid: str
    reason: str
    name: str = ""
    event: Event | None = None
    result: VoteResult | None = None
    corrective_action: CorrectiveAction | None = None
    command_id: str = ""
    who: str = ""
    state: str = ""
    outcome: str = ""
    cause: str = ""
    alarm: bool = False

    def as_line(self) -> str:
        """Encodes the report as one line of JSON, without a newline."""
        return encode_line(event_line(self)).decode()


def event_line(report: Report) -> EventLine:
    """Converts a report to a line of the operator API and of the events file."""
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
        state=report.state,
        outcome=report.outcome,
        cause=report.cause,
        alarm=report.alarm,
    )


def asked_line(report: Report) -> EventLine:
    """Converts a report to a line of the operator API's stream, which names who asked."""
    return msgspec.structs.replace(event_line(report), who=report.who)


class Reports(Broadcast[Report]):
    """Sends each report to the log, to the listeners and to every follower.

    Args:
        now: the wall clock with its zone; a simulation passes in its own.
    """

    def __init__(self, now: Callable[[], datetime]) -> None:
        super().__init__()
        self.now = now

    def publish(self, item: Report) -> None:
        """Logs a report and sends it out. Never blocks: a follower with a full queue is cut off."""
        words = " ".join(word for word in (item.kind, item.event, item.result) if word)
        reason = f": {reason_after(words, item.reason)}" if item.reason else ""
        level = logging.CRITICAL if item.alarm else _LEVELS.get(item.kind, logging.INFO)
        alarm = " ALARM:" if item.alarm else ""
        _log.log(
            level,
            "%s%s %s%s",
            item.uuid,
            alarm,
            words,
            reason,
            extra=fields(item.kind, name=item.name),
        )
        super().publish(item)
