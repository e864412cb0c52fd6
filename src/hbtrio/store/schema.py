"""Defines the schema of the agent's database."""

from __future__ import annotations

from typing import Final

from hbtrio.store import drain_rows
from hbtrio.store.migration import PostgresOnly, Schema, SqliteOnly

#: ``PRAGMA application_id``, "hbta": distinguishes the file from those of other programs.
APPLICATION_ID: Final = 0x68627461

#: Entry ``n`` migrates a database from version n to n + 1. Never edit a released one, only append.
MIGRATIONS: Final[tuple[tuple[str, ...], ...]] = (
    (
        """
        CREATE TABLE hosts (
            uuid TEXT PRIMARY KEY,
            hostname TEXT NOT NULL,
            reporting INTEGER NOT NULL
        ) STRICT, WITHOUT ROWID
        """,
        """
        CREATE TABLE instances (
            uuid TEXT PRIMARY KEY,
            hostname TEXT NOT NULL,
            reporting INTEGER NOT NULL
        ) STRICT, WITHOUT ROWID
        """,
        """
        CREATE TABLE rounds (
            command_id TEXT PRIMARY KEY,
            uuid TEXT NOT NULL,
            hostname TEXT NOT NULL,
            event TEXT NOT NULL,
            vote INTEGER NOT NULL,
            asked_by TEXT NOT NULL,
            asked_at REAL NOT NULL,
            window_s REAL NOT NULL,
            replied INTEGER NOT NULL DEFAULT 0,
            result TEXT NOT NULL DEFAULT '',
            reason TEXT NOT NULL DEFAULT '',
            answered_at REAL
        ) STRICT
        """,
        "CREATE INDEX rounds_open ON rounds (asked_at) WHERE answered_at IS NULL",
        "CREATE INDEX rounds_closed ON rounds (answered_at) WHERE answered_at IS NOT NULL",
        # AUTOINCREMENT: the id of a replaced or pruned entry must not be reused, or a late mark for
        # the old entry would mark the new one. ``place`` is 0 for actions, whose windows are
        # limited, and 1 for all others.
        """
        CREATE TABLE outbox (
            id INTEGER PRIMARY KEY AUTOINCREMENT,
            kind TEXT NOT NULL,
            place INTEGER NOT NULL,
            uuid TEXT NOT NULL,
            command_id TEXT NOT NULL,
            body TEXT NOT NULL,
            expires_at REAL,
            state TEXT NOT NULL,
            attempts INTEGER NOT NULL DEFAULT 0,
            queued_at REAL NOT NULL,
            done_at REAL,
            fault TEXT NOT NULL DEFAULT ''
        ) STRICT
        """,
        # The order of delivery, so that a long queue need not be sorted each time.
        """
        CREATE INDEX outbox_turn ON outbox (place, attempts, queued_at, id)
            WHERE state = 'queued'
        """,
        # Queued or being sent. The condition must match that of the queries for SQLite to use it.
        "CREATE INDEX outbox_open ON outbox (uuid, id) WHERE done_at IS NULL",
        """
        CREATE INDEX outbox_expiry ON outbox (expires_at)
            WHERE state = 'queued' AND expires_at IS NOT NULL
        """,
        "CREATE INDEX outbox_done ON outbox (done_at) WHERE done_at IS NOT NULL",
        # One verdict per command, even after a replay.
        """
        CREATE UNIQUE INDEX outbox_verdict ON outbox (command_id)
            WHERE kind = 'action' AND command_id <> ''
        """,
        """
        CREATE TABLE links (
            id INTEGER PRIMARY KEY AUTOINCREMENT,
            hostname TEXT NOT NULL,
            boot_id TEXT NOT NULL,
            acknowledged INTEGER NOT NULL,
            UNIQUE (hostname, boot_id)
        ) STRICT
        """,
        """
        CREATE TABLE history (
            id INTEGER PRIMARY KEY AUTOINCREMENT,
            time REAL NOT NULL,
            kind TEXT NOT NULL,
            uuid TEXT NOT NULL,
            hostname TEXT NOT NULL,
            event TEXT NOT NULL,
            result TEXT NOT NULL,
            reason TEXT NOT NULL,
            who TEXT NOT NULL,
            corrective_action TEXT NOT NULL
        ) STRICT
        """,
        "CREATE INDEX history_time ON history (time)",
        "CREATE INDEX history_uuid ON history (uuid, id)",
    ),
    # Alarms may be held back.
    (
        "ALTER TABLE outbox ADD COLUMN hostname TEXT NOT NULL DEFAULT ''",
        "CREATE INDEX outbox_held ON outbox (hostname, uuid) WHERE state = 'held'",
        """
        CREATE TABLE holds (
            hostname TEXT PRIMARY KEY,
            since REAL NOT NULL,
            why TEXT NOT NULL
        ) STRICT, WITHOUT ROWID
        """,
    ),
    # A round ends without an outcome if its host process has been replaced.
    ("ALTER TABLE rounds ADD COLUMN boot_id TEXT NOT NULL DEFAULT ''",),
    # A host has one record. Of several, keep one with reporting on, to not hide losses.
    (
        """
        DELETE FROM hosts WHERE uuid NOT IN (
            SELECT first_value(uuid) OVER (
                PARTITION BY hostname ORDER BY reporting DESC, uuid DESC
            ) FROM hosts
        )
        """,
    ),
    # The age of history counts from its insertion, because hosts' clocks may be wrong. Votes and
    # notices have the time of the request.
    (
        "ALTER TABLE history ADD COLUMN kept_at REAL NOT NULL DEFAULT 0",
        # Existing rows have only the host's time, which may be ahead.
        SqliteOnly("UPDATE history SET kept_at = min(time, CAST(strftime('%s', 'now') AS REAL))"),
        "DROP INDEX history_time",
        "CREATE INDEX history_kept ON history (kept_at)",
        "ALTER TABLE history ADD COLUMN asked_at REAL",
    ),
    # ``deadline`` and ``refused_since`` are on the monotonic clock of the process that has the file
    # open. ``failures`` counts the failed attempts while the VIM could be reached.
    (
        "ALTER TABLE outbox ADD COLUMN deadline REAL",
        "ALTER TABLE outbox ADD COLUMN refused_since REAL",
        "ALTER TABLE outbox ADD COLUMN failures INTEGER NOT NULL DEFAULT 0",
        "DROP INDEX outbox_expiry",
        """
        CREATE INDEX outbox_expiry ON outbox (expires_at)
            WHERE state = 'queued' AND expires_at IS NOT NULL AND deadline IS NULL
        """,
        """
        CREATE INDEX outbox_deadline ON outbox (deadline)
            WHERE state = 'queued' AND deadline IS NOT NULL
        """,
    ),
    # A command has one entry, with what its requester was told; a later truth is a note on it.
    (
        "ALTER TABLE history ADD COLUMN command_id TEXT NOT NULL DEFAULT ''",
        "ALTER TABLE history ADD COLUMN note TEXT NOT NULL DEFAULT ''",
        "CREATE INDEX history_command ON history (command_id) WHERE command_id <> ''",
    ),
    # Holds of operators on instances, those that are over, too; see policy/instance_hold.py.
    (
        """
        CREATE TABLE instance_holds (
            uuid TEXT PRIMARY KEY,
            number INTEGER NOT NULL,
            since REAL NOT NULL,
            until REAL NOT NULL,
            who TEXT NOT NULL,
            reason TEXT NOT NULL,
            is_ended INTEGER NOT NULL
        ) STRICT, WITHOUT ROWID
        """,
    ),
    drain_rows.TABLES,
    drain_rows.PLANNED,
    # Of groups; an instance that no host reports is still one.
    (
        """
        CREATE TABLE members (
            uuid TEXT PRIMARY KEY,
            name TEXT NOT NULL,
            hostname TEXT NOT NULL
        ) STRICT, WITHOUT ROWID
        """,
    ),
    # Else the instances of a host are found by reading those of all.
    ("CREATE INDEX instances_hostname ON instances (hostname)",),
    # Its entries live for seconds: what they leave behind slows queries down until it is removed.
    (
        PostgresOnly(
            "ALTER TABLE outbox SET (autovacuum_vacuum_scale_factor = 0.0,"
            " autovacuum_vacuum_threshold = 2000, autovacuum_analyze_scale_factor = 0.0,"
            " autovacuum_analyze_threshold = 2000)"
        ),
    ),
    drain_rows.REJECTED,
    # See postgres_agents.py. A function of a released version is never changed: agents of two
    # versions may share a database, and each calls its own.
    (
        PostgresOnly(
            """
            CREATE TABLE agents (
                name TEXT PRIMARY KEY,
                epoch INTEGER NOT NULL,
                lease_until timestamptz NOT NULL,
                version TEXT NOT NULL,
                UNIQUE (name, epoch)
            )
            """
        ),
        PostgresOnly(
            """
            CREATE FUNCTION fence_1(its_name text, its_epoch bigint) RETURNS void
            LANGUAGE plpgsql AS $$
            BEGIN
                PERFORM 1 FROM agents
                WHERE name = its_name AND epoch = its_epoch AND lease_until > clock_timestamp()
                FOR KEY SHARE;
                IF NOT FOUND THEN
                    RAISE EXCEPTION 'another agent has taken over, or may do so'
                    USING ERRCODE = 'HB001';
                END IF;
            END
            $$
            """
        ),
    ),
)

AGENT_SCHEMA: Final = Schema(
    owner="agent",
    application_id=APPLICATION_ID,
    migrations=MIGRATIONS,
    # These are on the clock of the previous process.
    at_start=("UPDATE outbox SET deadline = NULL, refused_since = NULL WHERE done_at IS NULL",),
)
