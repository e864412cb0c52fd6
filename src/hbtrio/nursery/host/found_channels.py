"""Merges the channels found in the directory with those that libvirt tells of.

A file name may lie: a domain may have been cloned, or given a socket that is named after another.
The instance at a socket is the domain whose live XML has its path; only where libvirt tells of no
such domain is it the uuid in the file's name.
"""

from __future__ import annotations

import logging
import os.path
from collections.abc import Callable
from typing import Final

from hbtrio.nursery.host.discovery import ChannelFile

_log = logging.getLogger("hbtrio.discovery")

#: The inode number of a socket that only libvirt has told of.
_UNSEEN: Final = 0


class FoundChannels:
    """The sockets of all instances, one for each.

    Args:
        on_found: called for a new socket; never twice for one uuid without ``on_gone`` in between.
        on_gone: called with a socket that was found and is no longer its instance's.
        limit: instances, at most; libvirt's are ignored beyond that. The directory's have a limit
            of their own.
    """

    def __init__(
        self,
        on_found: Callable[[ChannelFile], None],
        on_gone: Callable[[ChannelFile], None],
        limit: int,
    ) -> None:
        self._on_found = on_found
        self._on_gone = on_gone
        self._limit = limit
        self._in_use: dict[str, ChannelFile] = {}
        #: The directory's, by uuid of the name and by path.
        self._by_name: dict[str, ChannelFile] = {}
        self._by_path: dict[str, ChannelFile] = {}
        #: libvirt's, by uuid, and whose each path is.
        self._paths: dict[str, tuple[str, ...]] = {}
        self._owners: dict[str, str] = {}

    def appeared(self, file: ChannelFile) -> None:
        """The directory has a new socket."""
        self._by_name[file.uuid] = file
        self._by_path[_key(file.path)] = file
        self._update(file.uuid, self._owners.get(_key(file.path)))

    def vanished(self, file: ChannelFile) -> None:
        """A socket of the directory is no longer there; nor is it libvirt's, at this path."""
        path = _key(file.path)
        if self._by_name.get(file.uuid) == file:
            del self._by_name[file.uuid]
        self._by_path.pop(path, None)
        owner = self._owners.pop(path, None)
        if owner in self._paths:
            self._paths[owner] = tuple(one for one in self._paths[owner] if _key(one) != path)
        self._update(file.uuid, owner)

    def told(self, uuid: str, paths: tuple[str, ...]) -> None:
        """All heartbeat sockets of a domain, by libvirt of a domain; none: it has ended."""
        before = {_key(path) for path in self._paths.pop(uuid, ())}
        for path in before:
            # A file that is still there is not anybody else's for that.
            if self._owners.get(path) == uuid and path not in self._by_path:
                del self._owners[path]
        if paths:
            self._paths[uuid] = paths
        after = {_key(path) for path in paths}
        others = {self._owners.get(path) for path in after}
        self._owners.update(dict.fromkeys(sorted(after), uuid))
        named = {self._by_path[path].uuid for path in before | after if path in self._by_path}
        # Those who lose a socket come first: no socket has two clients.
        self._update(*sorted((named | others) - {uuid, None}, key=str), uuid)

    def _update(self, *uuids: str | None) -> None:
        for uuid in uuids:
            if uuid is not None:
                self._use(uuid, self._best(uuid))

    def _best(self, uuid: str) -> ChannelFile | None:
        for path in self._paths.get(uuid, ()):
            if self._owners.get(_key(path)) == uuid:
                seen = self._by_path.get(_key(path))
                inode = _UNSEEN if seen is None else seen.inode
                return ChannelFile(uuid, path, inode)
        named = self._by_name.get(uuid)
        if named is None or self._owners.get(_key(named.path), uuid) != uuid:
            return None
        return named

    def _use(self, uuid: str, best: ChannelFile | None) -> None:
        used = self._in_use.get(uuid)
        if best is not None and used is not None and _alike(used, best):
            if used.inode == _UNSEEN:
                self._in_use[uuid] = best
            return
        if used is not None:
            del self._in_use[uuid]
            self._on_gone(used)
        if best is None:
            return
        if best.inode == _UNSEEN and len(self._in_use) >= self._limit:
            _log.error("%s: %s: more than %d channels, it is ignored", uuid, best.path, self._limit)
            return
        named = self._by_path.get(_key(best.path))
        if named is not None and named.uuid != uuid:
            _log.warning("%s: %s: its name is not that of its domain", uuid, best.path)
        self._in_use[uuid] = best
        self._on_found(best)


def _key(path: str) -> str:
    return os.path.normpath(path)


def _alike(one: ChannelFile, other: ChannelFile) -> bool:
    same = _key(one.path) == _key(other.path)
    return same and (one.inode == other.inode or _UNSEEN in (one.inode, other.inode))
