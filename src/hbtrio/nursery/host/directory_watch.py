"""Watching one directory for names that come and go.

A watch answers two questions: which names are there (`scan`), and has anything moved since
(`changed`). It reports no single event, because events are only a hint: the queue overflows, the
directory is replaced under its path, and what a scan sees is the truth in every case. So the order
is always: watch first, then scan, then read events. Whatever happens between the watch and the scan
is seen twice, never missed.
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

#: One read of the event queue, and how many of them one call may do: about 3000 events, a few
#: milliseconds.
_READ_BYTES = 65536
_READS = 4

_LEFT = flags.DELETE | flags.MOVED_FROM
_MASK = _LEFT | flags.CREATE | flags.MOVED_TO | flags.DELETE_SELF | flags.MOVE_SELF | flags.ONLYDIR

#: There is no directory at the path. Every other error leaves open which names there are.
_MISSING = (errno.ENOENT, errno.ENOTDIR)


class DirectoryWatch(Protocol):
    """What a task needs of a directory: the names in it, and a hint when to look again."""

    def scan(self) -> dict[str, int]:
        """Look once.

        Returns:
            Each name with its inode number. Empty when there is no such directory.
        """
        ...

    async def changed(self) -> None:
        """Wait until the names may differ from what the last scan saw.

        Any number of changes count as one. A cancelled wait loses nothing: the next call knows of
        it.
        """
        ...


class Inotify(Protocol):
    """The part of ``inotify_simple.INotify`` that a watch uses; its descriptor must not block."""

    def fileno(self) -> int:
        """The descriptor that events are read from."""
        ...

    def add_watch(self, path: str, mask: int) -> int:
        """Watch a path; the same directory gives the same watch descriptor again.

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
        """Give the descriptor back."""
        ...


class InotifyWatch:
    """A `DirectoryWatch` on Linux inotify. A context manager: leaving it closes its descriptor.

    The directory may be missing at the start or vanish later, and may be replaced by another one
    under the same path: the watch then looks for it every ``poll_s`` and logs each change of its
    sight once. A directory that is there but cannot be watched or read (no more watches, no more
    descriptors, permission taken away) is scanned every ``poll_s``; while it cannot be read, a scan
    repeats the names of the last one, since unreadable is not empty.

    Not seen by inotify, and so only found by the caller's next scan: a parent directory renamed, a
    file system mounted over the directory, a symbolic link in the path pointed elsewhere, and a
    directory removed while another process still holds it open. When events were lost, not even a
    scan shows that a file was replaced by one with the same inode number.

    Args:
        path: the directory.
        max_entries: how many names one scan returns at most. Over it, names of the last scan that
            still exist come first, so that a flood of new names does not displace those in use.
        poll_s: seconds between looks at a directory that cannot be watched.
        inotify: the event source; a new inotify instance if left out. Closed with the watch in any
            case.

    Raises:
        UserError: the directory may not be read (DENIED), the path is no directory (USAGE), or the
            system gives out no more inotify instances (FAILED).
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
        self._inotify = inotify or _open_inotify(path)
        self._wd: int | None = None
        self._fault: int | None = None
        self._stale = True
        self._cut = False
        self._last: dict[str, int] = {}
        self._left: set[str] = set()
        fault = self._attach()
        if fault in (errno.EACCES, errno.ENOTDIR):
            self._inotify.close()
            status = ExitStatus.DENIED if fault == errno.EACCES else ExitStatus.USAGE
            raise UserError(f"{path}: {os.strerror(fault)}", status)
        self._judge(fault)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._inotify.close()

    def scan(self) -> dict[str, int]:
        """Look once: at most ``max_entries`` names with their inode numbers.

        A file that was replaced by another one with the same inode number (ext4 gives a freed
        number out again at once) is left out of one scan, after which `changed` returns
        immediately: so it is seen to go and to come.
        """
        # What is queued up to here is about changes that this scan sees anyway.
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
            if self._fault is None:
                await trio.lowlevel.wait_readable(self._inotify.fileno())
                self._drain()
            else:
                await trio.sleep(self._poll_s)
                self._stale = self._fault not in _MISSING or self._attach() not in _MISSING

    def _attach(self) -> int | None:
        """Watch what is at the path now; returns the error number if that cannot be done.

        Done before every scan, not only after an event that says the directory is gone: a watch
        stays with its directory wherever that is moved, and if that event were lost, it would stay
        there for good. For the directory already watched it changes nothing.
        """
        try:
            wd = self._inotify.add_watch(self._path, _MASK)
        except OSError as error:
            self._detach()
            return error.errno
        if wd != self._wd:
            self._detach()
            self._wd = wd
        return None

    def _detach(self) -> None:
        if self._wd is not None:
            # The kernel has dropped it already if the directory was deleted.
            with suppress(OSError):
                self._inotify.rm_watch(self._wd)
            self._wd = None

    def _drain(self) -> None:
        """Read the queued events, within the bound, and note what they mean for the next scan."""
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
                log.error("%s: more than %d entries, the rest is not looked at", self._path, bound)
            else:
                log.info("%s: not more than %d entries any more", self._path, bound)
        return dict(islice(chain(self._still_there(names), names.items()), bound)) if cut else names

    def _still_there(self, names: dict[str, int]) -> Iterator[tuple[str, int]]:
        """Those of the last scan that exist, be it beyond the cut; they leave ``names``."""
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
            log.info("%s: watching it", self._path)
        elif fault in _MISSING:
            log.warning("%s: %s, waiting for it", self._path, os.strerror(fault))
        else:
            reason = os.strerror(fault)
            log.error("%s: %s, scanning it every %g s", self._path, reason, self._poll_s)
        self._fault = fault


def _open_inotify(path: str) -> Inotify:
    try:
        inotify: Inotify = INotify(nonblocking=True)
    except OSError as error:
        text = f"{path}: cannot watch it: {error.strerror} (see fs.inotify.max_user_instances)"
        raise UserError(text, ExitStatus.FAILED) from error
    return inotify
