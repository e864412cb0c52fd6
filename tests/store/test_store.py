"""The agent's store: each method's whole effect, and what a file, a disk or a caller can do."""

from __future__ import annotations

import errno
import os
import sqlite3
import stat
import tempfile
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
import trio.testing

from hbtrio.errors import ExitStatus, UserError
from hbtrio.fsm.delivery import OutboxKind, OutboxState
from hbtrio.store import delivery_order, outbox, schema
from hbtrio.store.database import open_database
from hbtrio.store.outbox import ALARMS_PER_INSTANCE
from hbtrio.store.records import (
    Entry,
    HistoryEntry,
    HostRecord,
    InstanceRecord,
    NewEntry,
    RoundRecord,
    RoundResult,
)
from hbtrio.store.rounds import BOOTS
from hbtrio.store.schema import MIGRATIONS, migrate
from hbtrio.store.store import Store
from hbtrio.store.worker import (
    Job,
    StoreFault,
    StoreThread,
    open_store_thread,
    perform,
)
from hbtrio.wire.vocabulary import CorrectiveAction, Event, VoteResult
from support.inline_store import inline_store, wall_clock

T0 = datetime(2025, 3, 1, 12, tzinfo=UTC)
A, B, C = "aaaa", "bbbb", "cccc"


@attrs.define
class Clock:
    now: datetime = T0

    def __call__(self) -> datetime:
        return self.now

    def pass_s(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "agent.db")


@pytest.fixture
async def store(path: str, clock: Clock) -> AsyncIterator[Store]:
    async with Store.open(path, clock) as store:
        yield store


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


# -- inventory -------------------------------------------------------------------------------------


async def test_hosts_and_instances_survive(path: str, clock: Clock) -> None:
    async with Store.open(path, clock) as store:
        await store.inventory.put_host(HostRecord("h1", "compute-0", True))
        await store.inventory.put_host(HostRecord("h2", "compute-1\ud800", False))
        await store.inventory.put_host(HostRecord("h1", "compute-0", False))
        await store.inventory.put_instance(InstanceRecord(A, "compute-0", True))
        await store.inventory.put_instance(InstanceRecord(B, "compute-0", True))
        await store.inventory.put_instance(InstanceRecord(A, "compute-1", True))
        assert (
            await store.inventory.delete_instance(B),
            await store.inventory.delete_instance(B),
        ) == (True, False)
        assert await store.inventory.delete_host("h3") is False
    async with Store.open(path, clock) as store:
        assert await store.inventory.hosts() == (
            HostRecord("h1", "compute-0", False),
            HostRecord("h2", "compute-1?", False),
        )
        assert await store.inventory.instances() == (InstanceRecord(A, "compute-1", True),)
        assert await store.inventory.delete_host("h1") is True
        assert [host.uuid for host in await store.inventory.hosts()] == ["h2"]


async def test_a_host_has_one_uuid(store: Store) -> None:
    await store.inventory.put_host(HostRecord("h1", "compute-0", True))
    await store.inventory.put_host(HostRecord("h2", "compute-1", True))
    await store.inventory.put_host(HostRecord("h3", "compute-0", False))
    left = (HostRecord("h2", "compute-1", True), HostRecord("h3", "compute-0", False))
    assert await store.inventory.hosts() == left


def test_a_store_from_before_a_host_had_one_uuid(path: str) -> None:
    db = sqlite3.connect(path, isolation_level=None)
    migrate(db, MIGRATIONS[:3])
    told = [("a", "one", 0), ("b", "one", 1), ("c", "one", 0), ("D", "two", 0), ("d", "two", 0)]
    db.executemany("INSERT INTO hosts VALUES (?, ?, ?)", [*told, ("e", "three", 0)])
    migrate(db)
    left = db.execute("SELECT * FROM hosts ORDER BY uuid").fetchall()
    assert left == [("b", "one", 1), ("d", "two", 0), ("e", "three", 0)]
    db.close()


