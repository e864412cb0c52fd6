"""Whoever waits for a store that has failed is woken when it works again, and tries in turn."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from hbtrio.store.records import HistoryEntry
from hbtrio.store.recovery import TRY_S
from hbtrio.store.retry import retry_forever
from hbtrio.store.sql import Connection
from hbtrio.store.store import Store
from hbtrio.store.worker import StoreFault
from support.inline_store import EPOCH, InlineWorker, inline_store

pytestmark = pytest.mark.usefixtures("autojump_clock")


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[tuple[Store, InlineWorker]]:
    with inline_store(tmp_path) as opened:
        yield opened


class Writers:
    """Tasks that each write an entry, and retry it; when each attempt was made."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.tried: list[tuple[float, str]] = []
        self.written: list[tuple[float, str]] = []

    async def write(self, name: str) -> None:
        async def step() -> None:
            self.tried.append((trio.current_time(), name))
            await self._store.record(HistoryEntry(EPOCH, "test", "u", "h", name))

        await retry_forever(step)
        self.written.append((trio.current_time(), name))


async def test_all_are_woken_by_the_first_write_that_succeeds(
    opened: tuple[Store, InlineWorker],
) -> None:
    store, worker = opened
    writers = Writers(store)
    worker.fault = "disk full"
    async with trio.open_nursery() as nursery:
        for number in range(20):
            nursery.start_soon(writers.write, f"w{number}")
        await trio.sleep(300.5)
        worker.fault = ""
        await trio.sleep(0.1)
        # It is nobody's turn yet, and a part that has waited for nothing writes.
        assert writers.written == []
        await store.record(HistoryEntry(EPOCH, "test", "u", "h", "another"))
        await trio.sleep(0.1)
        assert len(writers.written) == 20
    assert {at_s for at_s, _ in writers.written} == {300.6}


async def test_they_try_in_turn_each_second_however_many_they_are(
    opened: tuple[Store, InlineWorker],
) -> None:
    store, worker = opened
    writers = Writers(store)
    worker.fault = "disk full"
    async with trio.open_nursery() as nursery:
        for number in range(5):
            nursery.start_soon(writers.write, f"w{number}")
            await trio.testing.wait_all_tasks_blocked()
        await trio.sleep(100.5)
        tried = writers.tried[5:]
        assert [at_s for at_s, _ in tried] == [TRY_S * n for n in range(1, 101)]
        assert [name for _, name in tried] == [f"w{n % 5}" for n in range(100)]
        worker.fault = ""
    # The disk was well in the middle of a second; the one whose turn was next has found out.
    assert {at_s for at_s, _ in writers.written} == {101.0}


async def test_one_whose_row_is_damaged_keeps_nobody_waiting(
    opened: tuple[Store, InlineWorker], caplog: pytest.LogCaptureFixture
) -> None:
    store, worker = opened
    writers, damaged = Writers(store), 0

    async def fails() -> None:
        def work(db: Connection) -> None:
            nonlocal damaged
            damaged += 1
            raise StoreFault("a damaged row")

        await store._worker.run(work)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(retry_forever, fails)
        await trio.sleep(0.5)
        worker.fault = "disk full"
        nursery.start_soon(writers.write, "w")
        await trio.sleep(100)
        worker.fault = ""
        await trio.sleep(2 * TRY_S)
        assert writers.written == [(102.0, "w")]
        damaged = 0
        await trio.sleep(3600)
        nursery.cancel_scope.cancel()
    assert damaged == 3600
    lines = [record.getMessage() for record in caplog.records if "damaged" in record.getMessage()]
    assert 60 <= len(lines) <= 75
    assert {record.levelno for record in caplog.records} == {logging.ERROR}


async def test_one_who_is_cancelled_leaves_its_turn_to_the_next(
    opened: tuple[Store, InlineWorker],
) -> None:
    store, worker = opened
    writers = Writers(store)
    worker.fault = "disk full"
    async with trio.open_nursery() as nursery:
        with trio.move_on_after(0.5):
            await writers.write("first")
        nursery.start_soon(writers.write, "second")
        await trio.sleep(0.1)
        worker.fault = ""
    assert writers.written == [(1.5, "second")]
