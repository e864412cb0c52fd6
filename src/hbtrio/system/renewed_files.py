"""Reads files again when they have changed, so that renewed certificates need no restart.

What was read last stays in use until its successor can be used as a whole. So a renewal that has
replaced the certificate and not yet the key, or that has written half of a file, costs nothing.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from hbtrio.errors import UserError

T = TypeVar("T")

_State = tuple[tuple[int, ...], ...]


class RenewedFiles(Generic[T]):
    """A value that was read from files.

    Args:
        paths: the files.
        load: reads the value; called at once and whenever the files have changed.

    Raises:
        UserError: raised by ``load`` at once; later it is a ``fault``.
    """

    def __init__(self, paths: Sequence[str], load: Callable[[], T]) -> None:
        self._paths = tuple(path for path in paths if path)
        self._load = load
        # Before reading: a file that changes meanwhile is read again.
        self._loaded = self._seen = self._look()
        self.value = load()
        #: Why the changed files can't be used; "" if those in use are the present ones.
        self.fault = ""

    def check(self) -> bool:
        """Reads the files again if they have changed and then rested for one check.

        Blocks as long as the file system does; may be called in any thread, by one at a time.

        Returns:
            Whether ``value`` was replaced.
        """
        found = self._look()
        settled, self._seen = found == self._seen, found
        if found == self._loaded:
            self.fault = ""
            return False
        # A writer may be in the middle of the files; what it leaves half-written is complete soon.
        if not settled:
            return False
        try:
            value = self._load()
        except (UserError, OSError) as fault:
            # Tried again at each check: a lack of descriptors changes no file.
            self.fault = str(fault)
            return False
        self.value, self._loaded, self.fault = value, found, ""
        return True

    def _look(self) -> _State:
        return tuple(map(_state_of, self._paths))


def _state_of(path: str) -> tuple[int, ...]:
    try:
        found = os.stat(path)
    except OSError as error:
        return (error.errno or 0,)
    # The time of the last status change, for permissions that were corrected.
    return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
