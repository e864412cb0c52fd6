"""Leases: who is fenced, at which point, and what is not committed then."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import attrs
import psycopg
import pytest
import trio

from hbtrio.errors import ExitStatus, UserError
from hbtrio.fsm.delivery import OutboxState
from hbtrio.store import outbox
from hbtrio.store.faults import StoreFault, StoreFenced, StoreLost
from hbtrio.store.jobs import Job, perform
from hbtrio.store.lease import LEASE_S, MARGIN_S, Lease, LeaseKeeper
from hbtrio.store.postgres import PostgresDatabase, open_postgres
from hbtrio.store.postgres_agents import renew
from hbtrio.store.postgres_connection import PostgresConnection
from hbtrio.store.schema import AGENT_SCHEMA
from hbtrio.store.sql import Connection, changed, rows
from hbtrio.system.boot_clock import boot_clock
from support.postgres import Server
from support.store_cases import Clock, action, bodies, history, opened_at

RECORD = (
    "INSERT INTO members (uuid, name, hostname) VALUES (?, '', '')"
    " ON CONFLICT (uuid) DO UPDATE SET name = 'again'"
)


@pytest.fixture
def url(postgres: Server) -> str:
    return postgres.schema()


@pytest.fixture
def one(url: str) -> Iterator[PostgresDatabase]:
    with closing(open_postgres(url, AGENT_SCHEMA, "one", Lease(boot_clock))) as database:
        yield database


@pytest.fixture
def other(url: str) -> Iterator[psycopg.Connection[tuple[Any, ...]]]:
    with psycopg.connect(url, autocommit=True) as connection:
        yield connection


def write(uuid: str) -> Callable[[Connection], int]:
    return lambda db: changed(db, RECORD, uuid)


def members(connection: psycopg.Connection[tuple[Any, ...]]) -> list[str]:
    return [uuid for (uuid,) in connection.execute("SELECT uuid FROM members ORDER BY uuid")]


def done(database: PostgresDatabase, *works: Callable[[Connection], Any]) -> list[Any]:
    """What each job returned, or its error."""
    jobs = [Job(work) for work in works]
    perform(database.db, jobs)
    return [job.error or job.result for job in jobs]


def expire(connection: psycopg.Connection[tuple[Any, ...]]) -> None:
    connection.execute("UPDATE agents SET lease_until = clock_timestamp() - interval '1 s'")


# -- the fence -------------------------------------------------------------------------------------


def test_who_has_no_lease_any_more_commits_nothing(
    one: PostgresDatabase, other: psycopg.Connection[tuple[Any, ...]]
) -> None:
    assert done(one, write("a")) == [1]
    expire(other)
    assert [type(fault) for fault in done(one, write("b"), write("c"))] == [StoreFenced] * 2
    assert members(other) == ["a"]
    # It may still read.
    assert done(one, lambda db: rows(db, "SELECT count(*) FROM members")) == [[(1,)]]


def test_who_was_taken_over_commits_nothing(
    one: PostgresDatabase, other: psycopg.Connection[tuple[Any, ...]], url: str
) -> None:
    expire(other)
    with closing(open_postgres(url, AGENT_SCHEMA, "two", Lease(boot_clock))) as two:
        assert [type(fault) for fault in done(one, write("old"))] == [StoreFenced]
        assert done(two, write("new")) == [1]
        assert members(other) == ["new"]
        assert not renew(one.db, "one", 1)
        # Not even while the one that took over has none itself.
        expire(other)
        assert [type(fault) for fault in done(one, write("old"))] == [StoreFenced]


def test_a_takeover_between_a_write_and_its_commit(
    one: PostgresDatabase, other: psycopg.Connection[tuple[Any, ...]], url: str
) -> None:
    def work(db: Connection) -> None:
        write("old")(db)
        expire(other)
        open_postgres(url, AGENT_SCHEMA, "two", Lease(boot_clock)).close()

    assert [type(fault) for fault in done(one, work)] == [StoreFenced]
    assert members(other) == []


def test_of_two_with_one_name_the_older_one_is_fenced(
    one: PostgresDatabase, other: psycopg.Connection[tuple[Any, ...]], url: str
) -> None:
    with closing(open_postgres(url, AGENT_SCHEMA, "one", Lease(boot_clock))) as newer:
        assert [type(fault) for fault in done(one, write("old"))] == [StoreFenced]
        assert done(newer, write("new")) == [1]
    # Its end is not that of the newer one, whose lease it can't end.
    assert members(other) == ["new"]


def test_the_end_of_a_fenced_agent_ends_no_lease_of_another(
    url: str, other: psycopg.Connection[tuple[Any, ...]]
) -> None:
    older = open_postgres(url, AGENT_SCHEMA, "one", Lease(boot_clock))
    with closing(open_postgres(url, AGENT_SCHEMA, "one", Lease(boot_clock))) as newer:
        older.close()
        assert done(newer, write("a")) == [1]


def test_a_takeover_waits_for_a_commit_under_way_and_not_for_an_open_transaction(
    one: PostgresDatabase, other: psycopg.Connection[tuple[Any, ...]], url: str
) -> None:
    """The check locks the agent's row; before it, only the rows that it has written."""
    expire(other)

    def work(db: Connection) -> None:
        write("old")(db)
        # Without the wait of any lock.
        other.execute("SET lock_timeout = 1")
        other.execute("UPDATE agents SET epoch = epoch + 1")

    assert [type(fault) for fault in done(one, work)] == [StoreFenced]
    other.execute("UPDATE agents SET lease_until = clock_timestamp() + interval '1 h'")
    one.db.execute("BEGIN")
    one.db.execute("SELECT fence_1('one', 2)")
    with pytest.raises(psycopg.errors.LockNotAvailable):
        other.execute("UPDATE agents SET epoch = epoch + 1")
    # A renewal does not wait for it.
    assert renew(PostgresConnection(other), "one", 2)
    one.db.rollback()


