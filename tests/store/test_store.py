"""The agent's store: each method's whole effect, and what a file, a disk or a caller can do."""

from __future__ import annotations

import os
import sqlite3
from datetime import timedelta

import attrs
import psycopg
import pytest

from hbtrio.fsm.delivery import OutboxState
from hbtrio.store.faults import CommandIdUsed
from hbtrio.store.group_members import GroupMember
from hbtrio.store.links import BOOTS
from hbtrio.store.migration import migrate
from hbtrio.store.records import (
    HistoryEntry,
    HostRecord,
    InstanceRecord,
    RoundResult,
)
from hbtrio.store.schema import APPLICATION_ID, MIGRATIONS
from hbtrio.store.store import Store
from hbtrio.store.worker import (
    StoreFault,
)
from hbtrio.wire.vocabulary import CorrectiveAction, Event, VoteResult
from support.store_cases import (
    T0,
    A,
    B,
    Clock,
    a_round,
    action,
    alarm,
    bodies,
    history,
    opened_at,
)

# -- inventory -------------------------------------------------------------------------------------


async def test_hosts_and_instances_survive(place: str, clock: Clock) -> None:
    async with opened_at(place, clock) as store:
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
    async with opened_at(place, clock) as store:
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
    migrate(db, MIGRATIONS)
    left = db.execute("SELECT * FROM hosts ORDER BY uuid").fetchall()
    assert left == [("b", "one", 1), ("d", "two", 0), ("e", "three", 0)]
    db.close()


# -- members of groups -----------------------------------------------------------------------------


async def test_members_of_groups_survive(place: str, clock: Clock) -> None:
    async with opened_at(place, clock) as store:
        await store.members.put({A: GroupMember(A, "db-1", "compute-0")})
        moved = GroupMember(A, "db-1\ud800", "compute-1")
        await store.members.put({B: GroupMember(B, "", "compute-0"), A: moved})
    async with opened_at(place, clock) as store:
        kept = GroupMember(A, "db-1?", "compute-1")
        assert await store.members.all() == (kept, GroupMember(B, "", "compute-0"))
        await store.members.put({B: None, "unknown": None})
        assert await store.members.all() == (kept,)


async def test_a_store_from_before_members_were_kept(path: str, clock: Clock) -> None:
    before = next(n for n, steps in enumerate(MIGRATIONS) if "TABLE members" in steps[0])
    db = sqlite3.connect(path, isolation_level=None)
    migrate(db, MIGRATIONS[:before])
    db.execute("PRAGMA application_id = " + str(APPLICATION_ID))
    db.execute("INSERT INTO instances VALUES (?, 'compute-0', 1)", (A,))
    db.close()
    os.chmod(path, 0o600)
    async with Store.open(path, clock) as store:
        assert await store.members.all() == ()
        await store.members.put({A: GroupMember(A, "db-1", "compute-0")})
        assert [one.uuid for one in await store.inventory.instances()] == [A]


async def test_a_forgotten_host_leaves_its_history(store: Store) -> None:
    gone, other = HostRecord("h1", "compute-0", True), HostRecord("h2", "compute-1", True)
    for host in (gone, other):
        await store.inventory.put_host(host)
        await store.inventory.put_instance(InstanceRecord(f"{host.uuid}-vm", host.hostname, True))
        assert await store.take_report(host.hostname, "boot", 7, history(host.hostname), [alarm()])
    members = [GroupMember(f"{one}-vm", "", "compute-0") for one in ("h1", "h3", "h4")]
    await store.members.put({one.uuid: one for one in members})
    await store.inventory.forget_host("compute-0", ["h1-vm", "h3-vm"], history("forgotten"))
    assert await store.members.all() == (members[2],)
    assert await store.inventory.hosts() == (other,)
    assert await store.inventory.instances() == (InstanceRecord("h2-vm", "compute-1", True),)
    assert await store.links.linked() == {"compute-1"}
    assert await store.links.welcome("compute-0", "boot") == 0
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


async def test_open_rounds_after_a_restart(place: str, clock: Clock) -> None:
    first, second = a_round(), attrs.evolve(a_round("c2"), asked_at=T0 - timedelta(seconds=1))
    async with opened_at(place, clock) as store:
        await store.open_round(first)
        await store.open_round(second)
        await store.open_round(a_round("c3"))
        await store.close_round(RoundResult("c3", VoteResult.ACCEPT, ""))
    async with opened_at(place, clock) as store:
        assert await store.open_rounds() == (second, first)


async def test_a_command_id_is_used_once(store: Store) -> None:
    await store.open_round(a_round())
    with pytest.raises(CommandIdUsed):
        await store.open_round(a_round(uuid=B))
    assert await store.open_rounds() == (a_round(),)


# -- reports ---------------------------------------------------------------------------------------


