"""Watches one directory for names that come and go.

A watch returns the names in the directory (`scan`) and waits for changes (`changed`). It reports no
single events, because events are only a hint: the queue can overflow, and the directory can be
replaced under its path. Only a scan is reliable. So the order is always: watch, then scan, then
read events. A change between the watch and the scan is seen twice, never missed.
"""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Iterator
from contextlib import suppress
from itertools import chain, islice
from typing import Protocol, Self

import trio
from inotify_simple import INotify, flags, parse_events  # type: ignore[import-untyped]

from hbtrio.errors import ExitStatus, UserError

log = logging.getLogger("hbtrio.discovery")

#: Bytes of one read of the event queue, and reads of one call: about 3000 events, a few
#: milliseconds.
_READ_BYTES = 65536
_READS = 4

_LEFT = flags.DELETE | flags.MOVED_FROM
_MASK = _LEFT | flags.CREATE | flags.MOVED_TO | flags.DELETE_SELF | flags.MOVE_SELF | flags.ONLYDIR

#: Seconds between two scans of a directory that cannot be watched.
_SCAN_S = 2.0

#: Errors that mean: no directory at the path. After any other error the names are unknown.
_MISSING = (errno.ENOENT, errno.ENOTDIR)


class DirectoryWatch(Protocol):
    """The names in a directory, and a hint when to scan again."""

    def scan(self) -> dict[str, int]:
        """Scan once.

        Returns:
            Each name with its inode number. Empty when there is no such directory.
        """
        ...

    async def changed(self) -> None:
        """Wait until the names may differ from what the last scan saw.

        Several changes count as one. Cancellation loses nothing: the next call returns at once if
        there was a change.
        """
        ...


class Inotify(Protocol):
    """The part of ``inotify_simple.INotify`` that a watch uses; its descriptor is non-blocking."""

    def fileno(self) -> int:
        """Return the descriptor that events are read from."""
        ...

    def add_watch(self, path: str, mask: int) -> int:
        """Watch a path; the same directory returns the same watch descriptor again.

        Raises:
            OSError: the path cannot be watched.
        """
        ...

    def rm_watch(self, wd: int) -> None:
        """Stop watching.

        Raises:
            OSError: there is no such watch.
        """
        ...

    def close(self) -> None:
        """Close the descriptor."""
        ...


