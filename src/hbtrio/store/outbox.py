"""Reads and writes the outbox: the entries for the VIM and their expiry.

An alarm may be held back, see :mod:`hbtrio.store.held_alarms`; later entries don't wait for it.
:mod:`hbtrio.store.delivery_order` says which entries are next.

All functions run inside a transaction of the store's worker. ``now`` is the wall clock in seconds
since the epoch, ``clock`` is trio's. A verdict expires by trio's clock, because the wall clock may
be set. The clock of an earlier process is gone: :func:`settle_interrupted` converts the time that
its verdicts have left by the wall clock, once, when the delivery starts.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from hbtrio.fsm.delivery import OutboxKind, OutboxState
from hbtrio.store import history, rounds
from hbtrio.store.records import Entry, HistoryEntry, NewEntry
from hbtrio.store.sql import (
    NO_LIMIT,
    Connection,
    changed,
    epoch,
    moment,
    moment_or_none,
    records,
    rows,
    text_of,
)
from hbtrio.wire.vim import is_ill_health, lets_act

#: The most waiting alarms per instance; one more makes the oldest undelivered.
ALARMS_PER_INSTANCE: Final = 100

#: The least time that a machine needs to be up again after a power cut, in seconds: a verdict with
#: less time left expires before it could be sent a second time.
REBOOT_S: Final = 20.0

#: What :func:`entry_of` takes, in its order.
COLUMNS: Final = (
    "id, kind, uuid, command_id, body, expires_at, state, attempts, queued_at, done_at, fault,"
    " refused_since"
)

#: The fault of an expired verdict.
TOO_LATE: Final = "its window was over before it could be sent"

#: The fault of ill health that had not been sent when the VIM was about to act on the instance.
ACTED_ON: Final = "the VIM acts on the instance; ill health that lasts is reported again"

_INTERRUPTED: Final = "the agent ended while it was being sent"

# A new alarm is held if its host's alarms are held back.
_QUEUED: Final = """
    CASE WHEN :held = 1 OR :kind = 'alarm' AND :hostname IN (SELECT hostname FROM holds)
    THEN 'held' ELSE 'queued' END
