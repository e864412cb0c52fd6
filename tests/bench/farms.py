"""Many guests in as many farm processes as their descriptors need.

A farm holds two descriptors for each guest, its listener and its connection. With the usual hard
limit of 20,000 one process fails at 10,000 guests, and one event loop for all guests would be the
bottleneck of what is measured.
"""

from __future__ import annotations

import resource
import sys
import tempfile
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Final

import trio

from bench.faults import BenchFailed
from hbtrio.lab.scene import alone
from support.guest_farm import FarmDied, GuestFarm, open_guest_farm

#: Guests of a farm at most.
FARM: Final = 5000

#: Descriptors of a farm's guest; and those that any process needs besides.
_PER_GUEST: Final = 2
_OTHERS: Final = 300

#: Guests are started over one interval, so that their beats are at all phases of it.
SPREAD_S: Final = 1.0


class Farms:
    """Running farms, whose guests are numbered throughout; made by :func:`open_farms`.

    Args:
        directory: for the folder ``ch`` of the channels, and for those who measure.
        stack: holds the farms.
        nursery: watches them.
        size: guests of a farm at most.
    """

    def __init__(
        self, directory: Path, stack: AsyncExitStack, nursery: trio.Nursery, size: int
    ) -> None:
        self.directory = directory
        self.channel_dir = directory / "ch"
        self.count = 0
        self.farms: list[GuestFarm] = []
        self._stack = stack
        self._nursery = nursery
        self._size = size

    async def listen(self, count: int, *, interval_ms: int = 1000) -> None:
        """Adds guests, which begin over :data:`SPREAD_S`; opens the farms that they need.

        Raises:
            FarmDied: a farm did.
        """
        while count:
            room = len(self.farms) * self._size - self.count
            if not room:
                await self._open()
                continue
            some = min(count, room)
            await self.farms[-1].listen(some, interval_ms=interval_ms, spread_s=SPREAD_S)
            self.count += some
            count -= some

    async def mute(self, indexes: Iterable[int]) -> None:
        """These guests answer one more challenge and then fall silent."""
        of_farm: dict[int, list[int]] = {}
        for index in indexes:
            of_farm.setdefault(index // self._size, []).append(index % self._size)
        for place, some in of_farm.items():
            await self.farms[place].mute(some)

    async def _open(self) -> None:
        farm = await self._stack.enter_async_context(
            open_guest_farm(self.channel_dir, len(self.farms) * self._size)
        )
        self.farms.append(farm)
        self._nursery.start_soon(farm.died)


def farm_size(limit: int) -> int:
    """How many guests a farm has at most, with this limit of open files."""
    return max(1, min(FARM, (limit - _OTHERS) // _PER_GUEST))


def check_descriptors(channels: int, limit: int) -> None:
    """Checks that a host may have so many channels with this limit of open files.

    Raises:
        BenchFailed: it may not.
    """
    if channels + _OTHERS > limit:
        raise BenchFailed(
            f"{channels} channels need {channels + _OTHERS} open files, the limit is {limit} "
            "(ulimit -Hn)"
        )


@asynccontextmanager
async def open_farms(channels: int, *, size: int | None = None) -> AsyncIterator[Farms]:
    """Farms without guests yet, in a new directory; at the end they and the directory are gone.

    Args:
        channels: how many a host is to have in it.
        size: guests of a farm at most; None: what its descriptors allow.

    Raises:
        FarmDied: a farm died meanwhile; the block is cancelled.
        BenchFailed: the limit of open files is too low for so many.
    """
    _, limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit == resource.RLIM_INFINITY:
        limit = sys.maxsize
    check_descriptors(channels, limit)
    with tempfile.TemporaryDirectory(prefix="hbb.") as name:
        directory = Path(name)
        (directory / "ch").mkdir()
        try:
            async with AsyncExitStack() as stack, trio.open_nursery() as nursery:
                yield Farms(directory, stack, nursery, size or farm_size(limit))
                nursery.cancel_scope.cancel()
        except BaseExceptionGroup as group:
            raise _first_death(group) or alone(group) from None


def _first_death(group: BaseExceptionGroup[BaseException]) -> FarmDied | None:
    """A dead farm among exceptions: the others come of it."""
    for error in group.exceptions:
        death = _first_death(error) if isinstance(error, BaseExceptionGroup) else error
        if isinstance(death, FarmDied):
            return death
    return None
