"""Helpers for the store's SQL: rows, counts, times and texts."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Any, TypeVar

T = TypeVar("T")


def rows(db: sqlite3.Connection, text: str, *values: object) -> list[tuple[Any, ...]]:
    """Runs a statement to its end and returns all rows."""
    return db.execute(text, values).fetchall()


def records(
    make: Callable[[tuple[Any, ...]], T], found: Iterable[tuple[Any, ...]]
) -> tuple[T, ...]:
    """Makes records of rows.

    Raises:
        sqlite3.DatabaseError: a row holds what was never stored. SQLite has no checksum of its
            pages, so it may not notice that the file is damaged.
    """
    try:
        return tuple(map(make, found))
    except (ValueError, TypeError, KeyError, OverflowError, OSError) as error:
        raise sqlite3.DatabaseError(f"a damaged row: {error!r}") from error


def changed(db: sqlite3.Connection, text: str, *values: object) -> int:
    """Runs a statement and returns how many rows it changed."""
    return db.execute(text, values).rowcount


def epoch(time: datetime | None) -> float | None:
    """Converts a timezone-aware time to seconds since the epoch."""
    return None if time is None else time.timestamp()


def moment(seconds: float) -> datetime:
    """Converts seconds since the epoch to a time in UTC."""
    return datetime.fromtimestamp(seconds, UTC)


def moment_or_none(seconds: float | None) -> datetime | None:
    """Converts seconds since the epoch to a time in UTC; None stays None."""
    return None if seconds is None else moment(seconds)


def text_of(text: str) -> str:
    """Replaces lone surrogates, which JSON may contain but SQLite refuses."""
    return text.encode("utf-8", "replace").decode()
