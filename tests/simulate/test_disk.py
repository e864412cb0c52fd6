from __future__ import annotations

import sqlite3
from collections.abc import Awaitable, Callable
from functools import partial

import pytest
import trio

from hbtrio.simulate.disk import Disk, SimulatedWorker
from hbtrio.simulate.process import Process
from hbtrio.store.jobs import StoreFault
from support.simulation import Simulation

INSERT = "INSERT INTO item VALUES (?)"


class Store:
    """A disk with one table, and processes that use it."""

    def __init__(self) -> None:
        self.simulation = Simulation()
        self.timeline = self.simulation.timeline
        self.disk = Disk(self.timeline)
        self.disk.db.execute("CREATE TABLE item (number)")
        self.disk.synced(self.disk.image())
        self.processes: list[Process] = []

    def start(
        self, main: Callable[[SimulatedWorker], Awaitable[object]], name: str = "agent"
    ) -> Process:
        process = self.simulation.process(name)
        worker = SimulatedWorker(process, self.timeline, self.disk)

        async def run() -> None:
            await main(worker)
            await trio.sleep_forever()

        process.start(run)
        self.processes.append(process)
        return process

    def run(self, until: float) -> None:
        self.simulation.run(until)
        for process in self.processes:
            if process.error is not None:
                raise process.error

    @property
    def items(self) -> list[int]:
        return [number for (number,) in self.disk.db.execute("SELECT number FROM item")]


async def insert(worker: SimulatedWorker, number: int) -> None:
    await worker.run(lambda db: db.execute(INSERT, (number,)))


def test_work_is_done_in_order_and_returns_its_result() -> None:
    store = Store()
    results: list[int] = []

    async def main(worker: SimulatedWorker) -> None:
        async with trio.open_nursery() as nursery:
            for number in range(200):
                nursery.start_soon(insert, worker, number)
        count = "SELECT count(*) FROM item"
        results.append(await worker.run(lambda db: db.execute(count).fetchone()[0]))

    store.start(main)
    store.run(1.0)
    assert results == [200]
    assert sorted(store.items) == list(range(200))


def test_work_that_fails_changes_nothing_else() -> None:
    store = Store()
    faults: list[str] = []

    async def fail(worker: SimulatedWorker) -> None:
        with pytest.raises(StoreFault) as caught:
            await worker.run(lambda db: db.execute("INSERT INTO missing VALUES (1)"))
        faults.append(str(caught.value))

    async def main(worker: SimulatedWorker) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(insert, worker, 1)
            nursery.start_soon(fail, worker)
            nursery.start_soon(insert, worker, 2)

    store.start(main)
    store.run(1.0)
    assert faults == ["no such table: missing"]
    assert sorted(store.items) == [1, 2]


def test_a_transaction_has_64_pieces_of_work_at_most() -> None:
    store = Store()
    begun: list[str] = []
    store.disk.db.set_trace_callback(lambda text: begun.append(text) if "BEGIN" in text else None)
    store.disk.stall(1.0)

    async def main(worker: SimulatedWorker) -> None:
        async with trio.open_nursery() as nursery:
            for number in range(130):
                nursery.start_soon(insert, worker, number)

    store.start(main)
    store.run(2.0)
    assert len(store.items) == 130
    assert len(begun) == 3


def test_cancelled_work_is_done_as_a_whole() -> None:
    store = Store()

    async def main(worker: SimulatedWorker) -> None:
        with trio.move_on_after(1e-9):
            await insert(worker, 1)
        with trio.CancelScope(deadline=0.0):
            await insert(worker, 2)  # cancelled before it was asked for

    store.start(main)
    store.run(1.0)
    assert store.items == [1]


def test_a_kill_loses_what_was_not_committed() -> None:
    store = Store()

    async def main(worker: SimulatedWorker) -> None:
        await insert(worker, 1)
        await insert(worker, 2)

    process = store.start(main)
    process.at_effect(2, process.kill)
    store.run(1.0)
    assert store.items == [1]
    store.start(partial(insert, number=3), "agent again")
    store.run(2.0)
    assert store.items == [1, 3]


def test_the_thread_stands_still_with_its_process() -> None:
    store = Store()

    async def main(worker: SimulatedWorker) -> None:
        await trio.sleep(1.0)
        await insert(worker, 1)

    process = store.start(main)
    process.at_step(1, lambda: None)
    store.disk.stall(2.0)
    store.timeline.at(1.5, process.freeze)
    store.run(10.0)
    assert store.items == []
    process.thaw()
    store.run(10.1)
    assert store.items == [1]


async def nothing(worker: SimulatedWorker) -> None:
    pass