"""

#: Which entries expire by which clock; these must match the conditions of their indexes.
BY_CLOCK: Final = "state = 'queued' AND deadline"
BY_WALL_CLOCK: Final = "state = 'queued' AND deadline IS NULL AND expires_at"

# Seconds until an entry expires; the parameters are trio's clock and the wall clock.
_LEFT: Final = "coalesce(deadline - ?, expires_at - ?, 1e308)"


def queue(db: Connection, entries: Iterable[NewEntry], now: float) -> None:
    """Queues entries.

    A state replaces a queued state of its instance, but not one that is being sent. A verdict after
    which the VIM acts withdraws the waiting alarms of ill health of its instance: the VIM would
    repair what it is acting on. A second verdict for a command is ignored.
    """
    for new in entries:
        since = now
        if new.kind is OutboxKind.SERVICE:
            replaced = rows(
                db,
                "DELETE FROM outbox WHERE uuid = ? AND done_at IS NULL AND kind = 'service'"
                " AND state = 'queued' RETURNING queued_at",
                new.uuid,
            )
            since = min([now, *(at for (at,) in replaced)])
        db.execute(
            "INSERT INTO outbox"
            " (kind, place, uuid, command_id, body, expires_at, deadline, state, queued_at,"
            " hostname)"
            " VALUES (:kind, :place, :uuid, :command_id, :body, :expires_at, :deadline,"
            f" {_QUEUED}, :queued_at, :hostname) ON CONFLICT DO NOTHING",
            {
                "kind": new.kind,
                "place": 0 if new.kind is OutboxKind.ACTION else 1,
                "uuid": new.uuid,
                "command_id": new.command_id,
                "body": new.body,
                "expires_at": epoch(new.expires_at),
                "deadline": new.deadline,
                "queued_at": since,
                "hostname": text_of(new.hostname),
                "held": new.held,
            },
        )
        if new.kind is OutboxKind.ALARM:
            _drop_oldest_alarms(db, new.uuid, now)
        elif new.kind is OutboxKind.ACTION and lets_act(new.body):
            _withdraw_ill_health(db, new.uuid, now)


def _withdraw_ill_health(db: Connection, uuid: str, now: float) -> None:
    waiting = rows(
        db,
        "SELECT id, body FROM outbox WHERE uuid = ? AND done_at IS NULL AND kind = 'alarm'"
        " AND state IN ('queued', 'held')",
        uuid,
    )
    for entry_id, body in waiting:
        if is_ill_health(body):
            mark_done(db, entry_id, OutboxState.UNDELIVERED, ACTED_ON, now)


def _drop_oldest_alarms(db: Connection, uuid: str, now: float) -> None:
    end(
        db,
        "id IN (SELECT id FROM outbox WHERE uuid = ? AND done_at IS NULL AND kind = 'alarm'"
        " AND state IN ('queued', 'held') ORDER BY id DESC LIMIT ? OFFSET ?)",
        (uuid, NO_LIMIT, ALARMS_PER_INSTANCE),
        OutboxState.UNDELIVERED,
        f"{ALARMS_PER_INSTANCE} newer alarms of the instance were waiting",
        now,
    )


def mark_sending(db: Connection, entry_id: int, now: float, clock: float) -> float | None:
    """Marks an entry as being sent, before its first byte is written.

    Returns for how many seconds a repetition would do harm: the rest of a verdict's window, else 0.
    Returns None if the entry must not be sent any more.
    """
    found = rows(
        db,
        "UPDATE outbox SET state = 'sending' WHERE id = ? AND state = 'queued'"
        f" AND {_LEFT} > 0 RETURNING kind, {_LEFT}",
        entry_id,
        clock,
        now,
        clock,
        now,
    )
    if not found:
        return None
    [(kind, left_s)] = found
    return left_s if kind == OutboxKind.ACTION else 0.0


def mark_done(db: Connection, entry_id: int, state: OutboxState, fault: str, now: float) -> None:
    """Ends a delivery; one that has ended already is left as it is."""
    end(db, "id = ? AND done_at IS NULL", (entry_id,), state, fault, now)


def back_to_queue(
    db: Connection,
    entry_id: int,
    fault: str,
    now: float,
    clock: float,
    *,
    reached: bool,
    refused: bool,
) -> None:
    """Queues an entry again after a failed attempt.

    A state that was superseded meanwhile is deleted, and ill health is withdrawn if the VIM acts.

    Args:
        db: the connection.
        entry_id: the entry.
        fault: why the attempt failed.
        now: the wall clock.
        clock: trio's clock.
        reached: whether the VIM could be reached.
        refused: whether the VIM refused or reset the request.
    """
    db.execute(
        "UPDATE outbox SET failures = failures + ?,"
        " refused_since = CASE WHEN ? = 1 THEN coalesce(refused_since, ?) END"
        " WHERE id = ? AND done_at IS NULL",
        (reached, refused, clock, entry_id),
    )
    _queue_again(db, "id = ? AND done_at IS NULL", (entry_id,), fault, now)


def settle_interrupted(db: Connection, now: float, clock: float) -> None:
    """Settles the entries that were being sent when the last delivery ended, see Store.

    Verdicts of an earlier process that are still queued get a deadline on this process's clock, so
    that the wall clock may be set from now on.

    Args:
        db: the connection.
        now: the wall clock.
        clock: trio's clock.
    """
    end(
        db,
        "done_at IS NULL AND state = 'sending' AND kind = 'action'",
        (),
        OutboxState.UNCONFIRMED,
        _INTERRUPTED,
        now,
    )
    end(
        db,
        f"{BY_WALL_CLOCK} IS NOT NULL AND queued_at > ?",
        (now,),
        OutboxState.UNDELIVERED,
        "the clock was set back: the VIM may no longer wait",
        now,
    )
    db.execute(
        f"UPDATE outbox SET deadline = expires_at - ? WHERE {BY_WALL_CLOCK} IS NOT NULL",
        (now - clock,),
    )
    _queue_again(db, "done_at IS NULL AND state = 'sending'", (), _INTERRUPTED, now)


def _queue_again(
    db: Connection, where: str, values: tuple[object, ...], fault: str, now: float
) -> None:
    text = (
        "UPDATE outbox SET attempts = attempts + 1, fault = ?,"
        " state = CASE WHEN kind = 'alarm' AND hostname IN (SELECT hostname FROM holds)"
        " THEN 'held' ELSE 'queued' END"
    )
    for entry_id, kind, uuid, body in rows(
        db, f"{text} WHERE {where} RETURNING id, kind, uuid, body", fault, *values
    ):
        if kind == OutboxKind.SERVICE:
            # A newer state exists, queued or sent: this one must not be sent after it.
            db.execute(
                "DELETE FROM outbox WHERE id = ? AND EXISTS"
                " (SELECT 1 FROM outbox WHERE uuid = ? AND kind = 'service' AND id > ?)",
                (entry_id, uuid, entry_id),
            )
        elif kind == OutboxKind.ALARM and is_ill_health(body):
            later = "SELECT body FROM outbox WHERE uuid = ? AND kind = 'action' AND id > ?"
            if any(lets_act(verdict) for (verdict,) in rows(db, later, uuid, entry_id)):
                mark_done(db, entry_id, OutboxState.UNDELIVERED, ACTED_ON, now)


def entries(db: Connection, limit: int) -> tuple[Entry, ...]:
    """Returns the newest entries, newest first."""
    found = rows(db, f"SELECT {COLUMNS} FROM outbox ORDER BY id DESC LIMIT ?", limit)
    return records(entry_of, found)


def prune(db: Connection, older_than: float, limit: int) -> int:
    """Removes deliveries that ended before ``older_than``; returns how many."""
    return changed(
        db,
        "DELETE FROM outbox WHERE id IN"
        " (SELECT id FROM outbox WHERE done_at < ? ORDER BY done_at LIMIT ?)",
        older_than,
        limit,
    )


def end(
    db: Connection,
    where: str,
    values: tuple[object, ...],
    state: OutboxState,
    fault: str,
    now: float,
) -> list[Entry]:
    """Ends the deliveries that match a condition; records undelivered ones in the history."""
    text = "UPDATE outbox SET state = ?, fault = ?, done_at = ?"
    found = rows(db, f"{text} WHERE {where} RETURNING {COLUMNS}", state, fault, now, *values)
    ended = list(records(entry_of, found))
    if state is OutboxState.UNDELIVERED:
        # Operators need to know what the VIM never received.
        for entry in ended:
            _record_undelivered(db, entry, now)
    return ended


def withdraw(db: Connection, command_id: str, reason: str, now: float) -> None:
    """Ends the queued verdict of a command as undelivered."""
    where = "command_id = ? AND state = 'queued'"
    end(db, where, (command_id,), OutboxState.UNDELIVERED, reason, now)


def _record_undelivered(db: Connection, entry: Entry, now: float) -> None:
    asked = rounds.find(db, entry.command_id)
    bound = rows(db, "SELECT hostname FROM instances WHERE uuid = ?", entry.uuid)
    history.record(
        db,
        HistoryEntry(
            time=moment(now),
            kind="undelivered",
            uuid=entry.uuid,
            hostname=asked.hostname if asked else "".join(name for (name,) in bound),
            reason=f"{entry.kind}: {entry.fault}",
            event=asked.event if asked else None,
            result=asked.result if asked else None,
            who=asked.asked_by if asked else "",
        ),
        now,
    )


def entry_of(row: tuple[Any, ...]) -> Entry:
    """Makes an entry of a row of :data:`COLUMNS`."""
    number, kind, uuid, command_id, body, expires, state, attempts, queued, done, fault, since = row
    return Entry(
        id=number,
        kind=OutboxKind(kind),
        uuid=uuid,
        command_id=command_id,
        body=body,
        expires_at=moment_or_none(expires),
        state=OutboxState(state),
        attempts=attempts,
        queued_at=moment(queued),
        done_at=moment_or_none(done),
        fault=fault,
        refused_since=since,
    )