class InotifyWatch:
    """Implements `DirectoryWatch` with Linux inotify.

    A context manager: leaving it closes the descriptor.

    The directory may be missing at the start, vanish later, or be replaced by another directory at
    the same path. While it is missing, the watch polls for it every ``poll_s`` seconds; each change
    is logged once. A directory that exists but cannot be watched or read (no more watches, inotify
    instances or descriptors, no permission) is scanned every 2 seconds, until it can be. While it
    cannot be read, a scan returns the names of the last one, because unreadable does not mean
    empty.

    Inotify does not report some changes, so that only the caller's next scan finds them: a renamed
    parent directory, a file system mounted over the directory, a changed symbolic link in the path,
    and a removed directory that another process still holds open. If events were lost, not even a
    scan shows that a file was replaced by a file with the same inode number.

    Args:
        path: the directory.
        max_entries: names that one scan returns at most. Beyond that, names of the last scan that
            still exist come first, so that a flood of new names does not displace those in use.
        poll_s: seconds between looks for a directory that is missing.
        inotify: the event source; by default a new inotify instance. The watch closes it.

    Raises:
        UserError: the directory may not be read (DENIED), or the path is no directory (USAGE).
    """

    def __init__(
        self,
        path: str,
        *,
        max_entries: int = 100_000,
        poll_s: float = 1.0,
        inotify: Inotify | None = None,
    ) -> None:
        self._path = path
        self._max_entries = max_entries
        self._poll_s = poll_s
        #: None while the user or the process has no more of them.
        self._inotify = inotify
        self._wd: int | None = None
        self._fault: int | None = None
        self._stale = True
        self._cut = False
        self._last: dict[str, int] = {}
        self._left: set[str] = set()
        fault = self._attach()
        if fault in (errno.EACCES, errno.ENOTDIR):
            self._close()
            status = ExitStatus.DENIED if fault == errno.EACCES else ExitStatus.USAGE
            raise UserError(f"{path}: {os.strerror(fault)}", status)
        self._judge(fault)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._close()

    def _close(self) -> None:
        if self._inotify is not None:
            self._inotify.close()

    def scan(self) -> dict[str, int]:
        """Scan once and return at most ``max_entries`` names with their inode numbers.

        If a file was replaced by one with the same inode number (ext4 reuses a freed number at
        once), one scan leaves it out, and `changed` then returns immediately: so the caller sees it
        go and come.
        """
        # This scan sees the changes of all events that are queued now.
        self._drain()
        self._stale = False
        fault = self._attach()
        names: dict[str, int] = {}
        if fault not in _MISSING:
            try:
                names = self._list()
            except OSError as error:
                fault = error.errno
                if fault not in _MISSING:
                    names = self._last
        self._judge(fault)
        again = {name for name in self._left if name in names and names[name] == self._last[name]}
        if again:
            names = {name: inode for name, inode in names.items() if name not in again}
            self._stale = True
        self._left.clear()
        self._last = names
        return dict(names)

    async def changed(self) -> None:
        """Wait until the names may differ from the last scan's; see `DirectoryWatch.changed`."""
        await trio.lowlevel.checkpoint()
        while not self._stale:
            if self._fault is None and self._inotify is not None:
                await trio.lowlevel.wait_readable(self._inotify.fileno())
                self._drain()
            elif self._fault in _MISSING:
                await trio.sleep(self._poll_s)
                self._stale = self._attach() not in _MISSING
            else:
                await trio.sleep(_SCAN_S)
                self._stale = True

    def _attach(self) -> int | None:
        """Watch the directory at the path now; return the error number if that fails.

        Called before every scan, not only after an event that reports the directory as gone: a
        watch follows its directory wherever it is moved, and if that event were lost, the watch
        would stay there for good. For a directory that is watched already this changes nothing.
        """
        try:
            if self._inotify is None:
                self._inotify = INotify(nonblocking=True)
            wd = self._inotify.add_watch(self._path, _MASK)
        except OSError as error:
            self._detach()
            return error.errno
        if wd != self._wd:
            self._detach()
            self._wd = wd
        return None

    def _detach(self) -> None:
        if self._wd is not None and self._inotify is not None:
            # The kernel has dropped it already if the directory was deleted.
            with suppress(OSError):
                self._inotify.rm_watch(self._wd)
            self._wd = None

    def _drain(self) -> None:
        """Read the queued events, at most ``_READS`` reads, and note what the next scan must do."""
        if self._inotify is None:
            return
        for _ in range(_READS):
            try:
                data = os.read(self._inotify.fileno(), _READ_BYTES)
            except BlockingIOError:
                return
            for wd, mask, _cookie, name in parse_events(data):
                if mask & flags.Q_OVERFLOW:
                    log.warning("%s: inotify lost events (queue overflow), scanning", self._path)
                    self._stale = True
                elif wd == self._wd:
                    self._stale = True
                    if mask & _LEFT and name in self._last:
                        self._left.add(name)

    def _list(self) -> dict[str, int]:
        bound = self._max_entries
        with os.scandir(self._path) as entries:
            names = {entry.name: entry.inode() for entry in islice(entries, bound + 1)}
        cut = len(names) > bound
        if cut != self._cut:
            self._cut = cut
            if cut:
                log.error("%s: more than %d entries, the rest is ignored", self._path, bound)
            else:
                log.info("%s: no more than %d entries again", self._path, bound)
        return dict(islice(chain(self._still_there(names), names.items()), bound)) if cut else names

    def _still_there(self, names: dict[str, int]) -> Iterator[tuple[str, int]]:
        """Yield names of the last scan that still exist, and take them out of ``names``."""
        for name, inode in self._last.items():
            if name in names:
                yield name, names.pop(name)
            elif os.path.lexists(os.path.join(self._path, name)):
                yield name, inode

    def _judge(self, fault: int | None) -> None:
        """Remember and log, once per change, whether the directory can be watched."""
        if fault == self._fault:
            return
        if fault is None:
            log.info("%s: watching the directory", self._path)
        elif fault in _MISSING:
            log.warning("%s: %s, waiting for the directory", self._path, os.strerror(fault))
        else:
            reason = os.strerror(fault)
            if self._inotify is None:
                reason = f"no inotify instance: {reason} (see fs.inotify.max_user_instances)"
            elif fault == errno.ENOSPC:  # nothing to do with a disk
                reason = "no inotify watch is left (see fs.inotify.max_user_watches)"
            log.error("%s: %s, scanning every %g s", self._path, reason, _SCAN_S)
        self._fault = fault