async def synced_and_not(
    worker: SimulatedWorker, synced: list[float], now: Callable[[], float]
) -> None:
    await insert(worker, 1)
    await insert(worker, 2)
    await worker.sync()
    synced.append(now())
    await insert(worker, 3)


def test_a_power_cut_loses_exactly_what_was_not_synced() -> None:
    store = Store()
    synced: list[float] = []
    process = store.start(partial(synced_and_not, synced=synced, now=lambda: store.timeline.now))
    store.run(1.0)
    assert 0.002 < synced[0] < 0.012
    assert store.items == [1, 2, 3]
    process.kill()
    store.disk.power_cut()
    assert store.items == [1, 2]
    store.start(partial(insert, number=4), "agent again")
    store.run(2.0)
    assert store.items == [1, 2, 4]
    store.disk.power_cut()
    assert store.items == [1, 2]


def test_what_is_committed_during_a_sync_is_not_part_of_it() -> None:
    store = Store()

    async def main(worker: SimulatedWorker) -> None:
        await insert(worker, 1)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(worker.sync)
            await trio.sleep(0.0005)
            await insert(worker, 2)

    process = store.start(main)
    store.run(1.0)
    assert store.disk.syncs == 2  # the first is of the table
    process.kill()
    store.disk.power_cut()
    assert store.items == [1]


def test_a_power_cut_during_a_sync_loses_what_it_was_for() -> None:
    store = Store()

    async def main(worker: SimulatedWorker) -> None:
        await insert(worker, 1)
        store.disk.stall(5.0)
        await worker.sync()

    process = store.start(main)
    store.run(1.0)
    process.kill()
    store.disk.power_cut()
    store.run(10.0)
    assert store.items == []


def test_syncs_that_come_during_one_share_the_next() -> None:
    store = Store()
    done: list[float] = []

    async def sync(worker: SimulatedWorker) -> None:
        await worker.sync()
        done.append(store.timeline.now)

    async def main(worker: SimulatedWorker) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(sync, worker)
            await trio.sleep(0.0005)
            for _ in range(5):
                nursery.start_soon(sync, worker)

    store.start(main)
    store.run(1.0)
    assert len(done) == 6
    assert store.disk.syncs == 3


def test_a_stalled_disk_delays_commits_and_syncs() -> None:
    store = Store()
    times: list[float] = []

    async def main(worker: SimulatedWorker) -> None:
        store.disk.stall(3.0)
        store.disk.stall(1.0)
        await insert(worker, 1)
        times.append(round(store.timeline.now, 1))
        store.disk.stall(2.0)
        await worker.sync()
        times.append(round(store.timeline.now, 1))

    store.start(main)
    store.run(10.0)
    assert times == [3.0, 5.0]


def test_a_full_disk_refuses_until_there_is_room_also_after_a_power_cut() -> None:
    store = Store()
    faults: list[str] = []

    def grow(db: sqlite3.Connection) -> None:
        db.execute(INSERT, (b"",))  # a single row: no page more is needed

    async def main(worker: SimulatedWorker) -> None:
        for _ in range(3):
            try:
                await worker.run(grow)
            except StoreFault as fault:
                faults.append(str(fault))
            else:
                faults.append("")
            await trio.sleep(1.0)

    store.disk.fill()
    store.disk.power_cut()
    store.start(main)
    store.timeline.at(1.5, store.disk.free)
    store.run(5.0)
    refused = "attempt to write a readonly database"
    assert faults == [refused, refused, ""]


def test_after_a_failed_sync_each_one_fails_until_a_restart() -> None:
    store = Store()
    faults: list[str] = []

    async def main(worker: SimulatedWorker) -> None:
        for _ in range(2):
            with pytest.raises(StoreFault) as caught:
                await worker.sync()
            faults.append(str(caught.value))
            store.disk.sync_fault = ""

    store.disk.sync_fault = "input/output error"
    store.start(main)
    store.start(nothing, "idle")
    store.run(1.0)
    assert faults == ["the disk failed to sync: input/output error"] * 2
    assert store.disk.syncs == 1
    store.start(SimulatedWorker.sync, "agent again")
    store.run(2.0)
    assert store.disk.syncs == 2


def test_the_fault_of_the_files_is_passed_on() -> None:
    store = Store()
    seen: list[str] = []

    async def main(worker: SimulatedWorker) -> None:
        seen.append(await worker.files_fault())
        store.disk.files_fault = "agent.db was deleted"
        seen.append(await worker.files_fault())

    store.start(main)
    store.run(1.0)
    assert seen == ["", "agent.db was deleted"]
