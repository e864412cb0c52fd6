"""Simulates the directory of the channels' sockets."""

from __future__ import annotations

import trio

from hbtrio.simulate.process import Process, Waiters


class SimulatedDirectory:
    """A directory; outlives the processes that watch it."""

    def __init__(self) -> None:
        self._inodes = 0
        self._names: dict[str, int] = {}
        self._watches: list[SimulatedWatch] = []
        self._missing = False

    @property
    def names(self) -> dict[str, int]:
        """The names with their inode numbers; none while the directory is missing."""
        return {} if self._missing else dict(self._names)

    def put(self, name: str) -> None:
        """Creates a file, or replaces it by a new one."""
        self._inodes += 1
        self._names[name] = self._inodes
        self._changed()

    def remove(self, name: str) -> None:
        """Removes a file.

        Raises:
            KeyError: there is none.
        """
        del self._names[name]
        self._changed()

    def set_missing(self, *, missing: bool) -> None:
        """Takes the directory away, or brings it back with what is in it."""
        self._missing = missing
        self._changed()

    def watch(self, process: Process) -> SimulatedWatch:
        """Watches the directory for a process; the watch ends with it."""
        watch = SimulatedWatch(self, process)
        self._watches.append(watch)
        return watch

    def end(self, watch: SimulatedWatch) -> None:
        """Ends a watch."""
        self._watches.remove(watch)

    def _changed(self) -> None:
        for watch in self._watches:
            watch.touch()


class SimulatedWatch:
    """Implements :class:`~hbtrio.nursery.host.directory_watch.DirectoryWatch`.

    Args:
        directory: what is watched.
        process: watches it.
    """

    resource = None

    def __init__(self, directory: SimulatedDirectory, process: Process) -> None:
        self._directory = directory
        self._waiters = Waiters(process)
        self._stale = True
        process.hold(self)

    def scan(self) -> dict[str, int]:
        """See :class:`~hbtrio.nursery.host.directory_watch.DirectoryWatch`."""
        self._stale = False
        return self._directory.names

    async def changed(self) -> None:
        """See :class:`~hbtrio.nursery.host.directory_watch.DirectoryWatch`."""
        await trio.lowlevel.checkpoint()
        while not self._stale:
            await self._waiters.wait()

    def touch(self) -> None:
        """The directory has changed, or events were lost."""
        self._stale = True
        self._waiters.wake()

    def released(self) -> None:
        """Ends the watch, since its process is dead."""
        self._directory.end(self)
