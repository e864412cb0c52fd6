"""Opens a daemon's database file, locks it, and migrates it to the current schema.

A lock file ensures that only one process opens the database: SQLite would let two agents take
turns, and both would send the same verdicts. The lock has its own file because SQLite's locks on
the database are lost when anything in the process closes another descriptor of it.
"""

from __future__ import annotations

import os
import sqlite3
import stat
import threading
from collections.abc import Sequence
from typing import Final

from hbtrio.errors import ExitStatus, UserError, os_reason
from hbtrio.store.migration import Schema, migrate
from hbtrio.system.file_identity import FileIdentity
from hbtrio.system.lock_file import FileLock, LockHeld, lock_beside

#: Pages of the write-ahead log per checkpoint: 16 MB. With SQLite's default of 4 MB, one verdict in
#: forty would wait for the checkpoint's syncs.
_CHECKPOINT_PAGES: Final = 4000


class Database:
    """An open database; one thread uses and closes it, except for :meth:`sync`.

    Args:
        db: the connection.
        lock: the lock against other processes.
        log: the file descriptor of the write-ahead log.
        files: the files that are open: the database, its log and that log's index.
        owner: the daemon whose database this is, as messages name it.
    """

    def __init__(
        self,
        db: sqlite3.Connection,
        lock: FileLock,
        log: int,
        files: Sequence[FileIdentity],
        owner: str,
    ) -> None:
        self.db = db
        self._owner = owner
        self._files = files
        self._lock = lock
        self._log = log
        # An abandoned sync may still run when the log is closed, and another file may then get the
        # log's descriptor.
        self._in_use = threading.Lock()
        self._closed = False

    def sync(self) -> None:
        """Writes all commits to the disk; may be called in any thread.

        Raises:
            OSError: the disk failed.
        """
        with self._in_use:
            if not self._closed:
                # The log contains each whole commit, with a checksum.
                os.fdatasync(self._log)

    def files_fault(self) -> str:
        """Returns what happened to the files since they were opened; "" if nothing did.

        May be called in any thread.
        """
        for file in self._files:
            if fault := file.fault():
                return (
                    f"{file.path} was {fault}: what is stored from now on is lost at the "
                    f"{self._owner}'s next start"
                )
        if fault := self._lock.fault():
            return f"{fault}: nothing keeps a second {self._owner} from opening the store"
        database = self._files[0].path
        if os.statvfs(database).f_flag & os.ST_RDONLY:
            return f"{database}: its file system has become read-only"
        return ""

    def close(self) -> None:
        """Closes the database, then releases the lock."""
        with self._in_use:
            self._closed = True
            try:
                self.db.close()
            finally:
                os.close(self._log)
                self._lock.close()


def open_database(path: str, schema: Schema) -> Database:
    """Opens the database, creates a missing file, and migrates an older schema.

    Raises:
        UserError: DENIED if permissions deny access or let others write to the file; IN_USE if
            another process has the file open; USAGE if the file belongs to another program, is
            damaged, or is from a newer version.
    """
    try:
        lock = lock_beside(path)
        try:
            _check_file(path)
            return _connect(path, schema, lock)
        except BaseException:
            lock.close()
            raise
    except LockHeld:
        raise UserError(f"{path}: another {schema.owner} has it open", ExitStatus.IN_USE) from None
    except OSError as error:
        raise _user_error(path, error) from error


def _check_file(path: str) -> None:
    # Created here, because SQLite would make the file readable for all users.
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    number = os.open(path, flags, 0o600)
    try:
        found = os.fstat(number)
    finally:
        os.close(number)
    if not stat.S_ISREG(found.st_mode):
        raise UserError(f"{path}: not a regular file")
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise UserError(f"{path}: writable by group or others", ExitStatus.DENIED)


def _connect(path: str, schema: Schema, lock: FileLock) -> Database:
    db = sqlite3.connect(path, isolation_level=None, timeout=1.0)
    try:
        prepare_database(db, path, schema)
        log = _open_log(path)
        try:
            files = [FileIdentity.of(path), FileIdentity.of(f"{path}-wal", log)]
            files.append(FileIdentity.of(f"{path}-shm"))
        except BaseException:
            os.close(log)
            raise
        return Database(db, lock, log, files, schema.owner)
    except sqlite3.DatabaseError as error:
        db.close()
        raise UserError(f"{path}: {error}", _status_of(error)) from error
    except UnicodeDecodeError as error:
        # A name in the schema, or SQLite's own text that repeats one.
        db.close()
        raise UserError(f"{path}: is damaged: a text is not UTF-8") from error
    except BaseException:
        db.close()
        raise


def _open_log(path: str) -> int:
    # The first read of the database has created the log; its directory entry has to be synced too.
    folder = os.open(os.path.dirname(path) or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
    return os.open(path + "-wal", os.O_RDONLY | os.O_CLOEXEC)


def prepare_database(db: sqlite3.Connection, path: str, schema: Schema) -> None:
    """Migrates a database to the current schema, and makes it ready for a store.

    For one in memory, too: with a worker of its own a store then needs neither file nor thread.

    Args:
        db: the connection, in autocommit mode.
        path: the file, for faults.
        schema: what it shall have.

    Raises:
        UserError: USAGE; it belongs to another program, is damaged, or is from a newer version.
        sqlite3.DatabaseError: it can't be read or written.
    """
    (application,) = db.execute("PRAGMA application_id").fetchone()
    (tables,) = db.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    if application != schema.application_id and (application or tables):
        raise UserError(f"{path}: is a database of another program")
    (verdict,) = db.execute("PRAGMA quick_check(1)").fetchone()
    if verdict != "ok":
        raise UserError(f"{path}: is damaged: {verdict}")
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = FULL")
    db.execute(f"PRAGMA wal_autocheckpoint = {_CHECKPOINT_PAGES}")
    if application != schema.application_id:
        db.execute(f"PRAGMA application_id = {schema.application_id}")
    try:
        migrate(db, schema.migrations)
    except ValueError as error:
        raise UserError(f"{path}: {error}: it was written by a newer hbtrio") from error
    for statement in schema.at_start:
        db.execute(statement)
    # From here on callers request syncs, see worker.py.
    db.execute("PRAGMA synchronous = NORMAL")


def _status_of(error: sqlite3.DatabaseError) -> ExitStatus:
    # The low byte of an extended code is the primary code.
    match getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF:
        case sqlite3.SQLITE_CANTOPEN | sqlite3.SQLITE_READONLY | sqlite3.SQLITE_PERM:
            return ExitStatus.DENIED
        case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
            return ExitStatus.IN_USE
        case sqlite3.SQLITE_FULL | sqlite3.SQLITE_IOERR:
            return ExitStatus.FAILED
    return ExitStatus.USAGE


def _user_error(path: str, error: OSError) -> UserError:
    if isinstance(error, FileNotFoundError):
        return UserError(f"{path}: its directory does not exist")
    if isinstance(error, PermissionError) or os_reason(error) == "read-only file system":
        return UserError(f"{path}: {os_reason(error)}", ExitStatus.DENIED)
    return UserError(f"{path}: {os_reason(error)}")
