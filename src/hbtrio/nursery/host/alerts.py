"""Decides which reports of a host need a person, and tells them to its notifier."""

from __future__ import annotations

from typing import Final

import attrs

from hbtrio.fsm.corrective import Cause
from hbtrio.nursery.file_watch import FileWatch
from hbtrio.nursery.host.reports import Report, ReportKind, Reports
from hbtrio.nursery.notifier import Notifier
from hbtrio.wire.alert import Alert, Severity, certificate_alert

#: What the return of an instance ends.
_ENDED_BY_RETURN: Final = (
    ReportKind.LOSS,
    ReportKind.RESTART_EXPIRED,
    ReportKind.ABSENT,
    ReportKind.UNWATCHED,
    ReportKind.UNHEALTHY,
)

_SEVERITIES: Final = {
    ReportKind.LOSS: Severity.CRITICAL,
    ReportKind.RESTART_EXPIRED: Severity.CRITICAL,
    ReportKind.UNHEALTHY: Severity.WARNING,
    ReportKind.ABSENT: Severity.WARNING,
}

#: How a corrective command ends that has not helped.
_FAILED: Final = frozenset({"failed", "timed-out", "not-started"})


@attrs.frozen
class HostAlerts:
    """Listens to the reports of a host.

    Args:
        notifier: tells whoever is on call.
        hostname: the host.
    """

    notifier: Notifier
    hostname: str

    def listen(self, reports: Reports, files: FileWatch) -> None:
        """Listens to reports, and to warnings about certificates."""
        reports.listen(self.report)
        files.on_warning = self.certificate

    def report(self, report: Report) -> None:
        """Handles a report. Never blocks."""
        if report.kind is ReportKind.HEARTBEATING:
            recovered = self._alert("recovered", Severity.INFO, report)
            self.notifier.over(_ENDED_BY_RETURN, recovered)
        elif (found := self._found(report)) is not None:
            self.notifier.tell(found)

    def certificate(self, text: str) -> None:
        """Handles the warning that a certificate expires."""
        self.notifier.tell(certificate_alert(self.hostname, text))

    def _found(self, report: Report) -> Alert | None:
        match report.kind, report.cause:
            case ReportKind.NOT_ACTED, Cause.BRAKE:
                # One for the host, not one for each of its instances.
                return Alert(
                    kind="brake",
                    severity=Severity.CRITICAL,
                    hostname=self.hostname,
                    reason=report.reason,
                )
            case ReportKind.NOT_ACTED, Cause.LIMIT:
                return self._alert("limit", Severity.CRITICAL, report)
        if report.kind is ReportKind.CORRECTIVE and report.outcome in _FAILED:
            return self._alert("corrective-failed", Severity.CRITICAL, report)
        if severity := _SEVERITIES.get(report.kind):
            return self._alert(report.kind, severity, report)
        return self._alert(report.kind, Severity.CRITICAL, report) if report.alarm else None

    def _alert(self, kind: str, severity: Severity, report: Report) -> Alert:
        return Alert(
            kind=kind,
            severity=severity,
            hostname=self.hostname,
            uuid=report.uuid,
            name=report.name,
            reason=report.reason,
            state=report.state,
        )
