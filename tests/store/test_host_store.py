"""A host's store: what it returns after a restart, its bounds, and files that are not its own."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import attrs
import pytest

from hbtrio.errors import ExitStatus, UserError
from hbtrio.fsm.action import ActionState
from hbtrio.fsm.drain import DrainItem, DrainPhase
from hbtrio.fsm.drain_records import KEPT, DrainPlace, DrainRecord, StoredDrain
from hbtrio.fsm.drain_rules import DrainRules, OnReject
from hbtrio.fsm.drain_table import DrainState
from hbtrio.fsm.planned_time import PlannedTime
from hbtrio.policy.profile import Profile
from hbtrio.store import drain_rows, host_rows
from hbtrio.store.database import open_database
from hbtrio.store.host_records import (
    ActionRecord,
    CorrectiveRun,
    HoldRecord,
    KnownInstance,
    Moment,
    Recollection,
)
from hbtrio.store.host_schema import HOST_SCHEMA
from hbtrio.store.host_store import Changes, HostStore
from hbtrio.store.migration import Schema
from hbtrio.store.schema import AGENT_SCHEMA
from hbtrio.wire.vocabulary import ActionName, CorrectiveAction
from support.store_cases import T0, A, B, Clock, history

NOW = Moment("boot-1", 500.0, T0.timestamp())

KNOWN = KnownInstance(
    uuid=A,
    state="heartbeating",
    reason="answers challenges",
    profile=Profile(
        name="vm-\udc80", interval_s=0.5, restart_s=77, corrective_action=CorrectiveAction.REBOOT
    ),
    boot_id="boot-1",
    domain_id=7,
    socket="1:2:3",
    expected_until=600.5,
    ill_action=CorrectiveAction.LOG,
    ill_reason="disk \ud800 full",
    ill_at=480.0,
)
ACTION = ActionRecord(
    id="a1",
    uuid=A,
    name=ActionName.COLD_MIGRATE,
    command=("virsh", "reboot", "{uuid}", "\udcff"),
    force=True,
    who="operator uid 0",
    step=ActionState.PERFORMING.value,
    step_deadline=560.0,
    announced=True,
    reason="why",
    begun_at=T0.timestamp(),
    boot_id="boot-1",
    domain_id=7,
    drain="d1",
)
DRAIN = DrainRecord(
    id="d1",
    action=ActionName.STOP,
    command=("virsh", "shutdown", "{uuid}"),
    rules=DrainRules(parallel=3, retry_for_s=60.5, on_reject=OnReject.FORCE),
    ignore_hold=True,
    who="operator uid 0",
    begun_at=T0.timestamp(),
    boot_id="boot-1",
)
PLACES = (
    DrainPlace(
        drain="d1",
        position=0,
        name="vm-1",
        hostname="compute-0",
        answer="reject: a backup runs",
        item=DrainItem(B, DrainState.BLOCKED, "on hold", 100.5, 130.5, rejected="a backup runs"),
    ),
    DrainPlace(drain="d1", position=1, item=DrainItem(A, ask_at=0.0)),
)


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "host.db")


async def test_everything_is_recalled(path: str, clock: Clock) -> None:
    run, hold = CorrectiveRun(A, NOW), HoldRecord("brake", "", "too many", 5.0)
    async with HostStore.open(path, clock) as store:
        assert await store.recall() == Recollection()
        await store.keep(
            Changes(
                known=(KNOWN,),
                runs=(run,),
                held=(hold,),
                history=(history(),),
                actions=(ACTION,),
            )
        )
    async with HostStore.open(path, clock) as store:
        # What SQLite can't store of a tenant's text is replaced.
        known = attrs.evolve(KNOWN, ill_reason="disk ? full")
        assert await store.recall() == Recollection((known,), (ACTION,), (run,), (hold,))
        assert [record.entry for record in await store.history()] == [history()]


async def test_a_later_state_replaces_the_earlier(path: str, clock: Clock) -> None:
    async with HostStore.open(path, clock) as store:
        well = KnownInstance(uuid=A, state="waiting", boot_id="boot-2")
        other = attrs.evolve(KNOWN, uuid=B)
        await store.keep(Changes(known=(KNOWN, other), held=(HoldRecord("brake", "", "a", 1.0),)))
        await store.keep(Changes(actions=(ACTION,)))
        step = attrs.evolve(ACTION, step=ActionState.AWAITING.value, step_deadline=None)
        await store.keep(Changes(actions=(step,)))
        assert (await store.recall()).actions == (step,)
        held = HoldRecord("brake", "", "b", 2.0)
        await store.keep(Changes(known=(well,), forgotten=(B,), held=(held,)))
        await store.keep(Changes(history=(history(),), ended=(("a1", history("done")),)))
        assert await store.recall() == Recollection(instances=(well,), holds=(held,))
        told = [record.entry for record in await store.history()]
        assert told == [history("done"), history()]
        await store.keep(Changes(released=(("brake", ""),), forgotten=(A,)))
        assert await store.recall() == Recollection()


async def test_a_drain_is_recalled_as_it_was_stored_last(path: str, clock: Clock) -> None:
    async with HostStore.open(path, clock) as store:
        await store.keep(Changes(drains=(DRAIN,), drain_places=PLACES))
        assert (await store.recall()).drains == (StoredDrain(DRAIN, PLACES),)
        over = attrs.evolve(DRAIN, phase=DrainPhase.CANCELLED, reason="by uid 0", ended_at=9.0)
        done = attrs.evolve(PLACES[0], item=DrainItem(B, DrainState.DONE, ask_at=0.0))
        await store.keep(Changes(drains=(over,), drain_places=(done,)))
        assert (await store.recall()).drains == (StoredDrain(over, (done, PLACES[1])),)


async def test_the_last_drains_and_those_in_progress_are_kept(path: str, clock: Clock) -> None:
    planned = PlannedTime(not_before=60.5, before=90.25)
    async with HostStore.open(path, clock) as store:
        rules = attrs.evolve(DRAIN.rules, planned=planned)
        going_on = attrs.evolve(DRAIN, id="p", begun_at=-1.0, rules=rules)
        place = attrs.evolve(PLACES[1], drain="p")
        await store.keep(Changes(drains=(going_on,), drain_places=(place,)))
        for number in range(KEPT + 2):
            record = attrs.evolve(DRAIN, id=f"d{number}", begun_at=float(number), ended_at=99.0)
            place = attrs.evolve(PLACES[1], drain=record.id)
            await store.keep(Changes(drains=(record,), drain_places=(place,)))
        kept = (await store.recall()).drains
        assert [one.record.id for one in kept] == ["p", *(f"d{n}" for n in range(2, KEPT + 2))]
        assert kept[0].record == going_on
        assert all(len(one.places) == 1 for one in kept)


async def test_corrective_commands_count_for_an_hour(path: str, clock: Clock) -> None:
    def run(after_s: float) -> CorrectiveRun:
        return CorrectiveRun(A, Moment("boot-1", after_s, T0.timestamp() + after_s))

    async with HostStore.open(path, clock) as store:
        await store.keep(Changes(runs=(run(0), run(100))))
        clock.pass_s(3650)
        await store.keep(Changes(runs=(run(3650),)))
        assert (await store.recall()).corrective_runs == (run(100), run(3650))
        # The clock was ahead and is set right.
        clock.pass_s(-86_400)
        await store.keep(Changes(runs=(run(-82_750),)))
        assert (await store.recall()).corrective_runs == (run(-82_750),)


async def test_corrective_commands_are_bounded(
    path: str, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host_rows, "RUNS", 3)
    runs = tuple(CorrectiveRun(f"u{n}", NOW) for n in range(5))
    async with HostStore.open(path, clock) as store:
        await store.keep(Changes(runs=runs))
        assert (await store.recall()).corrective_runs == runs[2:]


async def test_history_is_bounded_by_age_and_number(
    path: str, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hbtrio.store.host_store.HISTORY", 3)
    async with HostStore.open(path, clock) as store:
        await store.keep(Changes(history=(history("old"),)))
        clock.pass_s(86_400)
        await store.keep(Changes(history=tuple(history(f"r{n}") for n in range(5))))
        assert await store.prune(T0 + timedelta(hours=1), limit=2) == 3
        assert await store.prune(T0 + timedelta(hours=1), limit=2) == 0
        kept = await store.history()
        assert [record.entry.reason for record in kept] == ["r4", "r3", "r2"]
        page = await store.history(1, before=kept[0].id, uuid=A)
        assert [record.entry.reason for record in page] == ["r3"]


@pytest.mark.parametrize(
    ("later", "age_s"),
    [
        (Moment("boot-1", 510.0, 0.0), 10.0),
        (Moment("boot-1", 490.0, 9e9), 0.0),
        (Moment("boot-2", 3.0, T0.timestamp() + 60.0), 60.0),
        (Moment("boot-2", 3.0, 0.0), 0.0),
    ],
)
def test_the_age_of_a_moment(later: Moment, age_s: float) -> None:
    assert later.since(NOW) == age_s


def test_hosts_and_agents_refuse_each_others_files(path: str) -> None:
    open_database(path, HOST_SCHEMA).close()
    with pytest.raises(UserError, match="is a database of another program"):
        open_database(path, AGENT_SCHEMA)


def test_the_history_tables_of_hosts_and_agents_are_alike(tmp_path: Path) -> None:
    """One module reads and writes both; the agent's grew by migrations, with its defaults."""

    def columns(schema: Schema) -> set[tuple[str, str]]:
        path = str(tmp_path / f"{schema.owner}.db")
        open_database(path, schema).close()
        with closing(sqlite3.connect(path)) as db:
            rows = db.execute("PRAGMA table_info(history)").fetchall()
        return {(name, type_) for _, name, type_, *_ in rows}

    assert columns(HOST_SCHEMA) == columns(AGENT_SCHEMA)


