"""Speaks to PostgreSQL as to SQLite: translates statements, values and faults."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, Final

import psycopg
from psycopg import errors
from psycopg.abc import Buffer
from psycopg.adapt import Dumper
from psycopg.pq import TransactionStatus
from psycopg.types.string import StrDumperUnknown

from hbtrio.store.faults import StoreFault, StoreFenced, StoreLost
from hbtrio.store.postgres_agents import FENCED

_PARAMETER: Final = re.compile(r"\?|:(\w+)")

# Faults of the statement or its arguments, not of the server.
_PROGRAMMING: Final = (
    psycopg.DataError,
    psycopg.IntegrityError,
    psycopg.InterfaceError,
    psycopg.NotSupportedError,
    psycopg.ProgrammingError,
)


class _FlagDumper(Dumper):
    """Writes a bool as the number that its column has."""

    oid = psycopg.adapters.types["int2"].oid

    def dump(self, obj: bool) -> bytes:  # noqa: FBT001 - the base class has it
        return b"1" if obj else b"0"


class _TextDumper(StrDumperUnknown):
    """Writes a text without NUL, which JSON may contain but PostgreSQL refuses."""

    def dump(self, obj: str) -> Buffer | None:
        return super().dump(obj.replace("\0", "?"))


def adapt(connection: psycopg.Connection[Any]) -> None:
    """Makes a connection take the values that SQLite takes."""
    connection.adapters.register_dumper(bool, _FlagDumper)
    connection.adapters.register_dumper(str, _TextDumper)


@lru_cache(maxsize=1000)
def _translated(text: str) -> bytes:
    """Returns a statement in PostgreSQL's words, with psycopg's parameters."""
    text = text.replace("json_each(", "json_array_elements_text(")
    return _PARAMETER.sub(lambda found: f"%({found[1]})s" if found[1] else "%s", text).encode()


class PostgresConnection:
    """A connection that takes the statements of :mod:`hbtrio.store.sql`.

    Args:
        connection: the connection, in autocommit mode.
        commit: the statements that commit a transaction that has changed something.
    """

    def __init__(
        self, connection: psycopg.Connection[tuple[Any, ...]], commit: str = "COMMIT"
    ) -> None:
        self._connection = connection
        self._commit = commit
        self._changes = 0
        # What of them is committed or undone.
        self._settled = 0

    @property
    def in_transaction(self) -> bool:
        """See :class:`~hbtrio.store.sql.Connection`; False if the connection is lost."""
        status = self._connection.info.transaction_status
        return status in (TransactionStatus.INTRANS, TransactionStatus.INERROR)

    @property
    def total_changes(self) -> int:
        """See :class:`~hbtrio.store.sql.Connection`."""
        return self._changes

    def execute(
        self, text: str, values: Sequence[Any] | Mapping[str, Any] = (), /
    ) -> psycopg.Cursor[tuple[Any, ...]]:
        """See :class:`~hbtrio.store.sql.Connection`.

        Raises:
            StoreFault: the server can't do it now.
            StoreLost: the connection is lost.
            psycopg.Error: the statement or its values are wrong.
        """
        try:
            cursor = self._connection.execute(_translated(text), values or None)
        except psycopg.Error as error:
            raise self._fault(error) from error
        self._count(cursor)
        return cursor

    def executemany(self, text: str, values: Iterable[Sequence[Any]], /) -> None:
        """See :class:`~hbtrio.store.sql.Connection`; raises as :meth:`execute`."""
        with self._connection.cursor() as cursor:
            try:
                cursor.executemany(_translated(text), values)
            except psycopg.Error as error:
                raise self._fault(error) from error
            self._count(cursor)

    def commit(self) -> None:
        """See :class:`~hbtrio.store.sql.Connection`; raises as :meth:`execute`.

        Raises:
            StoreFenced: nothing was committed.
        """
        self.execute("COMMIT" if self._changes == self._settled else self._commit)
        self._settled = self._changes

    def rollback(self) -> None:
        """See :class:`~hbtrio.store.sql.Connection`; raises as :meth:`execute`."""
        self._settled = self._changes
        self.execute("ROLLBACK")

    def _count(self, cursor: psycopg.Cursor[tuple[Any, ...]]) -> None:
        if cursor.rowcount > 0 and not (cursor.statusmessage or "").startswith("SELECT"):
            self._changes += cursor.rowcount

    def _fault(self, error: psycopg.Error) -> Exception:
        if error.sqlstate == FENCED:
            return StoreFenced(reason_of(error))
        if self._connection.closed:
            return StoreLost(f"the connection is lost: {reason_of(error)}")
        if isinstance(error, errors.ReadOnlySqlTransaction):
            # It has become a standby; there may be another primary.
            return StoreLost(f"the server takes no changes any more: {reason_of(error)}")
        if isinstance(error, _PROGRAMMING) and not isinstance(error, errors.InsufficientPrivilege):
            return error
        return StoreFault(reason_of(error))


def reason_of(error: psycopg.Error) -> str:
    """Returns the fault in one line; libpq has one for each host."""
    if error.diag.message_primary:
        return error.diag.message_primary
    return "; ".join(filter(None, map(str.strip, str(error).splitlines()))) or type(error).__name__
