"""Defines the schema of a host's database, its memory across restarts.

``boot_id`` is the machine's (``/proc/sys/kernel/random/boot_id``). A time that ends in ``_boot`` is
CLOCK_BOOTTIME, which means something only together with the ``boot_id`` of its row. Other times are
seconds since the epoch.
"""

from __future__ import annotations

from typing import Final

from hbtrio.store import drain_rows
from hbtrio.store.migration import Schema

HOST_SCHEMA: Final = Schema(
    owner="host",
    application_id=0x68627468,  # "hbth"
    migrations=(
        (
            # With boot_id, domain_id and socket name one start of QEMU: libvirt's id of the domain,
            # and the channel's socket as a file.
            """
            CREATE TABLE instances (
                uuid TEXT PRIMARY KEY,
                state TEXT NOT NULL,
                reason TEXT NOT NULL,
                profile TEXT NOT NULL,
                boot_id TEXT NOT NULL,
                domain_id INTEGER NOT NULL,
                socket TEXT NOT NULL,
                expected_until_boot REAL,
                ill_action TEXT NOT NULL,
                ill_reason TEXT NOT NULL,
                ill_at_boot REAL NOT NULL
            ) STRICT, WITHOUT ROWID
            """,
            """
            CREATE TABLE actions (
                id TEXT PRIMARY KEY,
                uuid TEXT NOT NULL,
                name TEXT NOT NULL,
                command TEXT NOT NULL,
                force INTEGER NOT NULL,
                who TEXT NOT NULL,
                step TEXT NOT NULL,
                step_deadline_boot REAL,
                announced INTEGER NOT NULL,
                reason TEXT NOT NULL,
                begun_at REAL NOT NULL,
                boot_id TEXT NOT NULL,
                domain_id INTEGER NOT NULL
            ) STRICT, WITHOUT ROWID
            """,
            """
            CREATE TABLE corrective_runs (
                id INTEGER PRIMARY KEY,
                uuid TEXT NOT NULL,
                boot_id TEXT NOT NULL,
                at_boot REAL NOT NULL,
                at REAL NOT NULL
            ) STRICT
            """,
            "CREATE INDEX corrective_runs_at ON corrective_runs (at)",
            # uuid is "" for one of the whole host.
            """
            CREATE TABLE holds (
                kind TEXT NOT NULL,
                uuid TEXT NOT NULL,
                why TEXT NOT NULL,
                since REAL NOT NULL,
                PRIMARY KEY (kind, uuid)
            ) STRICT, WITHOUT ROWID
            """,
            # That of the agent's schema; see history.py.
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
                corrective_action TEXT NOT NULL,
                kept_at REAL NOT NULL,
                asked_at REAL,
                command_id TEXT NOT NULL,
                note TEXT NOT NULL
            ) STRICT
            """,
            "CREATE INDEX history_kept ON history (kept_at)",
            "CREATE INDEX history_uuid ON history (uuid, id)",
            "CREATE INDEX history_command ON history (command_id) WHERE command_id <> ''",
        ),
        (
            # The drain that the action is part of, or "".
            "ALTER TABLE actions ADD COLUMN drain TEXT NOT NULL DEFAULT ''",
            *drain_rows.TABLES,
        ),
        # Of groups; an instance without a channel is still one.
        ("CREATE TABLE members (uuid TEXT PRIMARY KEY, name TEXT NOT NULL) STRICT, WITHOUT ROWID",),
        (
            # Those of operators end by themselves, at `ends` (the wall clock) and `ends_boot`.
            "ALTER TABLE holds ADD COLUMN who TEXT NOT NULL DEFAULT ''",
            "ALTER TABLE holds ADD COLUMN number INTEGER NOT NULL DEFAULT 0",
            "ALTER TABLE holds ADD COLUMN is_ended INTEGER NOT NULL DEFAULT 0",
            "ALTER TABLE holds ADD COLUMN boot_id TEXT NOT NULL DEFAULT ''",
            "ALTER TABLE holds ADD COLUMN ends_boot REAL",
            "ALTER TABLE holds ADD COLUMN ends REAL",
        ),
        drain_rows.PLANNED,
        drain_rows.REJECTED,
    ),
)