async def test_one_host_at_a_time(path: str, clock: Clock) -> None:
    async with HostStore.open(path, clock):
        with pytest.raises(UserError) as refused:
            open_database(path, HOST_SCHEMA)
    text = f"{path}: another host has it open"
    assert (str(refused.value), refused.value.status) == (text, ExitStatus.IN_USE)


async def test_a_file_that_is_deleted(path: str, clock: Clock) -> None:
    async with HostStore.open(path, clock) as store:
        assert await store.files_fault() == ""
        os.unlink(path)
        fault = await store.files_fault()
    lost = "what is stored from now on is lost at the host's next start"
    assert fault == f"{path} was deleted or moved: {lost}"


async def test_a_backup_of_a_file_in_use_can_be_opened(
    path: str, clock: Clock, tmp_path: Path
) -> None:
    """As docs/configuration.md describes it: with SQLite's own backup."""
    copy = str(tmp_path / "copy.db")
    async with HostStore.open(path, clock) as store:
        await store.keep(Changes(known=(KnownInstance(uuid=A, state="x", boot_id="b"),)))
        with sqlite3.connect(path) as source, sqlite3.connect(copy) as target:
            source.backup(target)
        source.close()
        target.close()
    os.chmod(copy, 0o600)
    async with HostStore.open(copy, clock) as store:
        assert [one.uuid for one in (await store.recall()).instances] == [A]


