"""What a host reports about one instance."""

from __future__ import annotations

from collections.abc import Callable

from hbtrio.fsm.heartbeat.machine import Heartbeat
from hbtrio.nursery.host.reports import Report, ReportKind, Reports
from hbtrio.nursery.host.round import Round
from hbtrio.wire.vocabulary import CorrectiveAction, Event, VoteResult


class ChannelReports:
    """Makes the reports about an instance.

    Args:
        uuid: the instance.
        heartbeat: what it calls itself.
        reports: takes them.
        changed: called after each; must not block.
    """

    def __init__(
        self, uuid: str, heartbeat: Heartbeat, reports: Reports, changed: Callable[[], None]
    ) -> None:
        #: The newest, for status.
        self.last: Report | None = None
        self._uuid = uuid
        self._heartbeat = heartbeat
        self._reports = reports
        self._changed = changed

    def publish(
        self,
        kind: ReportKind,
        reason: str,
        *,
        event: Event | None = None,
        result: VoteResult | None = None,
        corrective_action: CorrectiveAction | None = None,
        command_id: str = "",
    ) -> None:
        """Makes and hands out a report; the arguments are those of :class:`Report`."""
        self.last = Report(
            time=self._reports.now(),
            kind=kind,
            uuid=self._uuid,
            name=self._heartbeat.profile.name,
            reason=reason,
            event=event,
            result=result,
            corrective_action=corrective_action,
            command_id=command_id,
        )
        self._reports.publish(self.last)
        self._changed()

    def publish_outcome(self, current: Round) -> None:
        """Reports how a vote or notice ended."""
        assert current.outcome is not None
        self.publish(
            ReportKind.VOTE if current.is_vote else ReportKind.NOTICE,
            current.outcome.reason,
            event=current.event,
            result=current.outcome.result,
            command_id=current.command_id,
        )