async def test_a_forgotten_host_leaves_its_history(store: Store) -> None:
    gone, other = HostRecord("h1", "compute-0", True), HostRecord("h2", "compute-1", True)
    for host in (gone, other):
        await store.inventory.put_host(host)
        await store.inventory.put_instance(InstanceRecord(f"{host.uuid}-vm", host.hostname, True))
        assert await store.take_report(host.hostname, "boot", 7, history(host.hostname), [alarm()])
    await store.inventory.forget_host("compute-0", history("forgotten"))
    assert await store.inventory.hosts() == (other,)
    assert await store.inventory.instances() == (InstanceRecord("h2-vm", "compute-1", True),)
    assert await store.linked() == {"compute-1"}
    assert await store.welcome("compute-0", "boot") == 0
    kept = [record.entry.reason for record in await store.history()]
    assert kept == ["forgotten", "compute-1", "compute-0"]
    assert len(await bodies(store)) == 2


# -- rounds ----------------------------------------------------------------------------------------


async def test_a_round_from_opening_to_result(store: Store, clock: Clock) -> None:
    opened = a_round()
    await store.open_round(opened)
    assert await store.open_rounds() == (opened,)
    assert (await store.replied("c1"), await store.replied("c9")) == (True, False)
    clock.pass_s(2)
    result = RoundResult("c1", VoteResult.REJECT, "no\ud83d")
    assert await store.close_round(result, history(), [action()]) is True
    closed = attrs.evolve(
        opened,
        replied=True,
        result=VoteResult.REJECT,
        reason="no?",
        answered_at=T0 + timedelta(seconds=2),
    )
    assert await store.find_round("c1") == closed
    assert await store.open_rounds() == ()
    assert await bodies(store) == [("verdict c1", "queued")]

    again = RoundResult("c1", VoteResult.ACCEPT, "")
    assert await store.close_round(again, history(), [alarm()]) is False
    unknown = RoundResult("c9", VoteResult.ACCEPT, "")
    assert await store.close_round(unknown, history(), [alarm()]) is False
    assert await store.find_round("c1") == closed
    assert await store.find_round("c9") is None
    assert await bodies(store) == [("verdict c1", "queued")]
    assert [record.entry for record in await store.history()] == [history()]


async def test_open_rounds_after_a_restart(path: str, clock: Clock) -> None:
    first, second = a_round(), attrs.evolve(a_round("c2"), asked_at=T0 - timedelta(seconds=1))
    async with Store.open(path, clock) as store:
        await store.open_round(first)
        await store.open_round(second)
        await store.open_round(a_round("c3"))
        await store.close_round(RoundResult("c3", VoteResult.ACCEPT, ""))
    async with Store.open(path, clock) as store:
        assert await store.open_rounds() == (second, first)


async def test_a_command_id_is_used_once(store: Store) -> None:
    await store.open_round(a_round())
    with pytest.raises(sqlite3.IntegrityError):
        await store.open_round(a_round(uuid=B))
    assert await store.open_rounds() == (a_round(),)


# -- reports ---------------------------------------------------------------------------------------


async def test_a_replayed_report_changes_nothing(store: Store) -> None:
    assert await store.welcome("compute-0", "boot") == 0
    for number, taken in [(3, True), (3, False), (2, False), (5, True), (4, False)]:
        entry, gone = alarm(body=f"alarm {number}"), history(f"gone {number}")
        assert await store.take_report("compute-0", "boot", number, gone, [entry]) is taken
    assert await store.welcome("compute-0", "boot") == 5
    assert await bodies(store) == [("alarm 3", "queued"), ("alarm 5", "queued")]
    kept = [(record.id, record.entry.reason) for record in await store.history()]
    assert kept == [(2, "gone 5"), (1, "gone 3")]


async def test_numbers_start_anew_with_each_process_of_each_host(store: Store) -> None:
    assert await store.take_report("compute-0", "one", 7)
    assert await store.take_report("compute-0", "two", 1)
    assert await store.take_report("compute-1", "one", 1)
    # What is still on its way from the process before is known as such.
    assert not await store.take_report("compute-0", "one", 7)
    assert await store.welcome("compute-0", "two") == 1


async def test_only_a_few_processes_of_a_host_are_remembered(store: Store) -> None:
    assert await store.take_report("compute-1", "boot", 1)
    for boot in range(BOOTS + 1):
        assert await store.take_report("compute-0", f"boot {boot}", 1)
    # The forgotten one last, for it takes the place of another one then.
    boots = range(BOOTS, -1, -1)
    known = [await store.welcome("compute-0", f"boot {boot}") for boot in boots]
    assert known == [1] * BOOTS + [0]
    assert await store.welcome("compute-0", "boot 1") == 0
    assert await store.welcome("compute-1", "boot") == 1


