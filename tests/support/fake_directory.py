"""A directory in memory, for tasks that are handed a `DirectoryWatch`."""

from __future__ import annotations

from itertools import count

import trio


class FakeDirectory:
    """A `DirectoryWatch` whose names are put in by the test.

    Every file gets an inode number never used before. While ``losing_events`` is set, changes
    happen but wake nobody: only the next scan finds them.
    """

    def __init__(self) -> None:
        self.losing_events = False
        self.scans = 0
        self._names: dict[str, int] = {}
        self._inodes = count(1)
        self._stale = True
        self._wakeup = trio.Event()

    @property
    def names(self) -> dict[str, int]:
        """What is in the directory now."""
        return dict(self._names)

    def add(self, name: str) -> int:
        """Make a file that is not there yet; returns its inode number."""
        assert name not in self._names
        return self.replace(name)

    def remove(self, name: str) -> None:
        """Remove a file that is there."""
        del self._names[name]
        self._touch()

    def replace(self, name: str) -> int:
        """Make a file, in the place of one of that name if there is one; returns its inode."""
        self._names[name] = inode = next(self._inodes)
        self._touch()
        return inode

    def clear(self) -> None:
        """Lose the whole directory."""
        self._names.clear()
        self._touch()

    def scan(self) -> dict[str, int]:
        self.scans += 1
        self._stale = False
        return self.names

    async def changed(self) -> None:
        await trio.lowlevel.checkpoint()
        while not self._stale:
            await self._wakeup.wait()

    def _touch(self) -> None:
        if not self.losing_events:
            self._stale = True
            self._wakeup.set()
            self._wakeup = trio.Event()
