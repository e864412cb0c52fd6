"""What is PostgreSQL's alone: who may open a database, what is lost with a connection, plans."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, NoReturn

import attrs
import psycopg
import pytest
import trio

from hbtrio.errors import ExitStatus, UserError
from hbtrio.store import delivery_order, outbox
from hbtrio.store.faults import StoreFault, StoreLost
from hbtrio.store.lease import Lease
from hbtrio.store.links import BOOTS
from hbtrio.store.migration import Schema
from hbtrio.store.postgres import _SESSION, PostgresDatabase, open_postgres
from hbtrio.store.postgres_connection import PostgresConnection
from hbtrio.store.postgres_schema import migrate
from hbtrio.store.schema import AGENT_SCHEMA
from hbtrio.store.sql import rows
from hbtrio.store.store import Store
from hbtrio.system.boot_clock import boot_clock
from support.postgres import Server, postgres_server
from support.store_cases import Clock, action, alarm, history, opened_at, service

PLACE = "postgresql:///postgres"


@pytest.fixture
def url(postgres: Server) -> str:
    return postgres.schema()


@pytest.fixture
async def store(url: str, clock: Clock) -> Any:
    async with opened_at(url, clock) as store:
        yield store


@pytest.fixture
def other(url: str) -> Iterator[psycopg.Connection[tuple[Any, ...]]]:
    """Another connection to the same tables."""
    with psycopg.connect(url, autocommit=True) as connection:
        yield connection


def opened(url: str, schema: Schema = AGENT_SCHEMA, agent: str = "one") -> PostgresDatabase:
    return open_postgres(url, schema, agent, Lease(boot_clock))


def refused(url: str, schema: Schema = AGENT_SCHEMA, agent: str = "one") -> tuple[str, ExitStatus]:
    with pytest.raises(UserError) as caught:
        opened(url, schema, agent).close()
    return str(caught.value), caught.value.status


# -- who may open it -------------------------------------------------------------------------------


async def test_one_agent_at_a_time(url: str, clock: Clock) -> None:
    async with opened_at(url, clock, "one"):
        fault = f"{PLACE}: agent one has it open"
        assert refused(url, agent="two") == (fault, ExitStatus.IN_USE)
    # Whoever ends gives up its lease: the next one need not wait for its end.
    async with opened_at(url, clock, "two"):
        assert refused(url, agent="one") == (f"{PLACE}: agent two has it open", ExitStatus.IN_USE)


def test_agents_open_it_one_after_the_other(
    url: str, other: psycopg.Connection[tuple[Any, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hbtrio.store.postgres._LOCK_MS", 1)
    key = "hashtextextended('hbtrio agent ' || current_schema(), 0)"
    other.execute(f"SELECT pg_advisory_lock({key})")
    assert refused(url) == (f"{PLACE}: another agent is just opening it", ExitStatus.IN_USE)
    other.execute(f"SELECT pg_advisory_unlock({key})")
    opened(url).close()


async def test_agents_of_other_schemas_do_not_disturb_each_other(
    postgres: Server, url: str, clock: Clock
) -> None:
    async with opened_at(url, clock) as one, opened_at(postgres.schema(), clock) as two:
        await one.record(history())
        assert await two.history() == ()


def test_a_database_of_another_program(
    url: str, other: psycopg.Connection[tuple[Any, ...]]
) -> None:
    other.execute("CREATE TABLE hosts (name text)")
    text, status = refused(url)
    assert (text.partition(": ")[2], status) == (
        "has tables of another program", ExitStatus.USAGE,
    )  # fmt: skip
    assert other.execute("SELECT count(*) FROM pg_tables WHERE tablename = 'hosts'").fetchall()


def test_a_newer_database_is_left_alone(
    url: str, other: psycopg.Connection[tuple[Any, ...]]
) -> None:
    opened(url).close()
    count = len(AGENT_SCHEMA.migrations)
    other.execute("UPDATE schema SET version = version + 1")
    text, status = refused(url)
    assert status is ExitStatus.USAGE
    assert f"schema version {count + 1} is newer than {count}" in text


async def test_an_older_database_is_brought_up(
    url: str, clock: Clock, other: psycopg.Connection[tuple[Any, ...]]
) -> None:
    older = attrs.evolve(AGENT_SCHEMA, migrations=AGENT_SCHEMA.migrations[:6])
    migrate(PostgresConnection(other), older)
    async with opened_at(url, clock) as store:
        await store.record(history())
        assert await store.members.all() == ()


def test_a_step_that_fails_is_undone_whole(
    url: str, other: psycopg.Connection[tuple[Any, ...]]
) -> None:
    steps = (("CREATE TABLE a (x TEXT)",), ("CREATE TABLE b (x TEXT)", "CREATE TABLE a (x TEXT)"))
    broken = attrs.evolve(AGENT_SCHEMA, migrations=steps, at_start=())
    text, status = refused(url, broken)
    assert ("already exists" in text, status) == (True, ExitStatus.USAGE)
    assert other.execute("SELECT version FROM schema").fetchall() == [(1,)]
    assert other.execute("SELECT to_regclass('b')").fetchall() == [(None,)]


@pytest.mark.parametrize(
    ("change", "status", "fault"),
    [
        (("/postgres?", "/nowhere?"), ExitStatus.UNREACHABLE, 'database "nowhere" does not exist'),
        (("hbtrio@", "nobody@"), ExitStatus.UNREACHABLE, 'role "nobody" does not exist'),
        (("host=", "host=/nowhere"), ExitStatus.UNREACHABLE, "No such file or directory"),
        (("host=", "no_such_option=1&host="), ExitStatus.USAGE, "no_such_option"),
    ],
)
def test_unusable_places(url: str, change: tuple[str, str], status: ExitStatus, fault: str) -> None:
    text, found = refused(url.replace(*change))
    assert (fault in text, found) == (True, status), text
    assert "\n" not in text


@pytest.mark.processes
def test_a_lone_server_is_warned_of(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    with postgres_server() as server:
        url = server.schema()
        opened(url).close()
        assert [record.message for record in caplog.records] == [
            f"store: {PLACE} has no synchronous standby (synchronous_standby_names): if another "
            "server takes its place, reports are lost and a verdict may be sent twice"
        ]
        caplog.clear()
        with psycopg.connect(url, autocommit=True) as other:
            other.execute("ALTER SYSTEM SET synchronous_standby_names = 'one'")
            other.execute("SELECT pg_reload_conf()")
            while other.execute("SHOW synchronous_standby_names").fetchall() != [("one",)]:
                pass
        # There is none: nobody may wait for it.
        local = _SESSION.replace("synchronous_commit = on", "synchronous_commit = local")
        monkeypatch.setattr("hbtrio.store.postgres._SESSION", local)
        entering = "SET synchronous_commit = local"
        monkeypatch.setattr("hbtrio.store.postgres._ENTERING", entering)
        opened(url).close()
        assert caplog.records == []


@pytest.mark.processes
def test_a_start_does_not_wait_for_ever_for_a_standby(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hbtrio.store.postgres._ENTER_S", 0.1)
    with postgres_server("synchronous_standby_names=one") as server:
        with psycopg.connect(server.url, autocommit=True) as other:
            other.execute("SET synchronous_commit = local; CREATE SCHEMA hung")
        text, status = refused(f"{server.url}&options=-csearch_path%3Dhung")
        assert status is ExitStatus.FAILED
        assert "the connection is lost" in text
        server.process.send_signal(signal.SIGQUIT)


# -- what is kept ----------------------------------------------------------------------------------


async def test_every_time_is_kept_exactly_and_every_text_is_compared_by_bytes(
    store: Store, other: psycopg.Connection[tuple[Any, ...]]
) -> None:
    found = other.execute(
        "SELECT table_name, column_name, data_type, collation_name FROM information_schema.columns"
        " WHERE table_schema = current_schema() AND table_name <> 'schema'"
    ).fetchall()
    assert {kind for _, _, kind, _ in found} == {
        "text",
        "bigint",
        "double precision",
        "timestamp with time zone",  # of leases: of the database's clock alone
    }
    assert {collation for _, _, kind, collation in found if kind == "text"} == {"C"}
    at = datetime(2025, 3, 1, 12, 0, 0, 123457, UTC)
    await store.record(history(at=at))
    [kept] = await store.history()
    assert kept.entry.time == at


async def test_a_text_with_a_nul(store: Store) -> None:
    """JSON may bring one, and PostgreSQL takes none."""
    await store.record(history("no\0thing"))
    [kept] = await store.history()
    assert kept.entry.reason == "no?thing"


async def test_only_a_few_processes_of_a_host_are_kept(
    store: Store, other: psycopg.Connection[tuple[Any, ...]]
) -> None:
    for boot in range(BOOTS + 2):
        await store.take_report("compute-0", f"boot {boot}", 1)
    assert other.execute("SELECT count(*) FROM links").fetchall() == [(BOOTS,)]


# -- what is lost ----------------------------------------------------------------------------------


async def test_a_lost_connection(store: Store, other: psycopg.Connection[tuple[Any, ...]]) -> None:
    """Whether what was being committed has been is unknown: the agent has to start anew."""
    [(pid,)] = await store._worker.run(lambda db: rows(db, "SELECT pg_backend_pid()"))
    other.execute("SELECT pg_terminate_backend(%s)", (pid,))
    for _ in range(2):
        with pytest.raises(StoreLost, match="the connection is lost"):
            await store.record(history())
    assert store.is_unsure
    assert "the connection is lost" in store.fault
    with trio.fail_after(5):
        await store.unsure()
    assert other.execute("SELECT count(*) FROM history").fetchall() == [(0,)]


async def test_a_lost_connection_that_syncs(
    store: Store, other: psycopg.Connection[tuple[Any, ...]]
) -> None:
    await store.sync()
    [(pid,)] = other.execute(
        "SELECT pid FROM pg_stat_activity WHERE query LIKE 'SELECT pg_logical_emit_message%'"
        " ORDER BY backend_start DESC LIMIT 1"
    ).fetchall()
    other.execute("SELECT pg_terminate_backend(%s)", (pid,))
    for _ in range(2):
        with pytest.raises(StoreFault, match="the database failed to sync: terminating connection"):
            await store.sync()
    assert store.is_unsure


async def test_a_server_that_has_become_a_standby(store: Store) -> None:
    worker = store._worker
    await worker.run(lambda db: db.execute("SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY"))
    with pytest.raises(StoreLost, match="the server takes no changes any more"):
        await store.record(history())
    assert store.is_unsure


async def test_a_fault_of_the_server_changes_nothing_and_passes(
    store: Store, other: psycopg.Connection[tuple[Any, ...]]
) -> None:
    await store._worker.run(lambda db: db.execute("SET lock_timeout = 1"))
    with other.transaction():
        other.execute("LOCK TABLE history")
        with pytest.raises(StoreFault, match="lock timeout"):
            await store.take_report("compute-0", "boot", 1, history(), [alarm()])
    assert not store.is_unsure
    assert await store.links.acknowledged("compute-0", "boot") == 0
    assert await store.take_report("compute-0", "boot", 1, history(), [alarm()])
    assert store.fault == ""


@pytest.mark.processes
async def test_a_wait_for_a_standby_that_was_cancelled_is_no_success(clock: Clock) -> None:
    with postgres_server() as server:
        url = server.schema()
        async with opened_at(url, clock) as store:
            with psycopg.connect(url, autocommit=True) as other:
                other.execute("ALTER SYSTEM SET synchronous_standby_names = 'nobody'")
                other.execute("SELECT pg_reload_conf()")
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(cancel_the_wait, other)
                    # What does not wait goes on.
                    await store.record(history())
                    with pytest.raises(StoreFault, match="canceling wait for synchronous"):
                        await sync_again_and_again(store)
                assert store.is_unsure
                other.execute("ALTER SYSTEM RESET synchronous_standby_names")
                other.execute("SELECT pg_reload_conf()")


async def sync_again_and_again(store: Store) -> NoReturn:
    """The setting takes effect when the server has read it."""
    while True:
        await store.sync()


async def cancel_the_wait(other: psycopg.Connection[tuple[Any, ...]]) -> None:
    text = (
        "SELECT pg_cancel_backend(pid) FROM pg_stat_activity"
        " WHERE wait_event = 'SyncRep' AND query LIKE 'SELECT pg_logical_emit_message%'"
    )
    with trio.fail_after(30):
        while not other.execute(text).fetchall():  # noqa: ASYNC110 - the server tells nobody
            await trio.sleep(0.01)


async def test_a_verdict_is_marked_on_the_disk_however_short_its_window_is(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another server is there within seconds."""
    synced = []
    sync = type(store._worker).sync

    async def counted(worker: Any) -> None:
        synced.append(1)
        await sync(worker)

    monkeypatch.setattr(type(store._worker), "sync", counted)
    await store.queue([alarm(), action("bbbb", within_s=1.0)])
    assert (await store.mark_sending(1), len(synced)) == (True, 0)
    assert (await store.mark_sending(2), len(synced)) == (True, 1)


# -- plans -----------------------------------------------------------------------------------------


async def test_what_is_next_is_found_by_indexes_whatever_the_server_believes(store: Store) -> None:
    """Of a table that it had seen empty it thought that reading it whole was cheap: 6 s."""
    said: list[str] = []

    def work(db: Any) -> None:
        db.execute("ANALYZE outbox")
        db.execute("ANALYZE rounds")
        outbox.queue(db, [service(f"u{n}", "x") for n in range(2000)], 0.0)
        found = db.execute(
            "EXPLAIN " + delivery_order._READY,
            {"busy": "[]", "resting": '["u1"]', "limit": 8, "others": 6},
        )
        said.extend(line for (line,) in found.fetchall())

    await store._worker.run(work)
    plan = "\n".join(said)
    assert "Index Scan using outbox_turn on outbox mine" in plan
    assert not [word for word in ("Seq Scan", "Sort", "Hash Join", "Bitmap") if word in plan], plan