async def test_who_had_a_link_is_known(store: Store) -> None:
    assert await store.linked() == frozenset()
    for _ in range(2):
        assert await store.welcome("compute-0", "boot") == 0
    assert await store.take_report("compute-1", "boot", 1)
    assert await store.linked() == {"compute-0", "compute-1"}
    assert await store.take_report("compute-0", "boot", 1)
    assert await store.welcome("compute-0", "boot") == 1


async def test_a_host_that_comes_back_writes_nothing(store: Store, path: str) -> None:
    """So that a full disk keeps no link from coming back."""
    assert await store.welcome("compute-0", "boot") == 0
    assert await store.take_report("compute-1", "boot", 1)
    size = os.stat(path + "-wal").st_size
    assert await store.welcome("compute-0", "boot") == 0
    assert await store.welcome("compute-1", "boot") == 1
    assert os.stat(path + "-wal").st_size == size
    worker = store._worker
    await worker.run(lambda db: db.execute("PRAGMA query_only = 1"))
    assert await store.welcome("compute-0", "boot") == 0
    assert await store.welcome("compute-1", "boot") == 1
    with pytest.raises(StoreFault):
        await store.welcome("compute-0", "new boot")


async def test_a_round_has_one_verdict(store: Store) -> None:
    await store.open_round(a_round())
    accept = RoundResult("c1", VoteResult.ACCEPT, "fine")
    # Its window was over here; the host's answer comes late.
    assert await store.close_round(RoundResult("c1", VoteResult.TIMEOUT, "silent"))
    late = [action(), alarm()]
    assert await store.take_report("compute-0", "boot", 1, history(), late, accept)
    assert await bodies(store) == [("alarm", "queued")]
    closed = await store.find_round("c1")
    assert closed is not None
    assert (closed.result, closed.reason) == (VoteResult.TIMEOUT, "silent")


async def test_a_verdict_of_a_round_that_nobody_remembers_is_sent_once(store: Store) -> None:
    accept = RoundResult("c1", VoteResult.ACCEPT, "fine")
    assert await store.take_report("compute-0", "boot", 1, None, [action()], accept)
    assert await store.take_report("compute-0", "other boot", 1, None, [action()], accept)
    assert await bodies(store) == [("verdict c1", "queued")]


async def test_a_report_is_taken_whole_or_not_at_all(store: Store) -> None:
    broken = attrs.evolve(history(), corrective_action=object())
    with pytest.raises(sqlite3.ProgrammingError):
        await store.take_report("compute-0", "boot", 1, broken, [alarm()])
    assert await store.welcome("compute-0", "boot") == 0
    assert await store.take_report("compute-0", "boot", 1, history(), [alarm()])


# -- outbox ----------------------------------------------------------------------------------------


async def test_an_entry_as_it_comes_out(store: Store, clock: Clock) -> None:
    await store.queue([action()])
    entry = Entry(
        id=1,
        kind=OutboxKind.ACTION,
        uuid=A,
        command_id="c1",
        body="verdict c1",
        expires_at=T0 + timedelta(seconds=8),
        state=OutboxState.QUEUED,
        attempts=0,
        queued_at=T0,
        done_at=None,
        fault="",
    )
    ready = await store.ready(8)
    assert (ready.entries, ready.waiting) == ((entry,), 1)
    assert ready.next_expiry_s == 8

    assert await store.mark_sending(1) is True
    assert await store.mark_sending(1) is False
    assert await due(store) == []
    assert (await store.ready(0)).next_expiry_s is None
    clock.pass_s(1)
    await store.back_to_queue(1, "refused")
    entry = attrs.evolve(entry, attempts=1, fault="refused")
    assert (await store.ready(8)).entries == (entry,)
    assert await store.mark_sending(1)
    await store.mark_done(1, OutboxState.DELIVERED)
    entry = attrs.evolve(entry, state=OutboxState.DELIVERED, fault="", done_at=clock.now)
    assert await store.outbox() == (entry,)
    # What has ended has ended.
    await store.back_to_queue(1, "late")
    await store.mark_done(1, OutboxState.UNDELIVERED, "late")
    assert await store.outbox() == (entry,)
    assert (await store.ready(8)).waiting == 0


