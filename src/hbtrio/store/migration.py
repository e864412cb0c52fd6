"""Describes the schema of a database, and migrates a SQLite file to its newest version.

Both engines share the migrations; :mod:`hbtrio.store.postgres_schema` has the other one's.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

import attrs


class SqliteOnly(str):
    """A statement of a migration that PostgreSQL does without."""

    __slots__ = ()


class PostgresOnly(str):
    """A statement of a migration that SQLite does without."""

    __slots__ = ()


@attrs.frozen(kw_only=True)
class Schema:
    """The schema of one daemon's database.

    Args:
        owner: the daemon, as messages name it: ``agent``.
        application_id: ``PRAGMA application_id``: distinguishes the file from those of other
            programs.
        migrations: entry ``n`` migrates a database from version n to n + 1. Never edit a released
            entry, only append.
        at_start: statements that are run each time the database is opened, after the migration.
    """

    owner: str
    application_id: int
    migrations: tuple[tuple[str, ...], ...]
    at_start: tuple[str, ...] = ()


def migrate(db: sqlite3.Connection, migrations: Sequence[Sequence[str]]) -> None:
    """Migrates a database to the newest version, with one transaction per step.

    Raises:
        ValueError: the database is from a newer version.
    """
    (version,) = db.execute("PRAGMA user_version").fetchone()
    if version > len(migrations):
        raise ValueError(f"schema version {version} is newer than {len(migrations)}")
    for number, statements in enumerate(migrations[version:], version + 1):
        db.execute("BEGIN IMMEDIATE")
        try:
            for statement in statements:
                if not isinstance(statement, PostgresOnly):
                    db.execute(statement)
            db.execute(f"PRAGMA user_version = {number}")
            db.execute("COMMIT")
        except BaseException:
            db.execute("ROLLBACK")
            raise
