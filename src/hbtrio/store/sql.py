"""Helpers for the store's SQL: rows, counts, times and texts.

Statements are written once, in words that SQLite and PostgreSQL both have:

- ``ON CONFLICT (…) DO UPDATE`` (:func:`upsert`) or ``DO NOTHING``, not ``INSERT OR …``.
- No number is a condition: ``true``, ``= 1``.
- No ``LIMIT -1``, but :data:`NO_LIMIT`.
- ``ORDER BY`` wherever the order matters.
- A list of texts is a parameter in JSON: ``uuid IN (SELECT value FROM json_each(?))``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final, Protocol, TypeVar

from hbtrio.store.faults import StoreFault

T = TypeVar("T")

#: The limit of a query that has none but needs one for its OFFSET.
NO_LIMIT: Final = 2**63 - 1


class Rows(Protocol):
    """What a statement has brought."""

    @property
    def rowcount(self) -> int:
        """How many rows it changed."""

    def fetchall(self) -> list[tuple[Any, ...]]:
        """Returns its rows."""


class Connection(Protocol):
    """A connection to the database; one thread uses it.

    Its faults become a :class:`~hbtrio.store.faults.StoreFault` where the transaction ends, see
    :mod:`hbtrio.store.jobs`.
    """

    @property
    def in_transaction(self) -> bool:
        """Whether a transaction is open."""

    @property
    def total_changes(self) -> int:
        """How many rows were changed since the connection was opened."""

    def execute(self, text: str, values: Sequence[Any] | Mapping[str, Any] = (), /) -> Rows:
        """Runs a statement with parameters ``?`` or ``:name``."""

    def commit(self) -> None:
        """Commits the open transaction."""

    def rollback(self) -> None:
        """Undoes the open transaction."""

    def executemany(self, text: str, values: Iterable[Sequence[Any]], /) -> object:
        """Runs a statement once for each of ``values``."""


def rows(db: Connection, text: str, *values: object) -> list[tuple[Any, ...]]:
    """Runs a statement to its end and returns all rows."""
    return db.execute(text, values).fetchall()


def records(
    make: Callable[[tuple[Any, ...]], T], found: Iterable[tuple[Any, ...]]
) -> tuple[T, ...]:
    """Makes records of rows.

    Raises:
        StoreFault: a row holds what was never stored. SQLite has no checksum of its pages, so it
            may not notice that the file is damaged.
    """
    try:
        return tuple(map(make, found))
    except (ValueError, TypeError, KeyError, OverflowError, OSError) as error:
        raise StoreFault(f"a damaged row: {error!r}") from error


def changed(db: Connection, text: str, *values: object) -> int:
    """Runs a statement and returns how many rows it changed."""
    return db.execute(text, values).rowcount


def insert(table: str, columns: str) -> str:
    """Returns the statement that inserts a row; ``columns`` are separated by commas."""
    marks = ", ".join("?" for _ in columns.split(","))
    return f"INSERT INTO {table} ({columns}) VALUES ({marks})"


def upsert(table: str, columns: str, key: str) -> str:
    """Returns the statement that stores a row in place of the one with the same key.

    Args:
        table: the table.
        columns: all that the row has, separated by commas.
        key: those of them that are its primary key.
    """
    keys = {name.strip() for name in key.split(",")}
    others = [name for name in map(str.strip, columns.split(",")) if name not in keys]
    news = ", ".join(f"{name} = excluded.{name}" for name in others)
    return f"{insert(table, columns)} ON CONFLICT ({key}) DO UPDATE SET {news}"


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
    """Replaces lone surrogates, which JSON may contain but a database refuses."""
    return text.encode("utf-8", "replace").decode()
