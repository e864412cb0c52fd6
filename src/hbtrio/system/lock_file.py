"""Locks on files: one process at a time holds something, and a killed holder's lock is free again.

``flock(2)`` ties the lock to an open file, not to what the file says: no number in it can outlive
its process. A lock file itself is never removed, since that would let a third process lock a new
file of that name while a second one holds the unlinked file.
"""

from __future__ import annotations

import fcntl
import os
from typing import final


class LockHeld(Exception):
    """Another process holds the lock."""


@final
class FileLock:
    """A lock that this process holds until :meth:`close`.

    Made by :func:`lock_beside` and :func:`lock_directory`.
    """

    def __init__(self, fd: int) -> None:
        self._fd: int | None = fd

    @property
    def closed(self) -> bool:
        """Whether the lock was released."""
        return self._fd is None

    def close(self) -> None:
        """Releases the lock; safe to call twice."""
        if self._fd is not None:
            fd, self._fd = self._fd, None
            os.close(fd)

    def __enter__(self) -> FileLock:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def lock_beside(path: str) -> FileLock:
    """Locks ``<path>.lock``, which is made with mode 0600 if it is missing; does not wait.

    Raises:
        LockHeld: another process holds the lock.
        OSError: the lock file can't be opened, or is a symbolic link.
    """
    # Without following symbolic links: in a directory that others may write to, one of them could
    # otherwise have us create or lock a file somewhere else.
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    return _lock(os.open(f"{path}.lock", flags, 0o600))


def lock_directory(path: str) -> FileLock:
    """Locks a directory itself; does not wait.

    Raises:
        LockHeld: another process holds the lock.
        OSError: the directory is missing, or can't be opened or locked.
    """
    return _lock(os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))


def _lock(fd: int) -> FileLock:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        raise LockHeld from None
    except BaseException:
        os.close(fd)
        raise
    return FileLock(fd)
