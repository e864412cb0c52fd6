"""Which entries of an agent's history are told to whoever is on call."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import pytest
import trio

from hbtrio.nursery.agent.alerts import AgentAlerts
from hbtrio.nursery.notifier import Notifier
from hbtrio.store.records import HistoryEntry
from hbtrio.wire.alert import Alert, Severity, Told

pytestmark = pytest.mark.usefixtures("autojump_clock")

NOW = datetime(2026, 1, 1, tzinfo=UTC)


class Kept:
    """Delivers into a list."""

    name = "command"

    def __init__(self) -> None:
        self.alerts: list[Alert] = []

    async def send(self, told: Told) -> None:
        await trio.lowlevel.checkpoint()
        self.alerts.append(told.alert)


@asynccontextmanager
async def alerting() -> AsyncIterator[tuple[AgentAlerts, Kept]]:
    kept, ids = Kept(), itertools.count()
    notifier = Notifier(
        [kept],
        per_minute=100,
        hostname="controller-0",
        wall_clock=lambda: NOW,
        new_id=lambda: str(next(ids)),
    )
    async with trio.open_nursery() as nursery:
        nursery.start_soon(notifier.run)
        yield AgentAlerts(notifier, "controller-0"), kept
        nursery.cancel_scope.cancel()


def entry(kind: str, uuid: str = "u1", hostname: str = "compute-0") -> HistoryEntry:
    return HistoryEntry(NOW, kind, uuid, hostname, "why")


@pytest.mark.parametrize(
    ("kind", "uuid", "severity"),
    [
        ("loss", "u1", Severity.CRITICAL),
        ("restart-expired", "u1", Severity.CRITICAL),
        ("unhealthy", "u1", Severity.WARNING),
        ("absent", "u1", Severity.WARNING),
        ("host-unreachable", "", Severity.CRITICAL),
        ("host-alarm", "", Severity.CRITICAL),
    ],
)
async def test_what_needs_a_person(kind: str, uuid: str, severity: Severity) -> None:
    async with alerting() as (alerts, kept):
        alerts.entry(entry(kind, uuid))
        await trio.sleep(1)
        assert kept.alerts == [
            Alert(kind=kind, severity=severity, hostname="compute-0", uuid=uuid, reason="why")
        ]


@pytest.mark.parametrize("kind", ["vote", "notice", "action", "stopped", "heartbeating", "paused"])
async def test_what_needs_nobody(kind: str) -> None:
    async with alerting() as (alerts, kept):
        alerts.entry(entry(kind))
        await trio.sleep(1)
        assert kept.alerts == []


async def test_hosts_are_told_apart() -> None:
    async with alerting() as (alerts, kept):
        for hostname in ("compute-0", "compute-1", "compute-0"):
            alerts.entry(entry("host-unreachable", "", hostname))
        await trio.sleep(1)
        assert [one.hostname for one in kept.alerts] == ["compute-0", "compute-1"]


async def test_a_return_ends_what_was_told() -> None:
    async with alerting() as (alerts, kept):
        for kind in ("loss", "heartbeating", "heartbeating", "loss"):
            alerts.entry(entry(kind))
        await trio.sleep(1)
        assert [one.kind for one in kept.alerts] == ["loss", "recovered", "loss"]


async def test_a_certificate_is_of_the_agent() -> None:
    async with alerting() as (alerts, kept):
        alerts.certificate("link.certificate expires")
        await trio.sleep(1)
        assert [(one.kind, one.hostname, one.reason) for one in kept.alerts] == [
            ("certificate", "controller-0", "link.certificate expires")
        ]
