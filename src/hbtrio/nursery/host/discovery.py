"""Finds the channel sockets of a compute host.

libvirt makes one unix socket per instance in one directory, with the instance's uuid in its name.
The channels follow from the names alone, as a pure function of one scan; a change is the difference
of two such results. Only the last result is kept, so the next scan corrects any lost event.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import NoReturn

import attrs
import trio

from hbtrio.nursery.host.directory_watch import DirectoryWatch

log = logging.getLogger("hbtrio.discovery")

#: Seconds between two scans at least. The first change is scanned at once; further changes soon
#: after it, as when a host starts all its instances, share the next scan.
_SPACING_S = 0.05
#: The pause grows with the duration of a scan, so that scans of a huge directory take a tenth of
#: the time. It is bounded for a process that was itself stopped during a scan.
_SPACING_PER_SCAN = 9.0
_SPACING_MAX_S = 1.0

#: Malformed or unused names that are logged, each once.
_LOGGED_NAMES = 100

_PLACEHOLDER = "{uuid}"
_HEX = "[0-9A-Fa-f]"
_UUID = "-".join(f"{_HEX}{{{length}}}" for length in (8, 4, 4, 4, 12))

#: Where a channel was found: rank of the pattern (the lowest wins), file name, inode number.
Place = tuple[int, str, int]


@attrs.frozen
class ChannelFile:
    """A channel socket: the uuid in lower case, the path to connect to, and its inode number."""

    uuid: str
    path: str
    inode: int


class NamePattern:
    """Matches names of channel sockets: a file name with ``{uuid}`` for the instance's uuid.

    Args:
        text: such as ``cgcs.heartbeat.{uuid}.sock``.

    Raises:
        ValueError: the text does not contain ``{uuid}`` exactly once, or it contains a slash.
    """

    def __init__(self, text: str) -> None:
        if text.count(_PLACEHOLDER) != 1:
            raise ValueError(f"{text!r}: must contain {_PLACEHOLDER} exactly once")
        if "/" in text:
            raise ValueError(f"{text!r}: must be a file name, without a slash")
        self.text = text
        self._head, self._tail = text.split(_PLACEHOLDER)
        self._regex = re.compile(f"{re.escape(self._head)}({_UUID}){re.escape(self._tail)}")

    def uuid_of(self, name: str) -> str | None:
        """Returns the uuid in a name, in lower case; None if the name does not match."""
        match = self._regex.fullmatch(name)
        return match[1].lower() if match else None

    def resembles(self, name: str) -> bool:
        """Returns whether a name has the pattern's head and tail, with anything in between."""
        length = len(self._head) + len(self._tail)
        return len(name) >= length and name.startswith(self._head) and name.endswith(self._tail)


@attrs.frozen
class Reading:
    """The channels found among the names of one scan.

    Attributes:
        places: the place of each uuid's channel, in the order of the scan.
        shadowed: names that are not used, as another name of the same uuid wins; with the uuid.
        malformed: names that resemble a channel's but contain no uuid.
    """

    places: dict[str, Place]
    shadowed: list[tuple[str, str]]
    malformed: list[str]


@attrs.frozen
class Difference:
    """The changes from the known places to those of a reading; ``gone`` applies first."""

    gone: list[tuple[str, Place]]
    found: list[tuple[str, Place]]
    left_out: int


class NameReader:
    """Finds channels among names, by patterns in order of preference.

    Args:
        patterns: if one uuid has several names, the first pattern wins; among names of one pattern
            (upper and lower case), the first in sort order.
        memory: names whose result is cached, so that a scan only matches new names.
    """

    def __init__(self, patterns: Sequence[NamePattern], *, memory: int) -> None:
        self._patterns = tuple(patterns)
        self._meaning = lru_cache(memory)(self._meaning_of)

    def read(self, names: Mapping[str, int]) -> Reading:
        """Find the channels among the names of a scan; independent of earlier calls."""
        reading = Reading({}, [], [])
        for name, inode in names.items():
            meaning = self._meaning(name)
            if meaning is None:
                continue
            rank, uuid = meaning
            if uuid is None:
                reading.malformed.append(name)
                continue
            place = (rank, name, inode)
            other = reading.places.setdefault(uuid, place)
            if other is not place:
                winner, loser = sorted((place, other))
                reading.places[uuid] = winner
                reading.shadowed.append((loser[1], uuid))
        return reading

    def _meaning_of(self, name: str) -> tuple[int, str | None] | None:
        for rank, pattern in enumerate(self._patterns):
            uuid = pattern.uuid_of(name)
            if uuid is not None:
                return rank, uuid
        for rank, pattern in enumerate(self._patterns):
            if pattern.resembles(name):
                return rank, None
        return None


