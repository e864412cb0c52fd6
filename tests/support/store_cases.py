"""What the tests of store share."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime, timedelta
from typing import Any

import attrs

from hbtrio.fsm.delivery import OutboxKind
from hbtrio.store.places import open_store
from hbtrio.store.records import (
    HistoryEntry,
    NewEntry,
    RoundRecord,
)
from hbtrio.store.store import Store
from hbtrio.system.boot_clock import boot_clock
from hbtrio.wire.vocabulary import CorrectiveAction, Event

T0 = datetime(2025, 3, 1, 12, tzinfo=UTC)


A, B, C = "aaaa", "bbbb", "cccc"


@attrs.define
class Clock:
    now: datetime = T0

    def __call__(self) -> datetime:
        return self.now

    def pass_s(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


def opened_at(
    place: str, clock: Callable[[], datetime], agent: str = "agent"
) -> AbstractAsyncContextManager[Store]:
    """A store in a file or a database."""
    return open_store(place, clock, agent=agent, clock=boot_clock)


def service(uuid: str = A, body: str = "state") -> NewEntry:
    return NewEntry(OutboxKind.SERVICE, uuid, body)


def alarm(uuid: str = A, body: str = "alarm") -> NewEntry:
    return NewEntry(OutboxKind.ALARM, uuid, body)


def action(uuid: str = A, command_id: str = "c1", within_s: float = 8.0) -> NewEntry:
    return NewEntry(
        OutboxKind.ACTION, uuid, f"verdict {command_id}", command_id, T0 + timedelta(0, within_s)
    )


def a_round(command_id: str = "c1", uuid: str = A) -> RoundRecord:
    return RoundRecord(
        command_id, uuid, "compute-0", Event.STOP, True, "vim", T0, 8.0, boot_id="boot-1"
    )


def history(reason: str = "gone", uuid: str = A, at: datetime = T0) -> HistoryEntry:
    return HistoryEntry(
        at, "loss", uuid, "compute-0", reason, corrective_action=CorrectiveAction.REBOOT
    )


async def bodies(store: Store) -> list[tuple[str, str]]:
    return [(entry.body, entry.state.value) for entry in reversed(await store.outbox())]


async def due(store: Store, limit: int = 8, **how: Any) -> list[str]:
    return [entry.body for entry in (await store.ready(limit, **how)).entries]


async def ids(store: Store) -> dict[str, int]:
    return {entry.body: entry.id for entry in await store.outbox()}
