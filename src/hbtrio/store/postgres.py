"""Opens the database of an agent on PostgreSQL.

A commit does not wait for the disk (``synchronous_commit = off``), like SQLite's: it survives
the agent. :meth:`PostgresDatabase.sync` waits on a second connection, and with it all that was
committed before, for the disk and for a synchronous standby. Unlike a file, a server that has
crashed or been replaced is back within seconds: a verdict is synced before it is sent, however
short its window is.

One agent at a time works on a database, see :mod:`hbtrio.store.lease`.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from typing import Any, Final

import psycopg
from psycopg import conninfo, errors

from hbtrio.errors import ExitStatus, UserError
from hbtrio.store import postgres_agents
from hbtrio.store.faults import StoreFault, StoreFenced, StoreLost
from hbtrio.store.lease import Lease, LeaseKeeper
from hbtrio.store.migration import Schema
from hbtrio.store.postgres_agents import DatabaseInUseError
from hbtrio.store.postgres_connection import PostgresConnection, adapt, reason_of
from hbtrio.store.postgres_schema import ForeignDatabaseError, migrate
from hbtrio.store.sql import Connection
from hbtrio.wire.database_url import without_options

_log = logging.getLogger("hbtrio.store")

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
    SET synchronous_commit = on;
    SET jit = off;
    SET enable_bitmapscan = off;
    SET enable_hashjoin = off;
    SET enable_mergejoin = off;
    SET enable_seqscan = off;
    SET enable_sort = off;
"""

#: What a failover loses of a migration is done again by the next session.
_MIGRATING: Final = "SET synchronous_commit = local"

#: An epoch is never given twice.
_ENTERING: Final = "SET synchronous_commit = on"

#: Commits don't wait for the disk. An agent that is stopped within a transaction may not keep its
#: rows locked for longer than its lease.
_WORKING: Final = """
    SET synchronous_commit = off;
    SET idle_in_transaction_session_timeout = 2500;
"""

#: How long an agent that opens the database waits for another one that does, in milliseconds.
_LOCK_MS: Final = 5000

#: How long the database may take to give a lease, in seconds. A commit that waits for a hung
#: standby ignores ``statement_timeout``, and one that is cancelled there reports success.
_ENTER_S: Final = 10.0


class PostgresDatabase:
    """An open database; one thread uses and closes it, except for :meth:`sync`.

    Args:
        agent: the agent's name.
        epoch: its epoch.
        lease: its lease.
        working: the connection for transactions.
        syncing: the one that waits for the disk.
        renewing: the one that renews the lease.
    """

    def __init__(
        self,
        agent: str,
        epoch: int,
        lease: Lease,
        working: psycopg.Connection[tuple[Any, ...]],
        syncing: psycopg.Connection[tuple[Any, ...]],
        renewing: psycopg.Connection[tuple[Any, ...]],
    ) -> None:
        self.db: Connection = PostgresConnection(
            working, postgres_agents.fenced_commit(agent, epoch)
        )
        self._agent = agent
        self._epoch = epoch
        self._working = working
        self._syncing = syncing
        self._renewing = renewing
        self._keeper = LeaseKeeper(lease, self._renew)
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
                raise StoreLost(f"the database failed to sync: {reason_of(error)}") from error
            if self._warnings:
                # A wait for the standby that somebody has cancelled counts as a success.
                raise StoreLost(f"the database failed to sync: {self._warnings[0]}")

    def _take_notice(self, notice: errors.Diagnostic) -> None:
        if notice.severity_nonlocalized == "WARNING":
            self._warnings.append(notice.message_primary or "a warning")

    def files_fault(self) -> str:
        """Returns "": the files are the server's."""
        return ""

    def _renew(self) -> None:
        try:
            is_renewed = postgres_agents.renew(
                PostgresConnection(self._renewing), self._agent, self._epoch
            )
        except StoreLost:
            raise
        except StoreFault as fault:
            raise StoreLost(f"the lease could not be renewed: {fault}") from fault
        if not is_renewed:
            raise StoreFenced("another agent has taken over")

    def at_most(self, seconds: float) -> AbstractContextManager[None]:
        """Ends the connections if the block takes longer: what waits for the server fails then."""
        return _at_most(seconds, self._working, self._syncing, self._renewing)

    def close(self) -> None:
        """Ends the lease and closes the connections."""
        if not self._keeper.end():
            _hang_up(self._renewing)
            self._keeper.end()
        with suppress(StoreFault):
            postgres_agents.leave(self.db, self._agent, self._epoch)
        self._renewing.close()
        self._working.close()
        with self._in_use:
            self._syncing.close()


