"""Alarms that are held back: what waits for them, what joins them, and what survives."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from datetime import UTC, datetime

import pytest

from hbtrio.fsm.delivery import OutboxKind, OutboxState
from hbtrio.store.held_alarms import Held, HoldRecord
from hbtrio.store.migration import migrate
from hbtrio.store.outbox import ALARMS_PER_INSTANCE
from hbtrio.store.records import HistoryEntry, NewEntry
from hbtrio.store.schema import MIGRATIONS
from hbtrio.store.store import Store
from support.store_cases import opened_at

HOST, OTHER = "compute-0", "compute-1"
T0 = datetime(2025, 1, 1, tzinfo=UTC)
HOLD = HoldRecord(HOST, T0, "3 of 3 instances failed at once")
ENTRY = HistoryEntry(T0, "host-alarm", "", HOST, HOLD.reason)
OVER = HistoryEntry(T0, "host-alarm-over", "", HOST, "an operator released them")


@pytest.fixture
async def store(place: str) -> AsyncIterator[Store]:
    async with opened_at(place, lambda: T0) as store:
        yield store


def alarm(uuid: str, body: str = "", *, hostname: str = HOST, held: bool = False) -> NewEntry:
    return NewEntry(OutboxKind.ALARM, uuid, body or uuid, hostname=hostname, held=held)


async def due(store: Store) -> list[str]:
    return [entry.body for entry in (await store.ready(100)).entries]


async def states(store: Store) -> dict[str, str]:
    return {entry.body: entry.state.value for entry in await store.outbox()}


async def test_a_held_alarm_waits_and_nothing_behind_it_does(store: Store) -> None:
    await store.queue(
        [
            alarm("a", held=True),
            NewEntry(OutboxKind.SERVICE, "a", "state"),
            NewEntry(OutboxKind.ACTION, "b", "verdict", "c1"),
        ]
    )
    assert await due(store) == ["verdict", "state"]
    assert (await store.ready(100)).waiting == 2
    assert await store.held.let_go(HOST, ["a", "b"]) == 1
    # In its old place: before the state that it brought about.
    assert await due(store) == ["verdict", "a"]
    assert (await store.ready(100)).waiting == 3


async def test_while_a_host_is_held_its_alarms_join(store: Store) -> None:
    await store.queue([alarm("a"), alarm("b", hostname=OTHER), alarm("c")])
    [sent] = [one for one in (await store.ready(100)).entries if one.uuid == "c"]
    assert await store.mark_sending(sent.id)
    await store.held.hold(HOLD, ENTRY)
    await store.queue([alarm("d"), NewEntry(OutboxKind.SERVICE, "d", "state", hostname=HOST)])
    # One that was being sent, and was not taken, joins them too.
    assert (await states(store))["c"] == "sending"
    await store.back_to_queue(sent.id, "reset")
    assert await states(store) == {
        "a": "held",
        "b": "queued",
        "c": "held",
        "d": "held",
        "state": "queued",
    }
    assert await store.held.of(HOST) == frozenset("acd")
    assert await store.held.end_hold(HOST, ["a", "c"], OVER) == 2
    assert await store.held.of(HOST) == frozenset("d")
    await store.queue([alarm("e")])
    assert (await states(store))["e"] == "queued"


async def test_what_was_being_sent_when_the_agent_ended_joins_too(store: Store) -> None:
    await store.queue([alarm("a")])
    [sent] = (await store.ready(1)).entries
    await store.mark_sending(sent.id)
    await store.held.hold(HOLD, ENTRY)
    await store.settle_interrupted()
    assert await states(store) == {"a": "held"}


async def test_what_is_withdrawn_is_told_of_in_the_history(store: Store) -> None:
    await store.queue([alarm("a", "one", held=True), alarm("a", "two", held=True), alarm("b")])
    withdrawn = await store.held.withdraw(HOST, ["a", "b"], "instance recovered")
    assert [(one.body, one.state, one.done_at) for one in withdrawn] == [
        ("one", OutboxState.UNDELIVERED, T0),
        ("two", OutboxState.UNDELIVERED, T0),
    ]
    kept = [(one.entry.kind, one.entry.uuid, one.entry.reason) for one in await store.history()]
    assert kept == [("undelivered", "a", "alarm: instance recovered")] * 2
    assert await store.held.withdraw(HOST, ["a"], "again") == ()
    assert await store.held.withdraw(OTHER, ["b"], "not of that host") == ()


async def test_all_of_it_survives(place: str) -> None:
    async with opened_at(place, lambda: T0) as store:
        await store.held.hold(HOLD, ENTRY)
        await store.queue([alarm("a"), alarm("a", "again"), alarm("b", hostname=OTHER, held=True)])
    async with opened_at(place, lambda: T0) as store:
        expected = Held((HOLD,), {HOST: frozenset("a"), OTHER: frozenset("b")})
        assert await store.held.all() == expected
        assert [one.entry for one in await store.history()] == [ENTRY]
        # A host is held once; the newer reason is the one that is kept.
        newer = HoldRecord(HOST, T0, "its link dropped")
        await store.held.hold(newer, ENTRY)
        assert (await store.held.all()).holds == (newer,)


async def test_held_alarms_of_an_instance_are_bounded(store: Store) -> None:
    count = ALARMS_PER_INSTANCE + 1
    await store.queue([alarm("a", f"{n}", held=True) for n in range(count)])
    found = await states(store)
    assert found["0"] == "undelivered"
    assert list(found.values()).count("held") == ALARMS_PER_INSTANCE


def test_a_store_from_before_there_were_holds(path: str) -> None:
    db = sqlite3.connect(path, isolation_level=None)
    migrate(db, MIGRATIONS[:1])
    db.execute(
        "INSERT INTO outbox (kind, place, uuid, command_id, body, state, queued_at)"
        " VALUES ('alarm', 1, 'a', '', 'body', 'queued', 0.0)"
    )
    migrate(db, MIGRATIONS)
    assert db.execute("SELECT hostname, state FROM outbox").fetchall() == [("", "queued")]
    assert db.execute("SELECT count(*) FROM holds").fetchall() == [(0,)]
    db.close()
