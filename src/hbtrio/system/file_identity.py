"""Finds out whether a path still is the file that was opened there."""

from __future__ import annotations

import os
from typing import Self

import msgspec


def creation_of(path: str) -> str:
    """Returns a text that another file at ``path``, made later, does not have; "" if none is there.

    Of a unix socket: connections do not change it.
    """
    try:
        found = os.stat(path)
    except OSError:
        return ""
    return f"{found.st_dev}:{found.st_ino}:{found.st_mtime_ns}"


class FileIdentity(msgspec.Struct, frozen=True):
    """The file that a path was when it was opened.

    Attributes:
        path: the path.
        device: the device that the file is on.
        inode: its number there.
    """

    path: str
    device: int
    inode: int

    @classmethod
    def of(cls, path: str, fd: int | None = None) -> Self:
        """Returns the identity of the file at ``path``, which is open as ``fd`` or just exists.

        Raises:
            OSError: there is no such file.
        """
        found = os.stat(path) if fd is None else os.fstat(fd)
        return cls(path, found.st_dev, found.st_ino)

    def fault(self) -> str:
        """Returns "deleted or moved", "replaced by another file", why it is unknown, or ""."""
        try:
            found = os.stat(self.path)
        except (FileNotFoundError, NotADirectoryError):
            return "deleted or moved"
        except OSError as error:
            return f"made inaccessible: {os.strerror(error.errno or 0).lower()}"
        same = (found.st_dev, found.st_ino) == (self.device, self.inode)
        return "" if same else "replaced by another file"
