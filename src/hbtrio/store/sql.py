"""What the store's SQL has in common: rows, counts, times and texts."""

from __future__ import annotations

import sqlite3
from datetime import UTC, datetime
from typing import Any


def rows(db: sqlite3.Connection, text: str, *values: object) -> list[tuple[Any, ...]]:
    """All rows of a statement, which is finished by that."""
    return db.execute(text, values).fetchall()


def changed(db: sqlite3.Connection, text: str, *values: object) -> int:
    """How many rows a statement changed."""
    return db.execute(text, values).rowcount


def epoch(time: datetime | None) -> float | None:
    """A time with its zone as it is kept: seconds since the epoch."""
    return None if time is None else time.timestamp()


def moment(seconds: float) -> datetime:
    """A kept time, in UTC."""
    return datetime.fromtimestamp(seconds, UTC)


def moment_or_none(seconds: float | None) -> datetime | None:
    """A kept time, in UTC, if there is one."""
    return None if seconds is None else moment(seconds)


def text_of(text: str) -> str:
    """Someone else's words as SQLite takes them: JSON may hold half a surrogate pair."""
    return text.encode("utf-8", "replace").decode()
