"""Pieces of work on the database, and the transactions in which they run."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Final

from hbtrio.store.faults import StoreFault
from hbtrio.store.sql import Connection

#: Errors in the SQL or its arguments, not of the disk.
_PROGRAMMING: Final = (sqlite3.IntegrityError, sqlite3.ProgrammingError, sqlite3.InterfaceError)


class Job:
    """A piece of work and its result; ``work`` may run again after a rollback."""

    def __init__(self, work: Callable[[Connection], Any]) -> None:
        self.work = work
        self.result: Any = None
        self.error: Exception | None = None

    def outcome(self) -> Any:
        """Returns the result of the work.

        Raises:
            StoreFault: nothing was changed.
            Exception: the error that the work raised; nothing was changed.
        """
        if self.error is not None:
            raise self.error
        return self.result


def perform(db: Connection, jobs: Sequence[Job]) -> None:
    """Runs jobs in one transaction; if one fails, runs each in its own transaction."""
    if _perform(db, jobs) or len(jobs) == 1:
        return
    for job in jobs:
        _perform(db, [job])


def _perform(db: Connection, jobs: Sequence[Job]) -> bool:
    try:
        db.execute("BEGIN")
        for job in jobs:
            job.error = None
            job.result = job.work(db)
        db.commit()
    except Exception as error:  # noqa: BLE001 - raised in the caller of the work
        for job in jobs:
            job.error = _fault(error)
        # On a full disk SQLite has rolled back already.
        if db.in_transaction:
            with suppress(sqlite3.Error, StoreFault):
                db.rollback()
        return False
    return True


def _fault(error: Exception) -> Exception:
    if isinstance(error, sqlite3.Error) and not isinstance(error, _PROGRAMMING):
        fault = StoreFault(str(error))
        fault.__cause__ = error
        return fault
    return error
