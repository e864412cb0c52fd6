"""Locks files and directories; the lock of a killed process is released.

``flock(2)`` ties the lock to an open file, so unlike a pid in a file the lock can't outlive its
process. A lock file is never removed: otherwise a third process could lock a new file of that name
while a second one holds the unlinked file.
"""

from __future__ import annotations

import fcntl
import os
from typing import final

from hbtrio.system.file_identity import FileIdentity


class LockHeld(Exception):
    """Another process holds the lock."""


@final
class FileLock:
    """A lock that this process holds until :meth:`close`.

    :func:`lock_beside` and :func:`lock_directory` return it.
    """

    def __init__(self, fd: int, path: str) -> None:
        self._fd: int | None = fd
        self._identity = FileIdentity.of(path, fd)

    @property
    def closed(self) -> bool:
        """Whether the lock was released."""
        return self._fd is None

    def fault(self) -> str:
        """Returns what happened to the locked file; "" if the lock still keeps others out."""
        fault = self._identity.fault()
        return f"{self._identity.path} was {fault}" if fault else ""

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
    """Locks ``<path>.lock``, and creates a missing one with mode 0600; doesn't wait.

    Raises:
        LockHeld: another process holds the lock.
        OSError: the lock file can't be opened, or is a symbolic link.
    """
    # Don't follow symbolic links: in a directory that others may write to, a link could point to
    # any file.
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    name = f"{path}.lock"
    return _lock(os.open(name, flags, 0o600), name)


def lock_directory(path: str) -> FileLock:
    """Locks a directory itself; doesn't wait.

    Raises:
        LockHeld: another process holds the lock.
        OSError: the directory is missing, or can't be opened or locked.
    """
    return _lock(os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC), path)


def _lock(fd: int, path: str) -> FileLock:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        raise LockHeld from None
    except BaseException:
        os.close(fd)
        raise
    return FileLock(fd, path)