async def test_a_replayed_report_changes_nothing(store: Store) -> None:
    assert await store.links.welcome("compute-0", "boot") == 0
    for number, taken in [(3, True), (3, False), (2, False), (5, True), (4, False)]:
        entry, gone = alarm(body=f"alarm {number}"), history(f"gone {number}")
        assert bool(await store.take_report("compute-0", "boot", number, gone, [entry])) is taken
    assert await store.links.welcome("compute-0", "boot") == 5
    assert await bodies(store) == [("alarm 3", "queued"), ("alarm 5", "queued")]
    kept = [(record.id, record.entry.reason) for record in await store.history()]
    assert kept == [(2, "gone 5"), (1, "gone 3")]


async def test_numbers_start_anew_with_each_process_of_each_host(store: Store) -> None:
    assert await store.take_report("compute-0", "one", 7)
    assert await store.take_report("compute-0", "two", 1)
    assert await store.take_report("compute-1", "one", 1)
    # What is still on its way from the process before is known as such.
    assert not await store.take_report("compute-0", "one", 7)
    assert await store.links.welcome("compute-0", "two") == 1


async def test_only_a_few_processes_of_a_host_are_remembered(store: Store) -> None:
    assert await store.take_report("compute-1", "boot", 1)
    for boot in range(BOOTS + 1):
        assert await store.take_report("compute-0", f"boot {boot}", 1)
    # The forgotten one last, for it takes the place of another one then.
    boots = range(BOOTS, -1, -1)
    known = [await store.links.welcome("compute-0", f"boot {boot}") for boot in boots]
    assert known == [1] * BOOTS + [0]
    assert await store.links.welcome("compute-0", "boot 1") == 0
    assert await store.links.welcome("compute-1", "boot") == 1


async def test_who_had_a_link_is_known(store: Store) -> None:
    assert await store.links.linked() == frozenset()
    for _ in range(2):
        assert await store.links.welcome("compute-0", "boot") == 0
    assert await store.take_report("compute-1", "boot", 1)
    assert await store.links.linked() == {"compute-0", "compute-1"}
    assert await store.take_report("compute-0", "boot", 1)
    assert await store.links.welcome("compute-0", "boot") == 1


async def test_a_host_that_comes_back_writes_nothing(path: str, clock: Clock) -> None:
    """So that a full disk keeps no link from coming back."""
    async with Store.open(path, clock) as store:
        await comes_back(store, path)


async def comes_back(store: Store, path: str) -> None:
    assert await store.links.welcome("compute-0", "boot") == 0
    assert await store.take_report("compute-1", "boot", 1)
    size = os.stat(path + "-wal").st_size
    assert await store.links.welcome("compute-0", "boot") == 0
    assert await store.links.welcome("compute-1", "boot") == 1
    assert os.stat(path + "-wal").st_size == size
    worker = store._worker
    await worker.run(lambda db: db.execute("PRAGMA query_only = 1"))
    assert await store.links.welcome("compute-0", "boot") == 0
    assert await store.links.welcome("compute-1", "boot") == 1
    with pytest.raises(StoreFault):
        await store.links.welcome("compute-0", "new boot")


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
    with pytest.raises((sqlite3.ProgrammingError, psycopg.ProgrammingError)):
        await store.take_report("compute-0", "boot", 1, broken, [alarm()])
    assert await store.links.welcome("compute-0", "boot") == 0
    assert await store.take_report("compute-0", "boot", 1, history(), [alarm()])


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
        "c1",
        "a note",
    )
    await store.record(entry)
    kept = attrs.evolve(entry, hostname="compute-0?", reason='a "reason" \U0001f600 ?')
    assert [record.entry for record in await store.history()] == [kept]


async def test_a_command_has_one_entry_and_one_note(store: Store) -> None:
    """What was told first stands; what the host reports afterwards is a note on it."""
    told = attrs.evolve(history("no answer"), command_id="c1", result=VoteResult.ERROR)
    await store.record(told)
    report = attrs.evolve(told, reason="no", result=VoteResult.REJECT)
    for number, noted in enumerate(("compute-0 reported later: reject: no", None), 1):
        taken = await store.take_report("compute-0", "boot", number, report)
        assert taken is not None
        kept = None if noted is None else attrs.evolve(told, note=noted)
        assert taken.history == kept
    assert await store.note("compute-0", "c1", "too many") is None
    [record] = await store.history()
    assert record.entry == attrs.evolve(told, note="compute-0 reported later: reject: no")


async def test_a_report_of_what_was_told_needs_no_note(store: Store) -> None:
    told = attrs.evolve(history("fine"), command_id="c1", result=VoteResult.ACCEPT)
    await store.record(told)
    taken = await store.take_report("compute-0", "boot", 1, told)
    assert taken is not None
    assert taken.history is None
    assert [record.entry for record in await store.history()] == [told]


async def test_only_its_host_notes_on_a_command(store: Store) -> None:
    told = attrs.evolve(history("no answer"), command_id="c1")
    await store.record(told)
    await store.record(history("of no command"))
    assert await store.note("compute-1", "c1", "no") is None
    assert await store.note("compute-0", "c2", "no") is None
    assert await store.note("compute-0", "", "no") is None
    assert await store.note("compute-0", "c1", "done \ud800") == attrs.evolve(told, note="done ?")


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
