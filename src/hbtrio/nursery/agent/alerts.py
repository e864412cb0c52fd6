"""Decides which entries of an agent's history need a person, and tells them to its notifier."""

from __future__ import annotations

from typing import Final

import attrs

from hbtrio.nursery.notifier import Notifier
from hbtrio.store.records import HistoryEntry
from hbtrio.wire.alert import Alert, Severity, certificate_alert

_SEVERITIES: Final = {
    "loss": Severity.CRITICAL,
    "restart-expired": Severity.CRITICAL,
    "host-unreachable": Severity.CRITICAL,
    "host-alarm": Severity.CRITICAL,
    "unhealthy": Severity.WARNING,
    "absent": Severity.WARNING,
}

#: What the return of an instance ends.
_ENDED_BY_RETURN: Final = ("loss", "restart-expired", "absent", "unhealthy")


@attrs.frozen
class AgentAlerts:
    """Follows the history of an agent.

    Args:
        notifier: tells whoever is on call.
        hostname: the agent's own name, for what is about no host.
    """

    notifier: Notifier
    hostname: str

    def entry(self, entry: HistoryEntry) -> None:
        """Handles an entry of the history. Never blocks."""
        if entry.kind == "heartbeating":
            recovered = self._alert("recovered", Severity.INFO, entry)
            self.notifier.over(_ENDED_BY_RETURN, recovered)
        elif severity := _SEVERITIES.get(entry.kind):
            self.notifier.tell(self._alert(entry.kind, severity, entry))

    def certificate(self, text: str) -> None:
        """Handles the warning that a certificate expires."""
        self.notifier.tell(certificate_alert(self.hostname, text))

    def _alert(self, kind: str, severity: Severity, entry: HistoryEntry) -> Alert:
        return Alert(
            kind=kind,
            severity=severity,
            hostname=entry.hostname,
            # Of a host there is one alert of each kind at a time, as of an instance.
            uuid=entry.uuid,
            reason=entry.reason,
        )