def open_postgres(
    url: str, schema: Schema, agent: str, lease: Lease, after: int | None = None
) -> PostgresDatabase:
    """Opens the database, migrates an older or empty one, and takes a lease.

    Args:
        url: its URL.
        schema: what it shall have.
        agent: the agent's name.
        lease: counts the lease.
        after: the epoch of the agent's last session, which it has lost; None: it had none.

    Raises:
        UserError: FENCED if another agent has worked on it since that session; UNREACHABLE if no
            server that can be written answers, or it refuses the user or the database's name,
            which libpq doesn't tell apart; DENIED if the user may not create tables; IN_USE if
            another agent has the database; FAILED if it gives no lease in time; USAGE if the URL is
            faulty, or the database is another program's, of a newer hbtrio, or not in UTF-8, or
            the server too old.
    """
    place = without_options(url)
    with ExitStack() as opened:
        try:
            working, syncing, renewing = (opened.enter_context(_connect(url)) for _ in range(3))
            _check_server(working, place)
            db = PostgresConnection(working)
            with _one_at_a_time(working, schema.owner):
                working.execute(_MIGRATING)
                migrate(db, schema)
                working.execute(_ENTERING)
                asked_at = lease.now()
                with _at_most(_ENTER_S, working):
                    epoch = lease.epoch = postgres_agents.enter(db, agent, after)
                lease.renewed(asked_at)
                working.execute(_WORKING)
                for statement in schema.at_start:
                    db.execute(statement)
            _warn_of_lone_server(working, place)
        except DatabaseInUseError as error:
            raise UserError(f"{place}: {error}", ExitStatus.IN_USE) from None
        except ForeignDatabaseError as error:
            raise UserError(f"{place}: {error}") from error
        except StoreFenced as fault:
            raise UserError(f"{place}: {fault}", ExitStatus.FENCED) from fault
        except StoreFault as fault:
            raise UserError(f"{place}: {fault}", ExitStatus.FAILED) from fault
        except psycopg.Error as error:
            raise UserError(f"{place}: {reason_of(error)}", _status_of(error)) from error
        opened.pop_all()
    return PostgresDatabase(agent, epoch, lease, working, syncing, renewing)


def _connect(url: str) -> psycopg.Connection[tuple[Any, ...]]:
    settings: dict[str, Any] = {**_DEFAULTS, **conninfo.conninfo_to_dict(url)}
    connection = psycopg.connect(**settings, autocommit=True)
    try:
        connection.execute(_SESSION)
        adapt(connection)
    except BaseException:
        connection.close()
        raise
    return connection


def _hang_up(connection: psycopg.Connection[tuple[Any, ...]]) -> None:
    """Ends a connection whose user, in another thread, waits for the server."""
    with suppress(OSError, psycopg.Error), socket.socket(fileno=os.dup(connection.fileno())) as one:
        one.shutdown(socket.SHUT_RDWR)


@contextmanager
def _at_most(seconds: float, *connections: psycopg.Connection[tuple[Any, ...]]) -> Iterator[None]:
    """Ends connections if the block takes longer."""

    def hang_up() -> None:
        for connection in connections:
            _hang_up(connection)

    timer = threading.Timer(seconds, hang_up)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _check_server(connection: psycopg.Connection[tuple[Any, ...]], place: str) -> None:
    release = connection.info.server_version // 10000
    if release < OLDEST:
        raise UserError(f"{place}: is PostgreSQL {release}; {OLDEST} or newer is needed")
    encoding = connection.info.parameter_status("server_encoding")
    if encoding != "UTF8":
        raise UserError(f"{place}: its encoding is {encoding}; UTF8 is needed")


def _warn_of_lone_server(connection: psycopg.Connection[tuple[Any, ...]], place: str) -> None:
    [(standbys,)] = connection.execute("SHOW synchronous_standby_names").fetchall()
    if not standbys:
        _log.warning(
            "store: %s has no synchronous standby (synchronous_standby_names): if another server "
            "takes its place, reports are lost and a verdict may be sent twice",
            place,
        )


@contextmanager
def _one_at_a_time(connection: psycopg.Connection[tuple[Any, ...]], owner: str) -> Iterator[None]:
    """Holds a lock while the block runs, so that one agent at a time migrates and enters.

    Raises:
        DatabaseInUseError: another one takes too long for it.
    """
    name = "hashtextextended(%s || current_schema(), 0)"
    key = (f"hbtrio {owner} ",)
    connection.execute(f"SET lock_timeout = {_LOCK_MS}")
    try:
        connection.execute(f"SELECT pg_advisory_lock({name})", key)
    except errors.LockNotAvailable:
        raise DatabaseInUseError(f"another {owner} is just opening it") from None
    yield
    # If that is not reached, the connection is closed, which frees the lock as well.
    connection.execute(f"SELECT pg_advisory_unlock({name})", key)
    connection.execute("SET lock_timeout = 0")


def _status_of(error: psycopg.Error) -> ExitStatus:
    match error:
        case errors.InsufficientPrivilege():
            return ExitStatus.DENIED
        case psycopg.ProgrammingError():
            return ExitStatus.USAGE
        case psycopg.OperationalError():
            return ExitStatus.UNREACHABLE
    return ExitStatus.FAILED
