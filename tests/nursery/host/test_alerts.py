"""Which events of a host are told to whoever is on call."""

from __future__ import annotations

from datetime import UTC, datetime

import attrs
import pytest

from hbtrio.nursery.host.alerts import HostAlerts
from hbtrio.nursery.host.reports import Report, ReportKind
from hbtrio.wire.alert import Alert, Severity

NOW = datetime(2026, 1, 1, tzinfo=UTC)


@attrs.define
class FakeNotifier:
    """Keeps what it is told."""

    told: list[Alert] = attrs.field(factory=list)
    ended: list[tuple[frozenset[str], Alert]] = attrs.field(factory=list)

    def tell(self, alert: Alert) -> None:
        self.told.append(alert)

    def over(self, kinds: tuple[str, ...], alert: Alert) -> None:
        self.ended.append((frozenset(map(str, kinds)), alert))


@pytest.fixture
def notifier() -> FakeNotifier:
    return FakeNotifier()


def report(notifier: FakeNotifier, kind: ReportKind, **members: object) -> None:
    one = Report(time=NOW, kind=kind, uuid="u1", reason="why", name="db", **members)  # type: ignore[arg-type]
    HostAlerts(notifier, "compute-0").report(one)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("kind", "members", "told", "severity"),
    [
        (ReportKind.LOSS, {"state": "shut off: failed"}, "loss", Severity.CRITICAL),
        (ReportKind.RESTART_EXPIRED, {}, "restart-expired", Severity.CRITICAL),
        (ReportKind.UNHEALTHY, {}, "unhealthy", Severity.WARNING),
        (ReportKind.ABSENT, {}, "absent", Severity.WARNING),
        (ReportKind.PAUSED, {"alarm": True}, "paused", Severity.CRITICAL),
        (ReportKind.NOT_ACTED, {"cause": "limit"}, "limit", Severity.CRITICAL),
        (ReportKind.NOT_ACTED, {"cause": "down", "alarm": True}, "not-acted", Severity.CRITICAL),
        (ReportKind.CORRECTIVE, {"outcome": "failed"}, "corrective-failed", Severity.CRITICAL),
        (ReportKind.CORRECTIVE, {"outcome": "timed-out"}, "corrective-failed", Severity.CRITICAL),
        (ReportKind.CORRECTIVE, {"outcome": "not-started"}, "corrective-failed", Severity.CRITICAL),
    ],
)
def test_what_needs_a_person(
    notifier: FakeNotifier,
    kind: ReportKind,
    members: dict[str, object],
    told: str,
    severity: Severity,
) -> None:
    report(notifier, kind, **members)
    assert notifier.told == [
        Alert(
            kind=told,
            severity=severity,
            hostname="compute-0",
            uuid="u1",
            name="db",
            reason="why",
            state=str(members.get("state", "")),
        )
    ]


@pytest.mark.parametrize(
    ("kind", "members"),
    [
        (ReportKind.STOPPED, {}),
        (ReportKind.VOTE, {}),
        (ReportKind.NOTICE, {}),
        (ReportKind.PAUSED, {}),
        (ReportKind.NOT_ACTED, {"cause": "owner"}),
        (ReportKind.CORRECTIVE, {"outcome": "done"}),
        (ReportKind.CORRECTIVE, {"outcome": "dry-run"}),
    ],
)
def test_what_needs_nobody(
    notifier: FakeNotifier, kind: ReportKind, members: dict[str, object]
) -> None:
    report(notifier, kind, **members)
    assert (notifier.told, notifier.ended) == ([], [])


def test_a_closed_brake_is_of_the_host(notifier: FakeNotifier) -> None:
    report(notifier, ReportKind.NOT_ACTED, cause="brake")
    assert [(one.kind, one.uuid, one.key) for one in notifier.told] == [
        ("brake", "", ("brake", "compute-0"))
    ]


def test_a_return_ends_what_was_told(notifier: FakeNotifier) -> None:
    report(notifier, ReportKind.HEARTBEATING)
    ((kinds, alert),) = notifier.ended
    assert kinds == {"loss", "restart-expired", "absent", "unwatched", "unhealthy"}
    assert (alert.kind, alert.severity, alert.uuid) == ("recovered", Severity.INFO, "u1")


def test_a_certificate(notifier: FakeNotifier) -> None:
    HostAlerts(notifier, "compute-0").certificate("agent.certificate expires")  # type: ignore[arg-type]
    assert [(one.kind, one.hostname, one.reason) for one in notifier.told] == [
        ("certificate", "compute-0", "agent.certificate expires")
    ]