async def test_states_coalesce_and_nothing_else_does(store: Store, clock: Clock) -> None:
    await store.queue([service(body="on"), alarm(body="a1"), alarm(body="a2"), service(B, "b on")])
    clock.pass_s(5)
    await store.queue([service(body="off"), action(command_id="c1"), action(command_id="c2")])
    assert await bodies(store) == [
        ("a1", "queued"),
        ("a2", "queued"),
        ("b on", "queued"),
        ("off", "queued"),
        ("verdict c1", "queued"),
        ("verdict c2", "queued"),
    ]
    # The newer state keeps the place in the queue of instances that the older one had.
    off = (await store.outbox())[2]
    assert (off.body, off.queued_at) == ("off", T0)


async def test_a_state_being_sent_is_not_replaced(store: Store) -> None:
    await store.queue([service(body="on")])
    assert await store.mark_sending(1)
    await store.queue([service(body="off")])
    assert await bodies(store) == [("on", "sending"), ("off", "queued")]
    assert await due(store) == []
    await store.mark_done(1, OutboxState.UNCONFIRMED)
    assert await due(store) == ["off"]


async def test_a_state_that_failed_is_not_sent_after_a_newer_one(store: Store) -> None:
    await store.queue([service(body="on")])
    assert await store.mark_sending(1)
    await store.queue([service(body="off")])
    await store.back_to_queue(1, "reset")
    assert await bodies(store) == [("off", "queued")]
    # Replaced while its connection was being made: the old one must not go out.
    await store.queue([service(body="on again")])
    assert await store.mark_sending(2) is False
    assert await store.mark_sending(3) is True


async def test_order_of_one_instance(store: Store) -> None:
    await store.queue([service(body="s"), alarm(body="a"), action(), service(B, "b")])
    sent = []
    while ready := (await store.ready(1, busy=[B])).entries:
        assert await store.mark_sending(ready[0].id)
        assert await due(store, busy=[B]) == []
        sent.append(ready[0].body)
        await store.mark_done(ready[0].id, OutboxState.DELIVERED)
    assert sent == ["s", "a", "verdict c1"]
    assert await due(store) == ["b"]


async def test_order_over_instances(store: Store, clock: Clock) -> None:
    await store.queue([alarm(A, "a")])
    clock.pass_s(1)
    await store.queue([alarm(B, "b"), alarm(C, "c"), action("dddd")])
    # Verdicts first, as they have a window; then what failed least often; then the oldest.
    assert await due(store) == ["verdict c1", "a", "b", "c"]
    assert await due(store, 2) == ["verdict c1", "a"]
    await store.back_to_queue((await ids(store))["a"], "refused")
    assert await due(store) == ["verdict c1", "b", "c", "a"]


async def test_a_verdict_passes_what_failed(store: Store) -> None:
    await store.queue([alarm(body="a"), action(command_id="c1"), action(command_id="c2")])
    assert await due(store) == ["a"]
    await store.back_to_queue(1, "stalled")
    assert await due(store) == ["verdict c1"]
    assert await due(store, resting=[A]) == ["verdict c1"]
    # But no verdict passes another.
    await store.back_to_queue(2, "refused")
    assert await due(store) == ["verdict c1"]
    await store.mark_done(2, OutboxState.DELIVERED)
    assert await due(store) == ["verdict c2"]
    await store.mark_done(3, OutboxState.DELIVERED)
    assert await due(store, resting=[A]) == []
    assert await due(store) == ["a"]


async def test_a_verdict_waits_for_the_reply(store: Store) -> None:
    await store.open_round(a_round())
    accept = RoundResult("c1", VoteResult.ACCEPT, "")
    await store.take_report("compute-0", "boot", 1, None, [action()], accept)
    assert await due(store) == []
    await store.replied("c1")
    assert await due(store) == ["verdict c1"]


async def test_a_verdict_that_waits_for_its_reply_holds_up_nothing(store: Store) -> None:
    """The reply may never be written: the agent was killed, or the link cut, before."""
    await store.open_round(a_round())
    accept = RoundResult("c1", VoteResult.ACCEPT, "")
    await store.take_report("compute-0", "boot", 1, None, [action()], accept)
    await store.queue([alarm(), action(A, "c2")])
    assert await due(store) == ["alarm"]
    await store.mark_sending(2)
    await store.back_to_queue(2, "reset")
    assert await due(store) == ["verdict c2"]
    await store.replied("c1")
    assert await due(store) == ["verdict c1"]


