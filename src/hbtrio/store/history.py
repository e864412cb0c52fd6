"""Reads, writes and prunes the history table."""

from __future__ import annotations

from typing import Any, Final

from hbtrio.fsm.delivery import OutboxState
from hbtrio.store.records import HistoryEntry, HistoryRecord
from hbtrio.store.sql import (
    Connection,
    changed,
    epoch,
    insert,
    moment,
    moment_or_none,
    records,
    rows,
    text_of,
)
from hbtrio.wire.vocabulary import CorrectiveAction, Event, VoteResult

_COLUMNS: Final = (
    "time, kind, uuid, hostname, event, result, reason, who, corrective_action, asked_at,"
    " command_id, note"
)

_INSERT: Final = insert("history", f"{_COLUMNS}, kept_at")

#: SQLite uses the index only for a query with the index's own condition.
_OF_COMMAND: Final = "command_id = ? AND command_id <> ''"


def record(db: Connection, entry: HistoryEntry, now: float) -> HistoryEntry | None:
    """Inserts an entry, unless its command has one: then that one gets a note.

    Args:
        db: the database.
        entry: the entry.
        now: in seconds since the epoch; decides when to prune the entry.

    Returns:
        The inserted entry, or the one with a new note; None if nothing changed.
    """
    before = _of_command(db, entry.command_id) if entry.command_id else None
    if before is not None:
        if (before.result, before.reason) == (entry.result, entry.reason):
            return None
        what = ": ".join(filter(None, (entry.result or entry.kind, entry.reason)))
        return note(
            db, entry.hostname, entry.command_id, f"{entry.hostname} reported later: {what}"
        )
    db.execute(
        _INSERT,
        (
            entry.time.timestamp(),
            entry.kind,
            entry.uuid,
            text_of(entry.hostname),
            entry.event or "",
            entry.result or "",
            text_of(entry.reason),
            text_of(entry.who),
            entry.corrective_action or "",
            epoch(entry.asked_at),
            text_of(entry.command_id),
            text_of(entry.note),
            now,
        ),
    )
    return entry


def note(db: Connection, hostname: str, command_id: str, text: str) -> HistoryEntry | None:
    """Notes on a command's entry what its host revealed later; only the first note is kept.

    Returns the entry with its note; None if this host had no such command, or there is a note.
    """
    noted = changed(
        db,
        f"UPDATE history SET note = ? WHERE {_OF_COMMAND} AND hostname = ? AND note = ''",
        text_of(text),
        text_of(command_id),
        text_of(hostname),
    )
    return _of_command(db, command_id) if noted else None


def _of_command(db: Connection, command_id: str) -> HistoryEntry | None:
    text = f"SELECT id, {_COLUMNS} FROM history WHERE {_OF_COMMAND}"
    found = rows(db, text, text_of(command_id))
    return records(_record, found)[0].entry if found else None


def read(
    db: Connection,
    limit: int,
    before: int | None,
    uuid: str | None,
    kept_since: float | None = None,
) -> tuple[HistoryRecord, ...]:
    """Returns the newest records first.

    Args:
        db: the database.
        limit: the most records.
        before: only records older than the one with this id.
        uuid: only records of this instance.
        kept_since: only records inserted since then, in seconds since the epoch.
    """
    where: list[str] = ["true"]
    values: list[object] = []
    if before is not None:
        where.append("id < ?")
        values.append(before)
    if uuid is not None:
        where.append("uuid = ?")
        values.append(uuid)
    if kept_since is not None:
        # By the first id, so that the index of this time serves and the order stays that of ids.
        where.append("id >= (SELECT min(id) FROM history WHERE kept_at >= ?)")
        values.append(kept_since)
    text = f"SELECT id, {_COLUMNS} FROM history WHERE {' AND '.join(where)}"
    found = rows(db, f"{text} ORDER BY id DESC LIMIT ?", *values, limit)
    return records(_record, found)


def newest(db: Connection) -> int:
    """Returns the id of the newest record; 0 if there is none."""
    [(number,)] = rows(db, "SELECT coalesce(max(id), 0) FROM history")
    return int(number)


def newer(db: Connection, than: int, kind: str, limit: int) -> tuple[HistoryRecord, ...]:
    """Returns the records of a kind with an id above ``than``, the oldest first."""
    text = f"SELECT id, {_COLUMNS} FROM history WHERE id > ? AND kind = ? ORDER BY id LIMIT ?"
    return records(_record, rows(db, text, than, kind, limit))


def newly_undelivered(
    db: Connection, after: int, last: int, limit: int
) -> tuple[int, tuple[HistoryEntry, ...]]:
    """Returns entries that became undelivered since the record ``after``, the oldest first.

    ``last`` is the newest record. The number that comes first is ``after`` for the next call.
    """
    if after >= last:
        return last, ()
    found = newer(db, after, OutboxState.UNDELIVERED, limit)
    return (
        found[-1].id if len(found) == limit else last,
        tuple(record.entry for record in found),
    )


def prune(db: Connection, older_than: float, limit: int) -> int:
    """Removes records inserted before ``older_than``, by the daemon's clock; returns how many."""
    return changed(
        db,
        "DELETE FROM history WHERE id IN"
        " (SELECT id FROM history WHERE kept_at < ? ORDER BY kept_at LIMIT ?)",
        older_than,
        limit,
    )


def prune_beyond(db: Connection, most: int, limit: int) -> int:
    """Removes the oldest records beyond the newest ``most``; returns how many, up to ``limit``."""
    edge = newest(db) - most
    return changed(
        db,
        "DELETE FROM history WHERE id IN"
        " (SELECT id FROM history WHERE id <= ? ORDER BY id LIMIT ?)",
        edge,
        limit,
    )


def _record(row: tuple[Any, ...]) -> HistoryRecord:
    number, time, kind, uuid, hostname, event, result, reason, who, action, asked_at = row[:11]
    command_id, note_text = row[11:]
    entry = HistoryEntry(
        time=moment(time),
        kind=kind,
        uuid=uuid,
        hostname=hostname,
        reason=reason,
        event=Event(event) if event else None,
        result=VoteResult(result) if result else None,
        who=who,
        corrective_action=CorrectiveAction(action) if action else None,
        asked_at=moment_or_none(asked_at),
        command_id=command_id,
        note=note_text,
    )
    return HistoryRecord(number, entry)
