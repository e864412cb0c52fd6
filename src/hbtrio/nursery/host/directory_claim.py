"""Keeps a second host daemon off the directory of the channels: QEMU bears one client.

The claim is a lock on the directory itself, so it is lost when another directory takes its path,
and there is none yet while the directory is missing. Each scan therefore makes sure of it before it
looks at the names, and sees none in a directory that another host has claimed.
"""

from __future__ import annotations

import logging
from typing import Final, Self

import trio

from hbtrio.errors import ExitStatus, UserError, os_reason
from hbtrio.nursery.host.directory_watch import DirectoryWatch
from hbtrio.system.lock_file import FileLock, LockHeld, lock_directory

_log = logging.getLogger("hbtrio.discovery")

#: Seconds between two looks whether another host still has the directory.
_RETRY_S: Final = 2.0


class ClaimedWatch:
    """A watch that shows only names of a directory that this process has claimed.

    A context manager: leaving it gives the claim up. A directory that can't be locked, for want of
    a descriptor or of permission, is shown all the same; each scan tries again.

    Args:
        watch: sees the names.
        path: the directory; it may be missing.

    Raises:
        UserError: another host has claimed it (IN_USE), or it can't be locked.
    """

    def __init__(self, watch: DirectoryWatch, path: str) -> None:
        self._watch = watch
        self._path = path
        self._lock: FileLock | None = None
        self._refused = False
        try:
            self._lock = lock_directory(path)
        except FileNotFoundError:
            pass  # it is waited for
        except LockHeld:
            raise UserError(
                f"{path}: another hbtrio host serves these channels", ExitStatus.IN_USE
            ) from None
        except OSError as error:
            raise UserError(f"{path}: {os_reason(error)}", ExitStatus.FAILED) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._lock is not None:
            self._lock.close()

    def scan(self) -> dict[str, int]:
        """See :meth:`DirectoryWatch.scan`; empty while another host has the directory."""
        self._claim()
        return {} if self._refused else self._watch.scan()

    async def changed(self) -> None:
        """See :meth:`DirectoryWatch.changed`."""
        if self._refused:
            await trio.sleep(_RETRY_S)
        else:
            await self._watch.changed()

    def _claim(self) -> None:
        """Locks what is at the path now, unless it is locked already."""
        if self._lock is not None and not self._lock.fault():
            self._judge(refused=False)
            return
        try:
            lock = lock_directory(self._path)
        except LockHeld:
            self._judge(refused=True)
            return
        except OSError:
            self._judge(refused=False)
            return
        if self._lock is not None:
            self._lock.close()
        self._lock = lock
        self._judge(refused=False)

    def _judge(self, *, refused: bool) -> None:
        if refused and not self._refused:
            _log.error(
                "%s: another hbtrio host serves the channels of this new directory; they are left "
                "to it",
                self._path,
            )
        elif self._refused and not refused:
            _log.info("%s: no other host serves these channels any more", self._path)
        self._refused = refused