def test_a_reject_that_an_older_file_has_is_kept(path: str) -> None:
    at = next(n for n, one in enumerate(HOST_SCHEMA.migrations) if one is drain_rows.REJECTED)
    older = open_database(path, attrs.evolve(HOST_SCHEMA, migrations=HOST_SCHEMA.migrations[:at]))
    for position, state in enumerate(("rejected", "blocked")):
        older.db.execute(
            "INSERT INTO drain_places VALUES ('d1', ?, 'u', '', '', '', ?, 'why', NULL, 0.0)",
            (position, state),
        )
    older.close()
    newer = open_database(path, HOST_SCHEMA)
    kept = newer.db.execute("SELECT state, rejected FROM drain_places").fetchall()
    newer.close()
    assert kept == [("rejected", "why"), ("blocked", None)]


def test_a_newer_file_is_refused(path: str) -> None:
    newest = len(HOST_SCHEMA.migrations)
    newer = attrs.evolve(
        HOST_SCHEMA, migrations=(*HOST_SCHEMA.migrations, ("CREATE TABLE more (x)",))
    )
    open_database(path, newer).close()
    with pytest.raises(UserError, match=f"schema version {newest + 1} is newer than {newest}"):
        open_database(path, HOST_SCHEMA)


@pytest.mark.parametrize(
    ("later", "same"),
    [
        ({}, True),
        ({"domain_id": 8}, False),
        # Without libvirt's word the socket decides.
        ({"domain_id": -1}, True),
        ({"domain_id": -1, "socket": "1:2:4"}, False),
        # A libvirtd that starts without any VM counts from one again.
        ({"socket": "1:2:4"}, False),
        ({"socket": ""}, True),
        ({"domain_id": 8, "socket": ""}, False),
        ({"boot_id": "boot-2"}, False),
    ],
)
def test_one_start_of_qemu(later: dict[str, Any], *, same: bool) -> None:
    assert KNOWN.is_same_start(attrs.evolve(KNOWN, **later)) is same


def test_an_unknown_boot_is_another_one() -> None:
    unknown = attrs.evolve(KNOWN, boot_id="")
    assert not unknown.is_same_start(unknown)
