"""What a host remembers: written soon, coalesced and bounded, whatever the disk does."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

import attrs
import pytest
import trio

from hbtrio.nursery.host import unwritten
from hbtrio.nursery.host.memory import (
    HUNG_S,
    NO_DIRECTORY,
    OPEN_S,
    PAUSE_S,
    STEP_S,
    HostMemory,
    NotKept,
    open_memory,
)
from hbtrio.store.host_records import (
    ActionRecord,
    HoldRecord,
    KnownInstance,
    Recollection,
)
from hbtrio.store.records import HistoryEntry
from hbtrio.store.recovery import TRY_S
from hbtrio.wire.vocabulary import ActionName
from support.inline_store import EPOCH, wall_clock
from support.memory_store import MemoryStore, memory_store

pytestmark = pytest.mark.usefixtures("autojump_clock")

ACTION = ActionRecord(
    id="a1",
    uuid="u1",
    name=ActionName.REBOOT,
    command=("x",),
    force=False,
    who="",
    step="performing",
    begun_at=0.0,
    boot_id="boot",
)


def known(uuid: str = "u1", state: str = "heartbeating") -> KnownInstance:
    return KnownInstance(uuid=uuid, state=state, boot_id="boot")


def entry(reason: str) -> HistoryEntry:
    return HistoryEntry(wall_clock(), "loss", "u1", "compute-0", reason)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[MemoryStore]:
    with memory_store(tmp_path) as made:
        yield made


@asynccontextmanager
async def remembering(
    memory: HostMemory, take: Callable[[Recollection], None]
) -> AsyncIterator[None]:
    async with open_memory(memory), trio.open_nursery() as nursery:
        nursery.start_soon(memory.recollect, take)
        yield
        nursery.cancel_scope.cancel()


def ignore(_: Recollection) -> None:
    """Does nothing with what was left."""


async def test_what_was_left_comes_before_what_is_written(disk: MemoryStore) -> None:
    async with remembering(disk.memory(), ignore):
        await trio.sleep(1)
    memory = disk.memory()
    memory.know(known())
    async with remembering(memory, ignore):
        await trio.sleep(1)
    found: list[Recollection] = []
    memory = disk.memory()
    # The next run sees the instance before it knows better.
    memory.know(known(state="waiting"))
    async with remembering(memory, found.append):
        await trio.sleep(1)
        assert memory.fault == ""
    assert found == [Recollection(instances=(known(),))]
    assert (await disk.recall()).instances == (known(state="waiting"),)


async def test_each_kind_is_remembered(disk: MemoryStore) -> None:
    hold = HoldRecord("brake", "", "too many", 1.0)
    memory = disk.memory()
    async with remembering(memory, ignore):
        await trio.sleep(1)
        memory.know(known())
        memory.know(known("u2"))
        memory.ran("u1")
        memory.hold(hold)
        memory.hold(attrs.evolve(hold, kind="other"))
        memory.record(entry("gone"))
        assert await memory.put_action(ACTION)
        await trio.sleep(PAUSE_S * 2)
        memory.forget("u2")
        memory.release("other", "")
        await trio.sleep(PAUSE_S * 2)
        assert [one.entry.reason for one in await memory.history(10)] == ["gone"]
    left = await disk.recall()
    assert (left.instances, left.actions, left.holds) == ((known(),), (ACTION,), (hold,))
    [run] = left.corrective_runs
    assert (run.uuid, run.at.boot_id, run.at.boot_s) == ("u1", "boot", 1.0)


async def test_the_last_words_are_written(disk: MemoryStore) -> None:
    memory = disk.memory()
    async with remembering(memory, ignore):
        await trio.sleep(1)
        for number in range(2500):
            memory.record(entry(str(number)))
    async with disk.open() as store:
        assert (await store.history(1))[0].entry.reason == "2499"


async def test_changes_coalesce(disk: MemoryStore) -> None:
    memory = disk.memory()
    async with remembering(memory, ignore):
        await trio.sleep(1)
        for number in range(1000):
            memory.know(known(state=str(number)))
            memory.know(known(state=str(number)))  # no news
            await trio.sleep(0.001)
        await trio.sleep(1)
        assert 9 <= disk.writes <= 12
        writes = disk.writes
        memory.know(known(state="999"))
        await trio.sleep(1)
        assert disk.writes == writes
    assert (await disk.recall()).instances == (known(state="999"),)


async def test_a_full_disk(disk: MemoryStore, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "hbtrio.memory")
    memory = disk.memory()
    async with remembering(memory, ignore):
        await trio.sleep(1)
        disk.worker.fault = "database or disk is full"
        memory.know(known())
        memory.know(known("u2"))
        memory.record(entry("first"))
        await trio.sleep(600)
        assert memory.fault == "database or disk is full"
        assert not await memory.put_action(ACTION)
        with pytest.raises(NotKept, match="full"):
            await memory.history(10)
        memory.know(known(state="waiting"))
        memory.record(entry("second"))
        disk.worker.fault = ""
        # However long it was full.
        await trio.sleep(TRY_S + 0.1)
        assert memory.fault == ""
        assert [one.entry.reason for one in await memory.history(10)] == ["second", "first"]
    assert [one.state for one in (await disk.recall()).instances] == ["waiting", "heartbeating"]
    lines = [record.getMessage() for record in caplog.records]
    assert lines == [
        "/var/host.db: database or disk is full; the host goes on, and remembers nothing of this"
        " time after a restart",
        "/var/host.db: can be written again",
    ]


async def test_a_store_that_can_not_be_opened_for_long_is_opened_soon(disk: MemoryStore) -> None:
    disk.refusals = 1000
    memory = disk.memory()
    async with remembering(memory, ignore):
        memory.know(known())
        await trio.sleep(605)
        disk.refusals = 0
        await trio.sleep(OPEN_S + 1)
        assert memory.fault == ""
    assert (await disk.recall()).instances == (known(),)


async def test_a_store_that_can_not_be_opened_is_tried_again(disk: MemoryStore) -> None:
    disk.refusals = 3
    memory = disk.memory()
    found: list[Recollection] = []
    async with remembering(memory, found.append):
        memory.know(known())
        await trio.sleep(3.5)
        assert (memory.fault, found) == ("/var/host.db: is damaged", [])
        with pytest.raises(NotKept, match="is damaged"):
            await memory.history(1)
        await trio.sleep(4)
        assert (memory.fault, found) == ("", [Recollection()])
    assert (await disk.recall()).instances == (known(),)


async def test_a_hung_disk(disk: MemoryStore) -> None:
    memory = disk.memory()
    async with remembering(memory, ignore):
        await trio.sleep(1)
        disk.worker.slow_s = 1000
        memory.know(known())
        await trio.sleep(HUNG_S * 2)
        assert memory.fault == "the disk has not answered for 10 s or more"
        begun = trio.current_time()
        assert not await memory.put_action(ACTION)
        assert trio.current_time() - begun == STEP_S
        begun = trio.current_time()
    # The end of the host does not wait for it.
    assert trio.current_time() - begun <= 1


async def test_files_that_are_gone(disk: MemoryStore) -> None:
    memory = disk.memory()
    async with remembering(memory, ignore):
        await trio.sleep(1)
        disk.worker.fault_of_files = "/var/host.db was deleted or moved"
        await trio.sleep(21)
        assert memory.fault == "/var/host.db was deleted or moved"


async def test_old_history_is_removed(disk: MemoryStore) -> None:
    memory = disk.memory()
    async with remembering(memory, ignore):
        memory.record(entry("old"))
        await trio.sleep(timedelta(hours=23).total_seconds())
        memory.record(entry("new"))
        await trio.sleep(timedelta(hours=2.1).total_seconds())
        assert [one.entry.reason for one in await memory.history(10)] == ["new"]


async def test_the_end_of_an_action(disk: MemoryStore) -> None:
    memory = disk.memory()
    async with remembering(memory, ignore):
        await trio.sleep(1)
        assert await memory.put_action(ACTION)
        assert await memory.end_action("a1", entry("done"))
        assert await memory.put_action(attrs.evolve(ACTION, id="a2"))
        disk.worker.fault = "full"
        memory.record(entry("noticed"))
        began = trio.current_time()
        assert not await memory.end_action("a2", entry("done later"))
        assert trio.current_time() - began == STEP_S
        disk.worker.fault = ""
        await trio.sleep(61)
        reasons = [one.entry.reason for one in await memory.history(10)]
    # Each once, and after what came before it.
    assert reasons == ["done later", "noticed", "done"]
    assert (await disk.recall()).actions == ()


async def test_the_end_of_an_action_on_a_slow_disk(disk: MemoryStore) -> None:
    memory = disk.memory()
    async with remembering(memory, ignore):
        await trio.sleep(1)
        assert await memory.put_action(ACTION)
        disk.worker.slow_s = 3
        assert not await memory.end_action("a1", entry("done"))
        await trio.sleep(10)
        assert [one.entry.reason for one in await memory.history(10)] == ["done"]
    assert (await disk.recall()).actions == ()


async def test_without_a_state_directory(caplog: pytest.LogCaptureFixture) -> None:
    memory = HostMemory()
    memory.know(known())
    memory.forget("u1")
    memory.ran("u1")
    memory.hold(HoldRecord("brake", "", "", 0.0))
    memory.release("brake", "")
    memory.record(entry("x"))
    async with remembering(memory, ignore):
        await trio.sleep(1)
        assert not await memory.put_action(ACTION)
        with pytest.raises(NotKept, match=NO_DIRECTORY):
            await memory.history(1)
    assert (memory.fault, memory.is_kept) == (NO_DIRECTORY, False)
    assert [record.getMessage() for record in caplog.records] == [NO_DIRECTORY]


def test_what_waits_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unwritten, "WAITING", 3)
    waiting = unwritten.Unwritten()
    for number in range(5):
        waiting.know(known(str(number)))
        waiting.hold("brake", str(number), None)
        waiting.record(HistoryEntry(EPOCH, "loss", "u", "h", str(number)))
    batch = waiting.take()
    assert list(batch.known) == ["2", "3", "4"]
    assert list(batch.holds) == [("brake", "2"), ("brake", "3"), ("brake", "4")]
    assert [one.reason for one in batch.history] == ["2", "3", "4"]
    assert waiting.lost == 2
    waiting.record(attrs.evolve(batch.history[0], reason="5"))
    waiting.put_back(batch)
    assert [one.reason for one in waiting.take().history] == ["3", "4", "5"]
    assert waiting.lost == 3


def test_an_action_is_never_stored_before_the_history_that_came_before_it() -> None:
    waiting = unwritten.Unwritten()
    for number in range(unwritten.AT_ONCE + 1):
        waiting.record(HistoryEntry(EPOCH, "action", "u", "h", str(number)))
    awaited = waiting.step(ACTION)
    waiting.end("a0", HistoryEntry(EPOCH, "action", "u", "h", "done"))
    first, second = waiting.take(), waiting.take()
    assert (len(first.history), first.actions, first.ended) == (unwritten.AT_ONCE, {}, {})
    assert (len(second.history), list(second.actions), list(second.ended)) == (1, ["a1"], ["a0"])
    first.written()
    assert not awaited.tried.is_set()
    second.failed()
    assert (awaited.tried.is_set(), awaited.is_written) == (True, False)
    waiting.put_back(second)
    waiting.take().written()
    assert awaited.is_written


def test_the_step_of_an_action_that_has_ended_is_not_stored() -> None:
    waiting = unwritten.Unwritten()
    waiting.step(ACTION)
    batch = waiting.take()
    waiting.end("a1", HistoryEntry(EPOCH, "action", "u", "h", "done"))
    waiting.put_back(batch)
    batch = waiting.take()
    assert (batch.actions, list(batch.ended)) == ({}, ["a1"])


async def test_a_step_is_not_kept_waiting_by_a_write_before_it(disk: MemoryStore) -> None:
    memory = disk.memory()
    async with remembering(memory, ignore):
        await trio.sleep(1)
        memory.record(entry("first"))
        await trio.sleep(PAUSE_S / 2)
        begun = trio.current_time()
        assert await memory.put_action(ACTION)
        disk.worker.fault = "full"
        assert not await memory.put_action(attrs.evolve(ACTION, step="voting"))
        disk.worker.fault = ""
        assert await memory.put_action(attrs.evolve(ACTION, step="preparing"))
        assert trio.current_time() == begun
    assert [one.step for one in (await disk.recall()).actions] == ["preparing"]


async def test_a_command_that_does_not_count_is_forgotten(disk: MemoryStore) -> None:
    memory = disk.memory()
    async with remembering(memory, ignore):
        await trio.sleep(1)
        memory.ran("u1")
        await trio.sleep(1)
        memory.ran("u1")
        memory.ran_in_vain("u1")  # before it was written
        await trio.sleep(1)
        assert len((await disk.recall()).corrective_runs) == 1
        memory.ran_in_vain("u1")  # after it
        memory.ran_in_vain("u2")  # never stored
        await trio.sleep(1)
        assert (await disk.recall()).corrective_runs == ()
