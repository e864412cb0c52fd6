"""Opens the database of an agent on PostgreSQL, and speaks to it as to SQLite.

The statements are SQLite's, see :mod:`hbtrio.store.sql`; here their parameters are translated. A
commit does not wait for the disk (``synchronous_commit = off``), as SQLite's does not: it survives
the agent. :meth:`PostgresDatabase.sync` waits on a second connection, and with it all that was
committed before, for the disk and for a synchronous standby. Unlike a file, a server that has
crashed or been replaced is back within seconds: a verdict is synced before it is sent, however
short its window is.

One agent at a time works on a database. The lock is held by the very session that writes: once
another one has it, the old session has ended and can write nothing.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, Final

import psycopg
from psycopg import conninfo, errors
from psycopg.abc import Buffer
from psycopg.adapt import Dumper
from psycopg.pq import TransactionStatus
from psycopg.types.string import StrDumperUnknown

from hbtrio.errors import ExitStatus, UserError
from hbtrio.store.faults import StoreFault, StoreLost
from hbtrio.store.migration import Schema
from hbtrio.store.postgres_schema import ForeignDatabaseError, migrate
from hbtrio.store.sql import Connection
from hbtrio.wire.database_url import without_options

#: The oldest release that is tested.
OLDEST: Final = 15

#: What libpq uses if the URL doesn't say otherwise. A host that is gone must be noticed within
#: seconds, and of several hosts the one that can be written is taken.
_DEFAULTS: Final = {
    "application_name": "hbtrio-agent",
    "connect_timeout": "3",
    "keepalives_idle": "2",
    "keepalives_interval": "1",
    "keepalives_count": "3",
    "target_session_attrs": "read-write",
    "tcp_user_timeout": "5000",
}

#: Every query reads by an index, whatever the server believes of a table that was empty when it
#: looked last: with its statistics some seconds old the next entries to send took it 6 s instead of
#: 0.5 ms. Without ``jit = off`` the high costs of what is disabled would start its compiler.
_SESSION: Final = """
    SET client_encoding = 'UTF8';
    SET jit = off;
    SET enable_bitmapscan = off;
    SET enable_hashjoin = off;
    SET enable_mergejoin = off;
    SET enable_seqscan = off;
    SET enable_sort = off;
"""

#: How long the session of an agent that has just ended may keep the lock, in milliseconds.
_LOCK_MS: Final = 2000

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


@lru_cache(maxsize=1000)
def _translated(text: str) -> bytes:
    """Returns a statement in PostgreSQL's words, with psycopg's parameters."""
    text = text.replace("json_each(", "json_array_elements_text(")
    return _PARAMETER.sub(lambda found: f"%({found[1]})s" if found[1] else "%s", text).encode()


class PostgresConnection:
    """A connection that takes the statements of :mod:`hbtrio.store.sql`.

    Args:
        connection: the connection, in autocommit mode.
    """

    def __init__(self, connection: psycopg.Connection[tuple[Any, ...]]) -> None:
        self._connection = connection
        self._changes = 0

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

    def _count(self, cursor: psycopg.Cursor[tuple[Any, ...]]) -> None:
        if cursor.rowcount > 0 and not (cursor.statusmessage or "").startswith("SELECT"):
            self._changes += cursor.rowcount

    def _fault(self, error: psycopg.Error) -> Exception:
        if self._connection.closed:
            return StoreLost(f"the connection is lost: {_reason(error)}")
        if isinstance(error, errors.ReadOnlySqlTransaction):
            # It has become a standby; there may be another primary.
            return StoreLost(f"the server takes no changes any more: {_reason(error)}")
        if isinstance(error, _PROGRAMMING) and not isinstance(error, errors.InsufficientPrivilege):
            return error
        return StoreFault(_reason(error))


class PostgresDatabase:
    """An open database; one thread uses and closes it, except for :meth:`sync`.

    Args:
        working: the connection for transactions, which has the lock.
        syncing: the one that waits for the disk.
    """

    def __init__(
        self,
        working: psycopg.Connection[tuple[Any, ...]],
        syncing: psycopg.Connection[tuple[Any, ...]],
    ) -> None:
        self.db: Connection = PostgresConnection(working)
        self._working = working
        self._syncing = syncing
        self._warnings: list[str] = []
        # An abandoned sync may still run when the connections are closed.
        self._in_use = threading.Lock()
        syncing.add_notice_handler(self._take_notice)

    def sync(self) -> None:
        """Waits until all commits are on the disk, and on a synchronous standby; in any thread.

        Raises:
            StoreLost: it is unknown whether they are.
        """
        with self._in_use:
            self._warnings.clear()
            try:
                self._syncing.execute("SELECT pg_logical_emit_message(true, 'hbtrio', '')")
            except psycopg.Error as error:
                raise StoreLost(f"the database failed to sync: {_reason(error)}") from error
            if self._warnings:
                # A wait for the standby that somebody has cancelled counts as a success.
                raise StoreLost(f"the database failed to sync: {self._warnings[0]}")

    def _take_notice(self, notice: errors.Diagnostic) -> None:
        if notice.severity_nonlocalized == "WARNING":
            self._warnings.append(notice.message_primary or "a warning")

    def files_fault(self) -> str:
        """Returns "": the files are the server's."""
        return ""

    def close(self) -> None:
        """Closes the connections, and with them gives up the lock."""
        self._working.close()
        with self._in_use:
            self._syncing.close()


