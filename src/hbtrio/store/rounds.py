"""Reads and writes rounds: one result per round.

All functions run inside a transaction of the store's worker.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from hbtrio.store.faults import CommandIdUsed
from hbtrio.store.records import NewEntry, RoundRecord, RoundResult
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
from hbtrio.wire.vocabulary import Event, VoteResult

_COLUMNS: Final = (
    "command_id, uuid, hostname, event, vote, asked_by, asked_at, window_s, replied, result,"
    " reason, answered_at, boot_id"
)
_OPEN: Final = f"{insert('rounds', _COLUMNS)} ON CONFLICT DO NOTHING"


def open_round(db: Connection, opened: RoundRecord) -> None:
    """Inserts a round.

    Raises:
        CommandIdUsed: the command id was used before.
    """
    inserted = changed(
        db,
        _OPEN,
        opened.command_id,
        opened.uuid,
        text_of(opened.hostname),
        opened.event,
        opened.vote,
        text_of(opened.asked_by),
        epoch(opened.asked_at),
        opened.window_s,
        opened.replied,
        opened.result or "",
        text_of(opened.reason),
        epoch(opened.answered_at),
        text_of(opened.boot_id),
    )
    if not inserted:
        raise CommandIdUsed(opened.command_id)


def replied(db: Connection, command_id: str) -> bool:
    """Marks the reply to the requester as written; False if the round is unknown."""
    return changed(db, "UPDATE rounds SET replied = 1 WHERE command_id = ?", command_id) == 1


def close_round(db: Connection, result: RoundResult, now: float) -> bool:
    """Closes a round; False if the round is unknown or already closed."""
    return (
        changed(
            db,
            "UPDATE rounds SET result = ?, reason = ?, answered_at = ?"
            " WHERE command_id = ? AND answered_at IS NULL",
            result.result,
            text_of(result.reason),
            now,
            result.command_id,
        )
        == 1
    )


def find(db: Connection, command_id: str) -> RoundRecord | None:
    """Returns a round, open or closed, or None."""
    found = rows(db, f"SELECT {_COLUMNS} FROM rounds WHERE command_id = ?", command_id)
    return records(_round, found)[0] if found else None


def still_open(db: Connection) -> tuple[RoundRecord, ...]:
    """Returns the open rounds, the oldest first."""
    text = f"SELECT {_COLUMNS} FROM rounds WHERE answered_at IS NULL ORDER BY asked_at"
    return records(_round, rows(db, text))


def prune(db: Connection, older_than: float, limit: int) -> int:
    """Removes rounds closed before ``older_than``; returns how many."""
    return changed(
        db,
        "DELETE FROM rounds WHERE command_id IN"
        " (SELECT command_id FROM rounds WHERE answered_at < ? ORDER BY answered_at LIMIT ?)",
        older_than,
        limit,
    )


def still_wanted(
    db: Connection, result: RoundResult, entries: Sequence[NewEntry], now: float
) -> Sequence[NewEntry]:
    """Closes a round and returns those of ``entries`` that are still to be sent.

    If the round was closed before, its verdict exists and is left out. The verdict of an unknown
    round is sent, since the VIM did request it.
    """
    if close_round(db, result, now) or find(db, result.command_id) is None:
        return entries
    return [entry for entry in entries if entry.command_id != result.command_id]


def _round(row: tuple[Any, ...]) -> RoundRecord:
    command_id, uuid, hostname, event, vote, by, at, window_s, done, result, reason, ended, boot = (
        row
    )
    return RoundRecord(
        command_id=command_id,
        uuid=uuid,
        hostname=hostname,
        event=Event(event),
        vote=bool(vote),
        asked_by=by,
        asked_at=moment(at),
        window_s=window_s,
        replied=bool(done),
        result=VoteResult(result) if result else None,
        reason=reason,
        answered_at=moment_or_none(ended),
        boot_id=boot,
    )
