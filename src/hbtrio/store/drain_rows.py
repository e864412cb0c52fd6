"""Reads and writes the tables of drains, which the stores of host and agent both have."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, Final

from hbtrio.fsm.drain import DrainItem, DrainPhase
from hbtrio.fsm.drain_records import KEPT, DrainPlace, DrainRecord, StoredDrain
from hbtrio.fsm.drain_rules import DrainRules, OnReject
from hbtrio.fsm.drain_table import DrainState
from hbtrio.fsm.planned_time import PlannedTime
from hbtrio.store.sql import Connection, records, rows, text_of, upsert
from hbtrio.wire.vocabulary import ActionName

#: The statements of the migration that brings the tables.
TABLES: Final = (
    """
    CREATE TABLE drains (
        id TEXT PRIMARY KEY,
        action TEXT NOT NULL,
        command TEXT NOT NULL,
        parallel INTEGER NOT NULL,
        retry_for_s REAL NOT NULL,
        on_reject TEXT NOT NULL,
        ignore_hold INTEGER NOT NULL,
        who TEXT NOT NULL,
        begun_at REAL NOT NULL,
        boot_id TEXT NOT NULL,
        phase TEXT NOT NULL,
        reason TEXT NOT NULL,
        ended_at REAL
    ) STRICT, WITHOUT ROWID
    """,
    # refused_at and ask_at are by the clock of the drain's owner, of the boot in which it began.
    """
    CREATE TABLE drain_places (
        drain TEXT NOT NULL,
        position INTEGER NOT NULL,
        uuid TEXT NOT NULL,
        name TEXT NOT NULL,
        hostname TEXT NOT NULL,
        answer TEXT NOT NULL,
        state TEXT NOT NULL,
        reason TEXT NOT NULL,
        refused_at REAL,
        ask_at REAL NOT NULL,
        PRIMARY KEY (drain, position)
    ) STRICT, WITHOUT ROWID
    """,
)

#: Those of the migration that brings planned actions. The times are by the clock of the drain.
PLANNED: Final = (
    "ALTER TABLE drains ADD COLUMN not_before REAL",
    "ALTER TABLE drains ADD COLUMN act_before REAL",
)

#: Those of the migration that keeps an instance's last reject until its end. An older daemon has
#: kept that only as the reason of its state.
REJECTED: Final = (
    "ALTER TABLE drain_places ADD COLUMN rejected TEXT",
    "UPDATE drain_places SET rejected = reason WHERE state = 'rejected'",
)

_DRAIN: Final = (
    "id, action, command, parallel, retry_for_s, on_reject, ignore_hold, who, begun_at, boot_id,"
    " phase, reason, ended_at, not_before, act_before"
)
_PLACE: Final = (
    "drain, position, uuid, name, hostname, answer, state, reason, refused_at, ask_at, rejected"
)


def put_drains(db: Connection, drains: Iterable[DrainRecord]) -> None:
    """Stores drains, each in place of what was stored of it, and removes the oldest ended ones."""
    values = [
        (
            one.id,
            one.action,
            json.dumps(one.command),  # ASCII, exact for any argument
            one.rules.parallel,
            one.rules.retry_for_s,
            one.rules.on_reject,
            one.ignore_hold,
            text_of(one.who),
            one.begun_at,
            one.boot_id,
            one.phase.value,
            text_of(one.reason),
            one.ended_at,
            None if one.rules.planned is None else one.rules.planned.not_before,
            None if one.rules.planned is None else one.rules.planned.before,
        )
        for one in drains
    ]
    if not values:
        return
    db.executemany(upsert("drains", _DRAIN, "id"), values)
    kept = (
        f"SELECT id FROM drains WHERE ended_at IS NOT NULL ORDER BY begun_at DESC, id LIMIT {KEPT}"
    )
    db.execute(f"DELETE FROM drains WHERE ended_at IS NOT NULL AND id NOT IN ({kept})")
    db.execute("DELETE FROM drain_places WHERE drain NOT IN (SELECT id FROM drains)")


def put_places(db: Connection, places: Iterable[DrainPlace]) -> None:
    """Stores instances of drains, each in place of what was stored of it."""
    db.executemany(
        upsert("drain_places", _PLACE, "drain, position"),
        [
            (
                one.drain,
                one.position,
                one.item.uuid,
                text_of(one.name),
                one.hostname,
                text_of(one.answer),
                one.item.state.value,
                text_of(one.item.reason),
                one.item.refused_at,
                max(one.item.ask_at, 0.0),
                None if one.item.rejected is None else text_of(one.item.rejected),
            )
            for one in places
        ],
    )


def drains(db: Connection) -> tuple[StoredDrain, ...]:
    """Returns the drains that are kept, the oldest first."""
    found = records(_drain, rows(db, f"SELECT {_DRAIN} FROM drains ORDER BY begun_at, id"))
    text = f"SELECT {_PLACE} FROM drain_places WHERE drain = ? ORDER BY position"
    return tuple(StoredDrain(one, records(_place, rows(db, text, one.id))) for one in found)


def _drain(row: tuple[Any, ...]) -> DrainRecord:
    id_, action, command, parallel, retry_for_s, on_reject, ignore_hold, who = row[:8]
    begun_at, boot_id, phase, reason, ended_at, not_before, before = row[8:]
    planned = None
    if not_before is not None and before is not None:
        planned = PlannedTime(not_before=not_before, before=before)
    rules = DrainRules(
        parallel=parallel,
        retry_for_s=retry_for_s,
        on_reject=OnReject(on_reject),
        planned=planned,
    )
    return DrainRecord(
        id=id_,
        action=ActionName(action),
        command=tuple(json.loads(command)),
        rules=rules,
        ignore_hold=bool(ignore_hold),
        who=who,
        begun_at=begun_at,
        boot_id=boot_id,
        phase=DrainPhase(phase),
        reason=reason,
        ended_at=ended_at,
    )


def _place(row: tuple[Any, ...]) -> DrainPlace:
    drain, position, uuid, name, hostname, answer, state, reason = row[:8]
    refused_at, ask_at, rejected = row[8:]
    return DrainPlace(
        drain=drain,
        position=position,
        name=name,
        hostname=hostname,
        answer=answer,
        item=DrainItem(uuid, DrainState(state), reason, refused_at, ask_at, rejected=rejected),
    )
