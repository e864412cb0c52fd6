"""Finding the channel sockets of a compute host.

libvirt makes one unix socket per instance in one directory and puts the instance's uuid into its
name. What channels there are follows from the names alone, as a pure function of one scan; a change
is the difference of two such results. Nothing is remembered besides the last result, so whatever
events are lost, the next scan puts things right.
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

#: Seconds between two scans at least. The first change is followed at once; those that come right
#: behind it, such as a host starting all its instances, share the next scan.
_SPACING_S = 0.05
#: In a huge directory a scan takes longer, and the pause grows with it: scans take a tenth of the
#: time. The bound is for a process that was itself stopped in the middle of a scan.
_SPACING_PER_SCAN = 9.0
_SPACING_MAX_S = 1.0

#: How many names are complained about, each once, before the log has had enough of them.
_COMPLAINTS = 100

_PLACEHOLDER = "{uuid}"
_HEX = "[0-9A-Fa-f]"
_UUID = "-".join(f"{_HEX}{{{length}}}" for length in (8, 4, 4, 4, 12))

#: Where a channel was seen: rank of the pattern (the lower one wins), file name, inode number.
Place = tuple[int, str, int]


@attrs.frozen
class ChannelFile:
    """A channel socket: the uuid in lower case, the path to connect to, the inode number there."""

    uuid: str
    path: str
    inode: int


class NamePattern:
    """How channel sockets are named: a file name with ``{uuid}`` in place of the instance's uuid.

    Args:
        text: such as ``cgcs.heartbeat.{uuid}.sock``.

    Raises:
        ValueError: not exactly one ``{uuid}``, or a slash; the text says which.
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
        """The uuid in a name, in lower case; None if the name is not of this pattern."""
        match = self._regex.fullmatch(name)
        return match[1].lower() if match else None

    def resembles(self, name: str) -> bool:
        """Whether a name has the pattern's head and tail, whatever is in between."""
        length = len(self._head) + len(self._tail)
        return len(name) >= length and name.startswith(self._head) and name.endswith(self._tail)


@attrs.frozen
class Reading:
    """What the names of one scan mean.

    Attributes:
        places: where each uuid's channel is, in the order of the scan.
        shadowed: names that are another name's second, with their uuid.
        malformed: names that look like a channel's but hold no uuid.
    """

    places: dict[str, Place]
    shadowed: list[tuple[str, str]]
    malformed: list[str]


@attrs.frozen
class Difference:
    """The way from the known places to those of a reading: first what went, then what came."""

    gone: list[tuple[str, Place]]
    found: list[tuple[str, Place]]
    left_out: int


class NameReader:
    """Reads names by patterns, in the order of their preference.

    Args:
        patterns: where one uuid has several names, the first pattern wins; of one pattern's names
            (upper and lower case), the first in sort order.
        memory: how many names' meanings are kept, so that a scan only pays for names it has not
            seen before.
    """

    def __init__(self, patterns: Sequence[NamePattern], *, memory: int) -> None:
        self._patterns = tuple(patterns)
        self._meaning = lru_cache(memory)(self._meaning_of)

    def read(self, names: Mapping[str, int]) -> Reading:
        """Find the channels among the names of a scan; earlier calls make no difference."""
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

    A channel whose name or inode number changed is gone and found. What is known stays known;
    channels that are new come in, in the order of the scan, while there are fewer than ``limit``.
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

    Scans at once, after every change of the directory, and at least every ``rescan_s``. A socket
    that was made anew under its old name is a new channel: it is reported gone, then found. The
    callbacks must not block; between two checkpoints either all or none of a scan's changes are
    reported. Being found says that the name is there: the socket may not listen yet, because
    binding it and listening are two steps.

    It knows nothing at its start: run again after a failure, it reports all channels as found
    again.

    Args:
        watch: the directory's watch.
        patterns: names of channel sockets, preferred ones first.
        directory: the path that names are joined to.
        on_found: called for a new channel; never twice for one uuid without ``on_gone`` in between.
        on_gone: called with what was found, when it is no longer there.
        rescan_s: the longest time between two scans, in seconds.
        limit: the most channels known at a time. Sockets above it are passed over until there is
            room.
    """
    reader = NameReader(patterns, memory=2 * limit)
    complaints = _Complaints(directory, limit)
    known: dict[str, Place] = {}

    def channel(uuid: str, place: Place) -> ChannelFile:
        _rank, name, inode = place
        return ChannelFile(uuid, f"{directory.rstrip('/')}/{name}", inode)

    while True:
        started_at = trio.current_time()
        reading = reader.read(watch.scan())
        step = difference(known, reading.places, limit=limit)
        scan_s = trio.current_time() - started_at
        complaints.about(reading, step.left_out)
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


class _Complaints:
    """Says what is wrong with a directory's names, each name once, and only so many of them."""

    def __init__(self, directory: str, limit: int) -> None:
        self._directory = directory
        self._limit = limit
        self._said: set[str] = set()
        self._full = False

    def about(self, reading: Reading, left_out: int) -> None:
        for name in self._unsaid(reading.malformed):
            log.warning("%s: %r is named like a channel but has no uuid", self._directory, name)
        uuids = dict(reading.shadowed)
        for name in self._unsaid(uuids):
            used = reading.places[uuids[name]][1]
            log.warning("%s: %r is not used, %r is preferred", self._directory, name, used)
        full = left_out > 0
        if full != self._full:
            self._full = full
            if full:
                text = "%s: more than %d channels, %d are passed over"
                log.error(text, self._directory, self._limit, left_out)
            else:
                log.info("%s: no channel is passed over any more", self._directory)

    def _unsaid(self, names: Iterable[str]) -> Iterable[str]:
        for name in names:
            if name in self._said or len(self._said) > _COMPLAINTS:
                continue
            self._said.add(name)
            if len(self._said) > _COMPLAINTS:
                log.warning("%s: more odd names than are worth a line each", self._directory)
            else:
                yield name