def open_postgres(url: str, schema: Schema) -> PostgresDatabase:
    """Opens the database and migrates an older or empty one.

    Raises:
        UserError: UNREACHABLE if no server that can be written answers, or it refuses the user or
            the database's name, which libpq doesn't tell apart; DENIED if the user may not create
            tables; IN_USE if another agent has the database; USAGE if the URL is faulty, or the
            database is another program's, of a newer hbtrio, or not in UTF-8, or the server too
            old.
    """
    place = without_options(url)
    try:
        working = _connect(url)
        try:
            _check_server(working, place)
            db = PostgresConnection(working)
            _lock(working, place, schema.owner)
            migrate(db, schema)
            for statement in schema.at_start:
                db.execute(statement)
            working.execute("SET synchronous_commit = off")
            syncing = _connect(url)
            syncing.execute("SET synchronous_commit = on")
        except BaseException:
            working.close()
            raise
    except ForeignDatabaseError as error:
        raise UserError(f"{place}: {error}") from error
    except StoreFault as fault:
        raise UserError(f"{place}: {fault}", ExitStatus.FAILED) from fault
    except psycopg.Error as error:
        raise UserError(f"{place}: {_reason(error)}", _status_of(error)) from error
    return PostgresDatabase(working, syncing)


def _connect(url: str) -> psycopg.Connection[tuple[Any, ...]]:
    settings: dict[str, Any] = {**_DEFAULTS, **conninfo.conninfo_to_dict(url)}
    connection = psycopg.connect(**settings, autocommit=True)
    try:
        connection.execute(_SESSION)
        connection.adapters.register_dumper(bool, _FlagDumper)
        connection.adapters.register_dumper(str, _TextDumper)
    except BaseException:
        connection.close()
        raise
    return connection


def _check_server(connection: psycopg.Connection[tuple[Any, ...]], place: str) -> None:
    release = connection.info.server_version // 10000
    if release < OLDEST:
        raise UserError(f"{place}: is PostgreSQL {release}; {OLDEST} or newer is needed")
    encoding = connection.info.parameter_status("server_encoding")
    if encoding != "UTF8":
        raise UserError(f"{place}: its encoding is {encoding}; UTF8 is needed")


def _lock(connection: psycopg.Connection[tuple[Any, ...]], place: str, owner: str) -> None:
    key = f"hbtrio {owner} "
    try:
        connection.execute(f"SET lock_timeout = {_LOCK_MS}")
        connection.execute(
            "SELECT pg_advisory_lock(hashtextextended(%s || current_schema(), 0))", (key,)
        )
        connection.execute("SET lock_timeout = 0")
    except errors.LockNotAvailable:
        raise UserError(f"{place}: another {owner} has it open", ExitStatus.IN_USE) from None


def _reason(error: psycopg.Error) -> str:
    """Returns the fault in one line; libpq has one for each host."""
    if error.diag.message_primary:
        return error.diag.message_primary
    return "; ".join(filter(None, map(str.strip, str(error).splitlines()))) or type(error).__name__


def _status_of(error: psycopg.Error) -> ExitStatus:
    match error:
        case errors.InsufficientPrivilege():
            return ExitStatus.DENIED
        case psycopg.ProgrammingError():
            return ExitStatus.USAGE
        case psycopg.OperationalError():
            return ExitStatus.UNREACHABLE
    return ExitStatus.FAILED
