"""The store's file and thread: what a disk, another process, or an older version can do."""

from __future__ import annotations

import errno
import os
import sqlite3
import stat
import tempfile
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import attrs
import pytest
import trio
import trio.testing

from hbtrio.errors import ExitStatus, UserError
from hbtrio.store import schema
from hbtrio.store.database import open_database
from hbtrio.store.migration import migrate
from hbtrio.store.records import (
    HostRecord,
    InstanceRecord,
)
from hbtrio.store.schema import AGENT_SCHEMA, MIGRATIONS
from hbtrio.store.store import Store
from hbtrio.store.worker import (
    Job,
    StoreFault,
    StoreThread,
    open_store_thread,
    perform,
)
from support.store_cases import (
    T0,
    A,
    Clock,
    alarm,
    due,
    history,
)

# -- the file --------------------------------------------------------------------------------------


async def refusal(path: str) -> tuple[str, ExitStatus]:
    with pytest.raises(UserError) as caught:
        async with Store.open(path, Clock()):
            pass
    return str(caught.value), caught.value.status


def fill(path: str, data: bytes, mode: int = 0o600) -> None:
    Path(path).write_bytes(data)
    os.chmod(path, mode)


def damage(path: str) -> None:
    with open(path, "r+b") as file:
        file.seek(os.path.getsize(path) // 2 // 4096 * 4096)
        file.write(b"\xff" * 4096)


@contextmanager
def not_as_root() -> Iterator[None]:
    """Root passes every permission check, so become somebody else for a moment."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


async def test_nobody_else_can_read_the_file(path: str, clock: Clock) -> None:
    async with Store.open(path, clock) as store:
        await store.inventory.put_host(HostRecord("h1", "compute-0", True))
        folder = Path(path).parent
        modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in folder.iterdir()}
        assert modes == dict.fromkeys(
            ["agent.db", "agent.db-wal", "agent.db-shm", "agent.db.lock"], 0o600
        )


async def test_one_process_at_a_time(path: str, clock: Clock) -> None:
    async with Store.open(path, clock):
        assert await refusal(path) == (f"{path}: another agent has it open", ExitStatus.IN_USE)
    async with Store.open(path, clock):
        pass


async def test_unusable_places(tmp_path: Path) -> None:
    missing = str(tmp_path / "absent" / "agent.db")
    text = f"{missing}: its directory does not exist"
    assert await refusal(missing) == (text, ExitStatus.USAGE)
    (tmp_path / "folder").mkdir()
    assert (await refusal(str(tmp_path / "folder")))[1] is ExitStatus.USAGE
    (tmp_path / "link").symlink_to("victim")
    assert (await refusal(str(tmp_path / "link")))[1] is ExitStatus.USAGE
    assert not (tmp_path / "victim").exists()
    os.mkfifo(tmp_path / "fifo")
    fifo = str(tmp_path / "fifo")
    assert await refusal(fifo) == (f"{fifo}: not a regular file", ExitStatus.USAGE)


async def test_a_file_that_others_can_write_to(path: str) -> None:
    fill(path, b"", 0o620)
    assert await refusal(path) == (f"{path}: writable by group or others", ExitStatus.DENIED)


async def test_a_file_that_may_not_be_opened() -> None:
    with tempfile.TemporaryDirectory(prefix="hbt-") as folder:
        os.chmod(folder, 0o755)
        path = f"{folder}/agent.db"
        fill(path, b"", 0o000)
        with not_as_root():
            assert await refusal(path) == (f"{path}: permission denied", ExitStatus.DENIED)


async def test_files_that_are_no_store(path: str) -> None:
    fill(path, b"something else " * 1000)
    assert await refusal(path) == (f"{path}: file is not a database", ExitStatus.USAGE)
    os.unlink(path)
    with sqlite3.connect(path) as other:
        other.execute("CREATE TABLE mine (a)")
    other.close()
    os.chmod(path, 0o600)
    text = f"{path}: is a database of another program"
    assert await refusal(path) == (text, ExitStatus.USAGE)


async def test_a_damaged_file(path: str, clock: Clock) -> None:
    async with Store.open(path, clock) as store:
        for n in range(2000):
            await store.record(history(f"reason {n}" * 10))
    damage(path)
    text, status = await refusal(path)
    assert (text.startswith(f"{path}: "), status) == (True, ExitStatus.USAGE)


async def test_a_damaged_row(path: str, clock: Clock) -> None:
    """A word in a row, which SQLite does not check, is another one than was stored."""
    async with Store.open(path, clock) as store:
        await store.queue([alarm()])
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("UPDATE outbox SET kind = 'xlarm'")
    async with Store.open(path, clock) as store:
        with pytest.raises(StoreFault, match=r"^a damaged row: .*'xlarm'"):
            await store.outbox()


# -- versions --------------------------------------------------------------------------------------


def version_of(path: str) -> int:
    db = sqlite3.connect(path)
    try:
        (version,) = db.execute("PRAGMA user_version").fetchone()
    finally:
        db.close()
    return int(version)


async def test_a_newer_file_is_left_alone(path: str, clock: Clock) -> None:
    async with Store.open(path, clock):
        pass
    newer = len(MIGRATIONS) + 1
    with sqlite3.connect(path) as db:
        db.execute(f"PRAGMA user_version = {newer}")
    db.close()
    text = (
        f"{path}: schema version {newer} is newer than {newer - 1}:"
        " it was written by a newer hbtrio"
    )
    assert await refusal(path) == (text, ExitStatus.USAGE)
    assert version_of(path) == newer


async def test_an_older_file_is_brought_up(path: str, clock: Clock) -> None:
    async with Store.open(path, clock) as store:
        await store.inventory.put_host(HostRecord("h1", "compute-0", True))
    extra = ("ALTER TABLE hosts ADD COLUMN rack TEXT NOT NULL DEFAULT '?'",)
    newer = attrs.evolve(AGENT_SCHEMA, migrations=(*MIGRATIONS, extra))
    database = open_database(path, newer)
    assert database.db.execute("SELECT * FROM hosts").fetchall() == [("h1", "compute-0", 1, "?")]
    database.close()
    assert version_of(path) == len(MIGRATIONS) + 1


async def test_what_an_older_file_has_is_kept(path: str, clock: Clock) -> None:
    """A file from before the times of arrival, and before windows had a monotonic clock."""
    before = next(n for n, steps in enumerate(MIGRATIONS) if any("kept_at" in s for s in steps))
    db = sqlite3.connect(path, isolation_level=None)
    migrate(db, MIGRATIONS[:before])
    db.execute(f"PRAGMA application_id = {schema.APPLICATION_ID}")
    text = "INSERT INTO history VALUES (?, ?, 'loss', ?, 'compute-0', '', '', ?, '', 'reboot')"
    future = datetime.now(UTC) + timedelta(days=99)
    for number, at in enumerate((T0, future), 1):
        db.execute(text, (number, at.timestamp(), A, "gone"))
    db.execute(
        "INSERT INTO outbox (kind, place, uuid, command_id, body, expires_at, state, queued_at)"
        " VALUES ('action', 0, ?, 'c1', 'verdict c1', ?, 'queued', ?)",
        (A, T0.timestamp() + 8, T0.timestamp()),
    )
    db.close()
    os.chmod(path, 0o600)
    async with Store.open(path, clock) as store:
        assert [record.entry for record in await store.history()] == [
            history(at=future),
            history(),
        ]
        assert await due(store) == ["verdict c1"]
        clock.pass_s(8)
        assert await due(store) == []
        assert await store.prune(T0 + timedelta(1)) == 3
        # A clock that was ahead has not kept its entry for ever.
        assert await store.prune(datetime.now(UTC) + timedelta(1)) == 1


async def test_the_history_of_a_file_from_before_notes(path: str, clock: Clock) -> None:
    before = next(n for n, steps in enumerate(MIGRATIONS) if any(" note " in s for s in steps))
    db = sqlite3.connect(path, isolation_level=None)
    migrate(db, MIGRATIONS[:before])
    db.execute(f"PRAGMA application_id = {schema.APPLICATION_ID}")
    columns = "time, kind, uuid, hostname, event, result, reason, who, corrective_action, kept_at"
    at = T0.timestamp()
    old = (at, "vote", A, "compute-0", "stop", "error", "no link", "vim", "", at)
    db.execute(f"INSERT INTO history ({columns}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", old)
    db.close()
    os.chmod(path, 0o600)
    async with Store.open(path, clock) as store:
        [kept] = [record.entry for record in await store.history()]
        assert (kept.reason, kept.command_id, kept.note) == ("no link", "", "")
        # It is of no known command, so that nothing is noted on it.
        assert await store.note("compute-0", "", "later") is None
        new = attrs.evolve(kept, command_id="c1")
        await store.record(new)
        assert await store.note("compute-0", "c1", "later") == attrs.evolve(new, note="later")
    assert version_of(path) == len(MIGRATIONS)


def test_notes_are_found_without_reading_the_whole_history(path: str) -> None:
    database = open_database(path, AGENT_SCHEMA)
    query = "SELECT * FROM history WHERE command_id = ? AND command_id <> ''"
    plan = database.db.execute(f"EXPLAIN QUERY PLAN {query}", ("c1",)).fetchall()
    database.close()
    assert "USING INDEX history_command" in plan[0][3]


def test_a_step_that_fails_is_undone_whole(path: str) -> None:
    db = sqlite3.connect(path, isolation_level=None)
    steps = [("CREATE TABLE a (x)",), ("CREATE TABLE b (x)", "CREATE TABLE a (x)")]
    with pytest.raises(sqlite3.OperationalError):
        migrate(db, steps)
    tables = db.execute("SELECT name FROM sqlite_schema").fetchall()
    assert (tables, db.in_transaction) == ([("a",)], False)
    db.close()
    assert version_of(path) == 1


@pytest.fixture
async def store(path: str, clock: Clock) -> AsyncIterator[Store]:
    async with Store.open(path, clock) as store:
        yield store


# -- the thread ------------------------------------------------------------------------------------


def insert(text: str) -> Callable[[sqlite3.Connection], None]:
    def work(db: sqlite3.Connection) -> None:
        db.execute("INSERT INTO hosts VALUES (?, '', 0)", (text,))

    return work


def found(db: sqlite3.Connection) -> list[str]:
    return [uuid for (uuid,) in db.execute("SELECT uuid FROM hosts ORDER BY uuid")]


@attrs.define
class Gate:
    """Work that holds the thread until it is opened."""

    reached: threading.Event = attrs.field(factory=threading.Event)
    opened: threading.Event = attrs.field(factory=threading.Event)

    def __call__(self, db: sqlite3.Connection) -> None:
        self.reached.set()
        assert self.opened.wait(10)

    async def wait_reached(self) -> None:
        with trio.fail_after(10):
            await trio.to_thread.run_sync(self.reached.wait)


@asynccontextmanager
async def thread_of(path: str) -> AsyncIterator[StoreThread]:
    async with open_store_thread(lambda: open_database(path, AGENT_SCHEMA)) as thread:
        yield thread


async def test_a_cancelled_caller_does_not_undo_its_work(path: str) -> None:
    gate = Gate()
    async with thread_of(path) as thread, trio.open_nursery() as nursery:
        nursery.start_soon(thread.run, gate)
        await gate.wait_reached()
        with trio.CancelScope() as scope:
            scope.cancel()
            await thread.run(insert("never taken"))
        with trio.move_on_after(0.01) as scope:
            await thread.run(insert("taken"))
        assert scope.cancelled_caught
        gate.opened.set()
        assert await thread.run(found) == ["taken"]


@pytest.mark.parametrize("room", [1, 3, 1000])
async def test_work_is_done_in_the_order_in_which_it_was_asked_for(
    path: str, room: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hbtrio.store.worker._QUEUE", room)
    gate, order = Gate(), list[int]()
    async with thread_of(path) as thread, trio.open_nursery() as nursery:
        nursery.start_soon(thread.run, gate)
        await gate.wait_reached()
        for n in range(20):
            nursery.start_soon(thread.run, lambda _, n=n: order.append(n))
            await trio.testing.wait_all_tasks_blocked()
        gate.opened.set()
    assert order == list(range(20))


async def test_who_wakes_another_and_then_asks_is_served_first(path: str) -> None:
    order = list[str]()
    async with thread_of(path) as thread:
        for _ in range(50):
            news = trio.Event()

            async def look(news: trio.Event = news) -> None:
                await news.wait()
                await thread.run(lambda _: order.append("look"))

            async with trio.open_nursery() as nursery:
                nursery.start_soon(look)
                await trio.testing.wait_all_tasks_blocked()
                news.set()
                await thread.run(lambda _: order.append("ask"))
    assert order == ["ask", "look"] * 50


async def test_the_end_waits_for_what_is_queued(path: str) -> None:
    gate = Gate()
    with trio.CancelScope() as scope:
        async with thread_of(path) as thread, trio.open_nursery() as nursery:
            nursery.start_soon(thread.run, gate)
            for n in range(200):
                nursery.start_soon(thread.run, insert(f"{n:03}"))
            await gate.wait_reached()
            scope.cancel()
            gate.opened.set()
    assert scope.cancelled_caught
    with pytest.raises(trio.ClosedResourceError):
        await thread.run(found)
    async with thread_of(path) as thread:
        assert await thread.run(found) == [f"{n:03}" for n in range(200)]


async def test_work_of_a_burst_fails_alone(path: str) -> None:
    gate = Gate()
    faults: list[str] = []

    async with thread_of(path) as thread:

        async def put(text: str) -> None:
            try:
                await thread.run(insert(text))
            except sqlite3.IntegrityError:
                faults.append(text)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(thread.run, gate)
            await gate.wait_reached()
            for text in ["a", "b", "a", "c"]:
                nursery.start_soon(put, text)
            await trio.testing.wait_all_tasks_blocked()
            gate.opened.set()
        assert await thread.run(found) == ["a", "b", "c"]
        assert faults == ["a"]


async def test_a_burst_shares_its_commits(path: str) -> None:
    gate = Gate()
    commits: list[str] = []
    async with thread_of(path) as thread, trio.open_nursery() as nursery:

        def watch(db: sqlite3.Connection) -> None:
            db.set_trace_callback(lambda text: commits.append(text) if text == "COMMIT" else None)
            gate(db)

        nursery.start_soon(thread.run, watch)
        await gate.wait_reached()
        for n in range(128):
            nursery.start_soon(thread.run, insert(f"{n}"))
        await trio.testing.wait_all_tasks_blocked()
        gate.opened.set()
    # The gate's own, and two for the burst.
    assert len(commits) == 3


async def test_a_full_disk_changes_nothing_and_passes(path: str, clock: Clock) -> None:
    async with Store.open(path, clock) as store:
        await store.record(history("before"))
        limit = "PRAGMA max_page_count = {}"
        worker = store._worker
        await worker.run(lambda db: db.execute(limit.format(1)))
        with pytest.raises(StoreFault, match="full"):
            await store.take_report("compute-0", "boot", 1, history("x" * 100_000), [alarm()])
        await worker.run(lambda db: db.execute(limit.format(100_000)))
        assert await store.links.welcome("compute-0", "boot") == 0
        assert await store.take_report("compute-0", "boot", 1, history("after"))
        assert [record.entry.reason for record in await store.history()] == ["after", "before"]


def test_a_burst_on_a_full_disk(path: str) -> None:
    database = open_database(path, AGENT_SCHEMA)
    database.db.execute("PRAGMA max_page_count = 1")

    def big(db: sqlite3.Connection) -> None:
        insert("x" * 100_000)(db)

    jobs = [
        Job(insert("a")),
        Job(big),
        Job(insert("b")),
    ]
    perform(database.db, jobs)
    assert [type(job.error) for job in jobs] == [type(None), StoreFault, type(None)]
    assert found(database.db) == ["a", "b"]
    database.close()


async def test_a_commit_goes_to_the_log_and_is_not_synced(path: str) -> None:
    async with thread_of(path) as thread:
        found = await thread.run(
            lambda db: [
                db.execute(f"PRAGMA {name}").fetchone()[0]
                for name in ("journal_mode", "synchronous")
            ]
        )
        assert found == ["wal", 1]


@attrs.define
class Disk:
    """Stands for os.fdatasync: notes what it syncs, holds it, fails it once."""

    log: str
    synced: list[bytes] = attrs.field(factory=list)
    began: trio.Semaphore = attrs.field(factory=lambda: trio.Semaphore(0))
    may_end: threading.Semaphore = attrs.field(factory=lambda: threading.Semaphore(0))
    fault: OSError | None = None

    def __call__(self, number: int) -> None:
        assert os.path.samestat(os.fstat(number), os.stat(self.log))
        trio.from_thread.run_sync(self.began.release)
        assert self.may_end.acquire(timeout=10)
        fault, self.fault = self.fault, None
        if fault is not None:
            raise fault
        with open(self.log, "rb") as log:
            self.synced.append(log.read())


@pytest.fixture
def disk(path: str, monkeypatch: pytest.MonkeyPatch) -> Disk:
    disk = Disk(path + "-wal")
    monkeypatch.setattr("hbtrio.store.database.os.fdatasync", disk)
    return disk


async def test_a_sync_is_of_all_that_was_done_before(store: Store, disk: Disk) -> None:
    async with trio.open_nursery() as nursery:
        await store.record(history("the first"))
        nursery.start_soon(store.sync)
        await disk.began.acquire()
        # While it lasts nothing else stands still, ...
        await store.record(history("the second"))
        for _ in range(5):
            nursery.start_soon(store.sync)
        await trio.testing.wait_all_tasks_blocked()
        disk.may_end.release(2)
    # ... and those who came meanwhile had one more together.
    assert [b"the first" in log for log in disk.synced] == [True, True]
    assert b"the second" in disk.synced[1]


async def test_what_changes_the_inventory_waits_for_the_disk(store: Store, disk: Disk) -> None:
    host, instance = HostRecord("h1", "a host", True), InstanceRecord(A, "a host", True)
    for change in (
        lambda: store.inventory.put_host(host),
        lambda: store.inventory.put_instance(instance),
        lambda: store.inventory.delete_instance(A),
        lambda: store.inventory.delete_host("h1"),
    ):
        before = len(disk.synced)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(change)
            await disk.began.acquire()
            await trio.testing.wait_all_tasks_blocked()
            assert len(nursery.child_tasks) == 1
            disk.may_end.release()
        assert len(disk.synced) == before + 1


async def test_without_another_thread_the_stores_own_syncs(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def none_left(*_: object, **__: object) -> None:
        raise RuntimeError("can't start new thread")

    syncing = []
    monkeypatch.setattr(trio.to_thread, "run_sync", none_left)
    monkeypatch.setattr(os, "fdatasync", lambda _: syncing.append(threading.current_thread().name))
    await store.record(history("the first"))
    await store.sync()
    assert syncing == ["store"]
    assert not store.is_unsure


async def test_a_sync_that_failed_is_never_made_good(store: Store, disk: Disk) -> None:
    disk.may_end.release(9)
    disk.fault = OSError(errno.EIO, "Input/output error")
    text = "the disk failed to sync: input/output error"
    with pytest.raises(StoreFault, match=text):
        await store.sync()
    with pytest.raises(StoreFault, match=text):
        await store.sync()
    with pytest.raises(StoreFault, match=text):
        await store.inventory.put_host(HostRecord("h1", "a host", True))
    # That something can be written says nothing of what was lost.
    await store.queue([alarm()])
    with trio.fail_after(5):
        await store.unsure()
    assert (store.is_unsure, store.fault) == (True, text)


async def test_a_sync_that_failed_when_nobody_waited_for_it(store: Store, disk: Disk) -> None:
    disk.fault = OSError(errno.EIO, "Input/output error")
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(store.sync)
            await disk.began.acquire()
            scope.cancel()
    disk.may_end.release(9)
    with pytest.raises(StoreFault, match="the disk failed to sync: input/output error"):
        await store.sync()


async def test_a_sync_that_nobody_waits_for(path: str, clock: Clock, disk: Disk) -> None:
    async with Store.open(path, clock) as store:
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(store.sync)
                await disk.began.acquire()
                scope.cancel()
        # It served nobody: who comes next has one of his own.
        disk.may_end.release(2)
        await store.sync()
        assert len(disk.synced) == 2
    with pytest.raises(trio.ClosedResourceError):
        await store.sync()
