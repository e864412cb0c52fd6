"""Reads and writes rounds and the numbers of reports: one result per round, one effect per report.

All functions run inside a transaction of the store's worker.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Any, Final

from hbtrio.store.records import NewEntry, RoundRecord, RoundResult
from hbtrio.store.sql import changed, epoch, moment, moment_or_none, records, rows, text_of
from hbtrio.wire.vocabulary import Event, VoteResult

#: The most host processes per host whose report numbers are kept: the current one, and earlier ones
#: whose connections may still be open.
BOOTS: Final = 4

_COLUMNS: Final = (
    "command_id, uuid, hostname, event, vote, asked_by, asked_at, window_s, replied, result,"
    " reason, answered_at, boot_id"
)


def open_round(db: sqlite3.Connection, opened: RoundRecord) -> None:
    """Inserts a round.

    Raises:
        sqlite3.IntegrityError: the command id was used before.
    """
    db.execute(
        f"INSERT INTO rounds ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
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
        ),
    )


def replied(db: sqlite3.Connection, command_id: str) -> bool:
    """Marks the reply to the requester as written; False if the round is unknown."""
    return changed(db, "UPDATE rounds SET replied = 1 WHERE command_id = ?", command_id) == 1


def close_round(db: sqlite3.Connection, result: RoundResult, now: float) -> bool:
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


def find(db: sqlite3.Connection, command_id: str) -> RoundRecord | None:
    """Returns a round, open or closed, or None."""
    found = rows(db, f"SELECT {_COLUMNS} FROM rounds WHERE command_id = ?", command_id)
    return records(_round, found)[0] if found else None


def still_open(db: sqlite3.Connection) -> tuple[RoundRecord, ...]:
    """Returns the open rounds, the oldest first."""
    text = f"SELECT {_COLUMNS} FROM rounds WHERE answered_at IS NULL ORDER BY asked_at"
    return records(_round, rows(db, text))


def prune(db: sqlite3.Connection, older_than: float, limit: int) -> int:
    """Removes rounds closed before ``older_than``; returns how many."""
    return changed(
        db,
        "DELETE FROM rounds WHERE command_id IN"
        " (SELECT command_id FROM rounds WHERE answered_at < ? ORDER BY answered_at LIMIT ?)",
        older_than,
        limit,
    )


def acknowledged(db: sqlite3.Connection, hostname: str, boot_id: str) -> int:
    """Returns the number of the last report taken from this host process; 0 for none."""
    return _known(db, hostname, boot_id) or 0


def welcome(db: sqlite3.Connection, hostname: str, boot_id: str) -> int:
    """Records that this host process has a link; returns what :func:`acknowledged` does."""
    known = _known(db, hostname, boot_id)
    if known is None:  # with AUTOINCREMENT, even an insert that does nothing writes
        _note_link(db, hostname, boot_id, "DO NOTHING", 0)
    return known or 0


def _known(db: sqlite3.Connection, hostname: str, boot_id: str) -> int | None:
    found = rows(
        db,
        "SELECT acknowledged FROM links WHERE hostname = ? AND boot_id = ?",
        text_of(hostname),
        text_of(boot_id),
    )
    return int(found[0][0]) if found else None


def forget_links(db: sqlite3.Connection, hostname: str) -> None:
    """Removes all records of the host's links."""
    db.execute("DELETE FROM links WHERE hostname = ?", (text_of(hostname),))


def linked(db: sqlite3.Connection) -> frozenset[str]:
    """Returns the hosts that have had a link."""
    return frozenset(name for (name,) in rows(db, "SELECT DISTINCT hostname FROM links"))


def acknowledge(db: sqlite3.Connection, hostname: str, boot_id: str, number: int) -> bool:
    """Records that a report is taken; False if this number or a later one was taken before."""
    if number <= acknowledged(db, hostname, boot_id):
        return False
    _note_link(db, hostname, boot_id, "DO UPDATE SET acknowledged = excluded.acknowledged", number)
    return True


def _note_link(
    db: sqlite3.Connection, hostname: str, boot_id: str, otherwise: str, number: int
) -> None:
    noted = changed(
        db,
        "INSERT INTO links (hostname, boot_id, acknowledged) VALUES (?, ?, ?)"
        f" ON CONFLICT {otherwise}",
        text_of(hostname),
        text_of(boot_id),
        number,
    )
    if noted:
        db.execute(
            "DELETE FROM links WHERE id IN"
            " (SELECT id FROM links WHERE hostname = ? ORDER BY id DESC LIMIT -1 OFFSET ?)",
            (text_of(hostname), BOOTS),
        )


def still_wanted(
    db: sqlite3.Connection, result: RoundResult, entries: Sequence[NewEntry], now: float
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