async def test_a_verdict_whose_window_is_over(store: Store, clock: Clock) -> None:
    await store.inventory.put_instance(InstanceRecord(B, "compute-1", True))
    await store.open_round(a_round())
    reject = RoundResult("c1", VoteResult.REJECT, "busy")
    await store.take_report("compute-0", "boot", 1, None, [action()], reject)
    await store.queue([action(B, "c2", within_s=9), alarm(B)])
    clock.pass_s(8)
    # It can't be sent from the very moment on, taken before or not.
    assert await store.mark_sending(1) is False
    assert await store.mark_sending(2) is True
    await store.back_to_queue(2, "refused")
    ready = await store.ready(0)
    fault = "its window was over before it could be sent"
    ended = [(entry.body, entry.fault) for entry in await store.outbox() if entry.done_at]
    assert ended == [("verdict c1", fault)]
    assert ready.next_expiry_s == 1
    clock.pass_s(1)
    assert (await store.ready(8)).next_expiry_s is None
    assert await bodies(store) == [
        ("verdict c1", "undelivered"),
        ("verdict c2", "undelivered"),
        ("alarm", "queued"),
    ]
    assert [record.entry for record in await store.history()] == [
        HistoryEntry(clock.now, "undelivered", B, "compute-1", f"action: {fault}"),
        HistoryEntry(
            T0 + timedelta(seconds=8),
            "undelivered",
            A,
            "compute-0",
            f"action: {fault}",
            Event.STOP,
            VoteResult.REJECT,
            "vim",
        ),
    ]


@pytest.mark.parametrize("step_s", [20, -300])
async def test_a_clock_that_is_set_moves_no_window(
    tmp_path: Path, clock: Clock, step_s: float, autojump_clock: trio.testing.MockClock
) -> None:
    def verdict(uuid: str, command_id: str, within_s: float) -> NewEntry:
        made = action(uuid, command_id, within_s)
        return attrs.evolve(made, deadline=trio.current_time() + within_s)

    with inline_store(tmp_path) as (_, worker):
        store = Store(worker, clock)
        await store.queue([verdict(A, "c1", 8), verdict(B, "c2", 9)])
        clock.pass_s(step_s)
        await trio.sleep(7)
        assert await due(store) == ["verdict c1", "verdict c2"]
        assert (await store.ready(0)).next_expiry_s == 1
        assert await store.mark_sending(1) is True
        await store.back_to_queue(1, "refused")
        await trio.sleep(1)
        assert await store.mark_sending(1) is False
        assert await due(store) == ["verdict c2"]
        assert [body for body, state in await bodies(store) if state == "undelivered"] == [
            "verdict c1"
        ]
    # That clock is gone with its process: by the wall clock it is too late, or not yet.
    with inline_store(tmp_path) as (_, worker):
        store = Store(worker, clock)
        ready = await store.ready(8)
        if step_s > 0:
            assert (ready.entries, ready.next_expiry_s) == ((), None)
            assert await bodies(store) == [
                ("verdict c1", "undelivered"),
                ("verdict c2", "undelivered"),
            ]
        else:
            assert [entry.body for entry in ready.entries] == ["verdict c2"]
            assert ready.next_expiry_s == 9 + 300
            # Only if it has come from the future nobody can say whether it is still wanted.
            await store.settle_interrupted()
            why = "the clock was set back: the VIM may no longer wait"
            assert [(one.state, one.fault) for one in await store.outbox()][:1] == [
                (OutboxState.UNDELIVERED, why)
            ]


