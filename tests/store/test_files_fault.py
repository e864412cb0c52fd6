"""What a store says of its files after they were deleted, moved, replaced or made read-only."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trio

from hbtrio.store.database import Database, open_database
from hbtrio.store.schema import AGENT_SCHEMA
from hbtrio.store.store import Store
from support.inline_store import wall_clock

LOST = "what is stored from now on is lost at the agent's next start"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "store").mkdir()
    return tmp_path / "store"


@pytest.fixture
def database(folder: Path) -> Iterator[Database]:
    opened = open_database(str(folder / "agent.db"), AGENT_SCHEMA)
    yield opened
    opened.close()


def replace(path: Path) -> None:
    fresh = path.with_name("fresh")
    fresh.write_bytes(path.read_bytes())
    fresh.rename(path)


def test_untouched_files(database: Database) -> None:
    database.db.execute("CREATE TABLE x (a)")
    database.db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    database.db.execute("VACUUM")
    assert database.files_fault() == ""


@pytest.mark.parametrize("suffix", ["", "-wal", "-shm"])
@pytest.mark.parametrize(
    ("change", "word"),
    [
        (Path.unlink, "deleted or moved"),
        (replace, "replaced by another file"),
        (lambda path: path.rename(path.with_name("aside")), "deleted or moved"),
    ],
)
def test_a_file(
    database: Database, folder: Path, suffix: str, change: Callable[[Path], object], word: str
) -> None:
    path = folder / f"agent.db{suffix}"
    change(path)
    assert database.files_fault() == f"{path} was {word}: {LOST}"
    # It goes on all the same, in the file that is open.
    database.db.execute("CREATE TABLE x (a)")
    assert database.db.execute("SELECT count(*) FROM x").fetchone() == (0,)
    database.sync()


def test_its_directory(database: Database, folder: Path) -> None:
    folder.rename(folder.with_name("elsewhere"))
    assert database.files_fault() == f"{folder}/agent.db was deleted or moved: {LOST}"
    folder.with_name("elsewhere").rename(folder)
    assert database.files_fault() == ""


@pytest.mark.parametrize("change", [Path.unlink, replace])
def test_its_lock(database: Database, folder: Path, change: Callable[[Path], object]) -> None:
    change(folder / "agent.db.lock")
    fault = database.files_fault()
    assert fault.startswith(f"{folder}/agent.db.lock was ")
    assert fault.endswith(": nothing keeps a second agent from opening the store")


def test_its_file_system(database: Database, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = os.statvfs(folder)
    flags = found.f_flag | os.ST_RDONLY
    read_only = os.statvfs_result((*found[:8], flags, *found[9:]))
    monkeypatch.setattr(os, "statvfs", lambda _: read_only)
    assert database.files_fault() == f"{folder}/agent.db: its file system has become read-only"


async def test_through_the_stores_thread(folder: Path) -> None:
    async with Store.open(str(folder / "agent.db"), wall_clock) as store:
        assert await store.files_fault() == ""
        (folder / "agent.db").unlink()
        assert "was deleted or moved" in await store.files_fault()


async def test_a_look_that_fails(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: object) -> Any:
        raise OSError(5, "Input/output error")

    async with Store.open(str(folder / "agent.db"), wall_clock) as store:
        monkeypatch.setattr(os, "statvfs", fail)
        assert await store.files_fault() == "its files can't be looked at: input/output error"


async def test_the_last_look_counts_while_no_thread_can_be_started(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: object, **__: object) -> Any:
        raise RuntimeError("can't start new thread")

    path = folder / "agent.db"
    async with Store.open(str(path), wall_clock) as store:
        for change in (lambda: None, path.unlink):
            with monkeypatch.context() as patch:
                patch.setattr(trio.to_thread, "run_sync", fail)
                change()
                assert await store.files_fault() == ""
        fault = await store.files_fault()
        assert "was deleted or moved" in fault
        with monkeypatch.context() as patch:
            patch.setattr(trio.to_thread, "run_sync", fail)
            assert await store.files_fault() == fault