# -- as the agent counts it ------------------------------------------------------------------------


@attrs.define
class BootClock:
    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


def test_it_is_counted_from_before_it_was_asked_for() -> None:
    clock = BootClock()
    lease = Lease(clock)
    assert isinstance(lease.fault(), StoreFenced)
    lease = Lease(clock)
    asked_at = lease.now()
    clock.now += 2
    lease.renewed(asked_at)
    clock.now = asked_at + LEASE_S - MARGIN_S - 0.001
    assert lease.fault() is None
    clock.now = asked_at + LEASE_S - MARGIN_S
    assert isinstance(lease.fault(), StoreFenced)
    # Whatever it did meanwhile may have been undone by another one: it is over for good.
    lease.renewed(clock.now)
    assert isinstance(lease.fault(), StoreFenced)


@pytest.mark.parametrize("kind", [StoreLost, StoreFenced])
def test_a_renewal_that_fails_ends_it(kind: type[StoreLost]) -> None:
    clock, told, faults = BootClock(), list[int](), list[StoreLost]()
    lease = Lease(clock)
    lease.renewed(clock.now)
    lease.on_lost = lambda: told.append(1)

    def renew_it() -> None:
        clock.now += 1
        for fault in faults:
            raise fault

    keeper = LeaseKeeper(lease, renew_it)
    keeper.end()
    assert keeper.step()
    assert lease.fault() is None
    faults.append(kind("gone"))
    assert not keeper.step()
    assert (type(lease.fault()), told) == (kind, [1])


async def test_it_is_renewed_by_a_thread_of_its_own(
    url: str, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hbtrio.store.lease.RENEW_S", 0.0)
    renewed = threading.Event()
    names = []

    def watched(db: Connection, agent: str, epoch: int) -> bool:
        is_renewed = renew(db, agent, epoch)
        names.append((threading.current_thread().name, agent, is_renewed))
        renewed.set()
        return is_renewed

    monkeypatch.setattr("hbtrio.store.postgres_agents.renew", watched)
    async with opened_at(url, clock, "one"):
        with trio.fail_after(30):
            assert await trio.to_thread.run_sync(renewed.wait, 20)
    assert names[0] == ("lease", "one", True)


# -- the store of a fenced agent -------------------------------------------------------------------


async def test_a_store_that_is_fenced_says_so_at_once(
    url: str,
    clock: Clock,
    other: psycopg.Connection[tuple[Any, ...]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("hbtrio.store.lease.RENEW_S", 0.01)
    async with opened_at(url, clock, "one") as store:
        assert (store.is_unsure, store.is_fenced) == (False, False)
        other.execute("UPDATE agents SET epoch = epoch + 1")
        with trio.fail_after(30):
            await store.unsure()
        assert (store.is_fenced, store.fault) == (True, "another agent has taken over")
        with pytest.raises(StoreFenced):
            await store.record(history())
        with pytest.raises(StoreFenced):
            await store.history()
    assert other.execute("SELECT count(*) FROM history").fetchall() == [(0,)]


async def test_nothing_is_sent_past_the_lease_as_it_is_counted(
    url: str, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever was stopped after the commit finds its lease over, whatever the database says."""
    now = BootClock()
    monkeypatch.setattr("support.store_cases.boot_clock", now)
    async with opened_at(url, clock, "one") as store:
        await store.queue([action(), action("bbbb", "c2")])
        assert await store.mark_sending(1)
        sync = store._worker._worker.sync

        async def stopped() -> None:
            await sync()
            now.now += LEASE_S

        monkeypatch.setattr(store._worker._worker, "sync", stopped)
        with pytest.raises(StoreFenced):
            await store.mark_sending(2)
        assert store.is_fenced
        with pytest.raises(StoreFault):
            await store.ready(8)
    now.now += 1
    async with opened_at(url, clock, "two") as store:
        await store.settle_interrupted()
        assert await bodies(store) == [
            ("verdict c1", "unconfirmed"),
            ("verdict c2", "unconfirmed"),
        ]
        assert [one.state for one in await store.outbox()] == [OutboxState.UNCONFIRMED] * 2


def test_what_is_refused_at_the_start_takes_no_lease(
    one: PostgresDatabase, other: psycopg.Connection[tuple[Any, ...]], url: str
) -> None:
    before = other.execute("SELECT name, epoch FROM agents").fetchall()
    with pytest.raises(UserError) as caught:
        open_postgres(url, AGENT_SCHEMA, "two", Lease(boot_clock))
    assert caught.value.status is ExitStatus.IN_USE
    assert other.execute("SELECT name, epoch FROM agents").fetchall() == before
    assert done(one, write("a"), lambda db: outbox.entries(db, 1)) == [1, ()]