async def test_a_verdict_that_outlives_a_power_cut_is_marked_on_the_disk(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    with inline_store(tmp_path) as (store, worker):
        expires = wall_clock() + timedelta(hours=1)
        await store.queue(
            [
                alarm(A),
                attrs.evolve(action(B, "short", 0), expires_at=expires, deadline=19.9),
                attrs.evolve(action(C, "long", 0), expires_at=expires, deadline=20.0),
                attrs.evolve(action("dddd", "left", 0), expires_at=expires),
            ]
        )
        assert worker.syncs == 0
        assert (await store.mark_sending(1), worker.syncs) == (True, 0)
        assert (await store.mark_sending(2), worker.syncs) == (True, 0)
        assert (await store.mark_sending(3), worker.syncs) == (True, 1)
        assert (await store.mark_sending(4), worker.syncs) == (True, 2)
        assert (await store.mark_sending(4), worker.syncs) == (False, 2)
        # If that fails nobody may send it: it is not known what the disk has.
        await store.back_to_queue(3, "refused")
        worker.fault_of_sync = "disk failed"
        with pytest.raises(StoreFault, match="disk failed"):
            await store.mark_sending(3)


async def test_room_for_verdicts(store: Store) -> None:
    await store.queue([alarm(A), alarm(B), alarm(C), service("dddd"), action("eeee")])
    assert await due(store, 8, others=2) == ["verdict c1", "alarm", "alarm"]
    assert await due(store, 8, others=0) == ["verdict c1"]
    assert len(await due(store, 2, others=2)) == 2
    # It does not wait for what there is no room for.
    await store.queue([alarm("ffff", "before it"), action("ffff", "c2")])
    assert await due(store, 8, others=0) == ["verdict c1", "verdict c2"]
    assert "verdict c2" not in await due(store, 8, others=6)


async def test_what_was_being_sent_at_the_end(path: str, clock: Clock) -> None:
    async with Store.open(path, clock) as store:
        await store.queue([service(A, "old"), alarm(B), action(C), service("dddd", "d")])
        for number in (1, 2, 3, 4):
            assert await store.mark_sending(number)
        await store.queue([service(A, "new")])
    async with Store.open(path, clock) as store:
        clock.pass_s(1)
        await store.settle_interrupted()
        fault = "the agent ended while it was being sent"
        assert [
            (entry.body, entry.state.value, entry.attempts, entry.fault)
            for entry in reversed(await store.outbox())
        ] == [
            ("alarm", "queued", 1, fault),
            ("verdict c1", "unconfirmed", 0, fault),
            ("d", "queued", 1, fault),
            ("new", "queued", 0, ""),
        ]
        assert await due(store) == ["new", "alarm", "d"]


async def test_alarms_of_one_instance_are_bounded(store: Store) -> None:
    await store.queue([alarm(B, "other")])
    await store.queue([alarm(A, f"a{n}") for n in range(ALARMS_PER_INSTANCE + 2)])
    ready = await store.ready(8)
    assert [entry.body for entry in ready.entries] == ["other", "a2"]
    assert ready.waiting == ALARMS_PER_INSTANCE + 1
    given_up = [entry for entry in await store.outbox() if entry.state is OutboxState.UNDELIVERED]
    assert [entry.body for entry in given_up] == ["a1", "a0"]
    assert len(await store.history()) == 2


def test_a_long_queue_and_a_long_past_are_not_searched_through(path: str) -> None:
    """What is done for each verdict uses an index, whatever the outbox holds."""
    said: list[str] = []
    database = open_database(path)
    database.db.set_trace_callback(said.append)
    outbox.queue(database.db, [service(), alarm(), action()], 0.0)
    delivery_order.ready(database.db, 8, 6, [B], [C], 0.0, 0.0)
    outbox.mark_sending(database.db, 1, 0.0, 0.0)
    outbox.back_to_queue(database.db, 2, "refused", 0.0, reached=True, refused=True)
    outbox.mark_done(database.db, 1, OutboxState.DELIVERED, "", 0.0)
    database.db.set_trace_callback(None)
    steps = [
        step
        for text in said
        if text.lstrip().startswith(("SELECT", "UPDATE", "DELETE"))
        for *_, step in database.db.execute(f"EXPLAIN QUERY PLAN {text}")
    ]
    database.close()
    looked = {step for step in steps if "outbox" in step or "mine" in step or "other" in step}
    # The one that goes along its index does so in the order wanted and stops when it has enough.
    assert {step for step in looked if step.startswith("SCAN")} == {
        "SCAN mine USING INDEX outbox_turn",
        "SCAN outbox USING INDEX outbox_open",
    }
    assert not [step for step in steps if "TEMP B-TREE" in step]


# -- history ---------------------------------------------------------------------------------------


async def test_history_in_pages(store: Store) -> None:
    entries = [history(f"r{n}", uuid=(A, B)[n % 2], at=T0 + timedelta(n)) for n in range(6)]
    for entry in entries:
        await store.record(entry)
    assert [record.entry for record in await store.history()] == entries[::-1]
    page = await store.history(2)
    assert [record.entry for record in page] == [entries[5], entries[4]]
    older = await store.history(before=page[-1].id, uuid=A)
    assert [record.entry for record in older] == [entries[2], entries[0]]


async def test_history_keeps_every_field(store: Store) -> None:
    entry = HistoryEntry(
        T0.astimezone(),
        "vote",
        A,
        "compute-0\ud800",
        'a "reason" \U0001f600 \ud83d',
        Event.COLD_MIGRATE_END,
        VoteResult.TIMEOUT,
        "an operator",
        CorrectiveAction.STOP,
        T0 - timedelta(seconds=1.5),
    )
    await store.record(entry)
    kept = attrs.evolve(entry, hostname="compute-0?", reason='a "reason" \U0001f600 ?')
    assert [record.entry for record in await store.history()] == [kept]


async def test_pruning_is_by_age_and_in_batches(store: Store, clock: Clock) -> None:
    for n in range(5):
        clock.now = T0 + timedelta(days=n)
        await store.open_round(a_round(f"c{n}"))
        await store.close_round(RoundResult(f"c{n}", VoteResult.ACCEPT, ""), history(at=clock.now))
        await store.queue([alarm(body=f"a{n}")])
        await store.mark_done(n + 1, OutboxState.DELIVERED)
    await store.open_round(attrs.evolve(a_round("open"), asked_at=T0))
    await store.queue([alarm(body="waiting")])
    edge = T0 + timedelta(days=3)
    assert [await store.prune(edge, 2), await store.prune(edge, 2)] == [6, 3]
    assert await store.prune(edge, 2) == 0
    assert [record.entry.time for record in await store.history()] == [
        T0 + timedelta(days=4),
        edge,
    ]
    assert [await store.find_round(f"c{n}") is not None for n in range(5)] == [False] * 3 + [
        True
    ] * 2
    assert await store.find_round("open") is not None
    assert [body for body, _ in await bodies(store)] == ["a3", "a4", "waiting"]


async def test_history_ages_from_when_it_came(store: Store, clock: Clock) -> None:
    """Whatever the clocks of hosts say."""
    behind, ahead = (
        history("behind", at=T0 - timedelta(61)),
        history("ahead", at=T0 + timedelta(99)),
    )
    await store.take_report("compute-0", "boot", 1, behind)
    await store.record(ahead)
    clock.now += timedelta(30)
    assert await store.prune(T0) == 0
    assert [record.entry.reason for record in await store.history()] == ["ahead", "behind"]
    assert await store.prune(clock.now) == 2
    assert await store.history() == ()


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


async def test_an_older_file_is_brought_up(
    path: str, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Store.open(path, clock) as store:
        await store.inventory.put_host(HostRecord("h1", "compute-0", True))
    extra = ("ALTER TABLE hosts ADD COLUMN rack TEXT NOT NULL DEFAULT '?'",)
    monkeypatch.setattr(schema.migrate, "__defaults__", ((*MIGRATIONS, extra),))
    database = open_database(path)
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


def test_a_step_that_fails_is_undone_whole(path: str) -> None:
    db = sqlite3.connect(path, isolation_level=None)
    steps = [("CREATE TABLE a (x)",), ("CREATE TABLE b (x)", "CREATE TABLE a (x)")]
    with pytest.raises(sqlite3.OperationalError):
        migrate(db, steps)
    tables = db.execute("SELECT name FROM sqlite_schema").fetchall()
    assert (tables, db.in_transaction) == ([("a",)], False)
    db.close()
    assert version_of(path) == 1


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
    async with open_store_thread(lambda: open_database(path)) as thread:
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
        assert await store.welcome("compute-0", "boot") == 0
        assert await store.take_report("compute-0", "boot", 1, history("after"))
        assert [record.entry.reason for record in await store.history()] == ["after", "before"]


def test_a_burst_on_a_full_disk(path: str) -> None:
    database = open_database(path)
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