def difference(
    known: Mapping[str, Place], scanned: Mapping[str, Place], *, limit: int
) -> Difference:
    """Compare two sets of channels.

    A channel whose name or inode number changed is both gone and found. Known channels stay; new
    channels are added in the order of the scan, up to ``limit`` in total.
    """
    gone = [item for item in known.items() if scanned.get(item[0]) != item[1]]
    moved = [(uuid, scanned[uuid]) for uuid, _place in gone if uuid in scanned]
    new = [item for item in scanned.items() if item[0] not in known]
    room = max(0, limit - (len(known) - len(gone)) - len(moved))
    return Difference(gone, moved + new[:room], max(0, len(new) - room))


async def discover(
    watch: DirectoryWatch,
    patterns: Sequence[NamePattern],
    *,
    directory: str,
    on_found: Callable[[ChannelFile], None],
    on_gone: Callable[[ChannelFile], None],
    rescan_s: float = 180.0,
    limit: int = 20_000,
) -> NoReturn:
    """Report every channel socket that comes and goes, until cancelled.

    Scans at once, after every change of the directory, and at least every ``rescan_s`` seconds. A
    recreated socket with the same name is a new channel: it is reported gone, then found. The
    callbacks must not block; all changes of a scan are reported without a checkpoint in between. A
    channel is found once its name exists: its socket may not listen yet, because binding and
    listening are two steps.

    Each call starts from nothing: restarted after a failure, it reports all channels as found
    again.

    Args:
        watch: the directory's watch.
        patterns: names of channel sockets, preferred ones first.
        directory: the path of the directory.
        on_found: called for a new channel; never twice for one uuid without ``on_gone`` in between.
        on_gone: called with a channel that was found and no longer exists.
        rescan_s: the longest time between two scans, in seconds.
        limit: channels known at a time, at most. Further sockets are ignored until there is room.
    """
    reader = NameReader(patterns, memory=2 * limit)
    name_log = _NameLog(directory, limit)
    known: dict[str, Place] = {}

    def channel(uuid: str, place: Place) -> ChannelFile:
        _rank, name, inode = place
        return ChannelFile(uuid, f"{directory.rstrip('/')}/{name}", inode)

    while True:
        started_at = trio.current_time()
        reading = reader.read(watch.scan())
        step = difference(known, reading.places, limit=limit)
        scan_s = trio.current_time() - started_at
        name_log.log_problems(reading, step.left_out)
        for uuid, place in step.gone:
            del known[uuid]
            on_gone(channel(uuid, place))
        for uuid, place in step.found:
            known[uuid] = place
            on_found(channel(uuid, place))
        spacing_s = min(max(_SPACING_S, _SPACING_PER_SCAN * scan_s), _SPACING_MAX_S)
        not_before = trio.current_time() + spacing_s
        with trio.move_on_after(rescan_s):
            await watch.changed()
        await trio.sleep_until(not_before)


class _NameLog:
    """Logs problems with a directory's names, each name once, up to ``_LOGGED_NAMES``."""

    def __init__(self, directory: str, limit: int) -> None:
        self._directory = directory
        self._limit = limit
        self._logged: set[str] = set()
        self._full = False

    def log_problems(self, reading: Reading, left_out: int) -> None:
        for name in self._not_logged(reading.malformed):
            log.warning("%s: %r is named like a channel but has no uuid", self._directory, name)
        uuids = dict(reading.shadowed)
        for name in self._not_logged(uuids):
            uuid = uuids[name]
            text = "%s: %r in %s is not used, because %r is preferred"
            log.warning(text, uuid, name, self._directory, reading.places[uuid][1])
        full = left_out > 0
        if full != self._full:
            self._full = full
            if full:
                text = "%s: more than %d channels, %d are ignored"
                log.error(text, self._directory, self._limit, left_out)
            else:
                log.info("%s: no channel is ignored any more", self._directory)

    def _not_logged(self, names: Iterable[str]) -> Iterable[str]:
        for name in names:
            if name in self._logged or len(self._logged) > _LOGGED_NAMES:
                continue
            self._logged.add(name)
            if len(self._logged) > _LOGGED_NAMES:
                log.warning("%s: further problems with names are not logged", self._directory)
            else:
                yield name
