"""What the tests of ctl share."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from hbtrio.cli import main
from hbtrio.errors import ExitStatus, UserError
from hbtrio.nursery.host.reports import Report, ReportKind
from hbtrio.wire.channel_messages import ActionNotify
from hbtrio.wire.vocabulary import Event
from support.control_socket import Served, call, served
from support.host_world import (
    VOTE,
    HostWorld,
    Reply,
    ScriptedGuest,
    host_world,
    uuid_of,
)

ONE = uuid_of(1)


#: What `notify` says of a VM that was told that it stops.
STOPS = (
    "missed heartbeats are ignored for now; if nothing is done to the instance, run "
    "`hbtrio ctl notify {} {}`, or wait {} minutes while it keeps answering"
)


@asynccontextmanager
async def serving(**world: Any) -> AsyncIterator[tuple[HostWorld, Served]]:
    async with host_world(**world) as host, served(host.host) as api:
        yield host, api


async def fault_of(path: str, *words: str) -> tuple[str, ExitStatus]:
    with pytest.raises(UserError) as caught:
        await call(path, *words)
    assert "\n" not in str(caught.value)
    return str(caught.value), caught.value.status


def asked(guest: ScriptedGuest) -> list[tuple[Any, Event]]:
    return [
        (one.notification_type, one.event_type)
        for one in guest.messages
        if isinstance(one, ActionNotify)
    ]


def answer(**by_type: Reply | None) -> Callable[[ActionNotify], Reply | None]:
    return lambda one: by_type["vote" if one.notification_type is VOTE else "notice"]


def publish(world: HostWorld, count: int, first: int = 0, uuid: str = ONE) -> None:
    for number in range(first, first + count):
        reports = world.host.reports
        reports.publish(Report(reports.now(), ReportKind.STOPPED, uuid, f"number {number}"))


def shown(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    status = main(["ctl", *words])
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    return status, err.rstrip("\n")
