"""The measured process of a host: one run, as its order says.

    python -m bench.host_run DIRECTORY ORDER

The host's own files come into the directory. The order is an :class:`Order` in JSON. It prints a
line with the sample, at which the guests that the order names fall silent; then, if there are any,
a line with the losses.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final

import attrs
import trio

from bench.detection import Group, Losses, see_losses
from bench.full_host import Scraper, open_full_host, open_peers
from bench.gc_watch import FullCollections
from bench.sample import (
    SCRAPE_S,
    Meter,
    Sample,
    allow_descriptors,
    resident_kb,
)
from bench.subject import TimedDialer, open_host
from hbtrio.nursery.host.daemon import Host
from support.guest_farm_process import channel_name

#: How long all channels may take until they are heartbeating, in seconds.
START_S: Final = 120.0

#: A host is measured so long after the start: later than what it writes and tells of it, and one of
#: many channels later than its last freeze, in seconds.
_SETTLE_S: Final = 2.0
_MANY: Final = 10_000
_MANY_SETTLE_S: Final = 5.0

#: For how long a host is measured that serves its metrics once, in seconds.
_SCRAPED_S: Final = 1.0


@attrs.frozen(kw_only=True)
class Order:
    """What is to be measured of a host.

    Attributes:
        channel_dir: the directory of its channels.
        channels: how many it has.
        seconds: for how long it is measured; 0 for its losses alone.
        interval_ms: of those whose lateness counts.
        timed: one channel in so many is timed, so that the timing is not seen in what is timed.
        complete: the whole daemon with memory, events, metrics and a link; or its core alone.
        unfrozen: its objects are left to the garbage collector, as before it froze them.
        silent: the guests that fall silent in the end.
    """

    channel_dir: str
    channels: int
    seconds: float
    interval_ms: int = 1000
    timed: int = 8
    complete: bool = True
    unfrozen: bool = False
    silent: tuple[Group, ...] = ()

    def as_json(self) -> str:
        """What :meth:`parse` reads."""
        return json.dumps(attrs.asdict(self))

    @classmethod
    def parse(cls, text: str) -> Order:
        """Reads an order."""
        members: dict[str, Any] = json.loads(text)
        members["silent"] = tuple(Group(**group) for group in members["silent"])
        return cls(**members)


class _Run:
    def __init__(self, directory: Path, order: Order) -> None:
        self._directory = directory
        self._order = order
        silent = {
            f"{order.channel_dir}/{channel_name(index)}"
            for group in order.silent
            for index in group.indexes
        }
        numbers = iter(range(sys.maxsize))
        self.dialer = TimedDialer(lambda path: next(numbers) % order.timed == 0 or path in silent)
        self.collections = FullCollections()

    async def measure(self) -> None:
        """Measures, and prints what there is."""
        before_kb = resident_kb()
        async with self._open() as (host, scraper, began):
            if self._order.unfrozen:
                host.heap._cpu_time = lambda: 0.0
            await self._all_heartbeating(host)
            start_s = time.monotonic() - began
            start_collections_s = self.collections.taken()
            # After the start, and before the collection that it makes.
            channel_kb = (resident_kb() - before_kb) / self._order.channels
            await trio.sleep(_MANY_SETTLE_S if self._order.channels >= _MANY else _SETTLE_S)
            sample = None
            if self._order.seconds:
                sample = attrs.evolve(
                    await self._sample(host, scraper, channel_kb),
                    start_s=start_s,
                    start_collections_s=start_collections_s,
                )
            told = json.dumps(None if sample is None else attrs.asdict(sample))
            if not self._order.silent:
                print(told, flush=True)
                return
            losses: list[Losses] = await see_losses(
                host,
                self._order.channel_dir,
                self.dialer,
                self._order.silent,
                partial(print, told, flush=True),
            )
            print(json.dumps([attrs.asdict(one) for one in losses]), flush=True)

    @asynccontextmanager
    async def _open(self) -> AsyncIterator[tuple[Host, Scraper | None, float]]:
        if not self._order.complete:
            began = time.monotonic()
            async with open_host(self._order.channel_dir, self.dialer) as host:
                yield host, None, began
            return
        async with open_peers(self._directory) as scraper:
            began = time.monotonic()
            async with open_full_host(
                self._directory, self._order.channel_dir, self.dialer
            ) as host:
                yield host, scraper, began

    async def _all_heartbeating(self, host: Host) -> None:
        with trio.fail_after(START_S):
            # An Event would have to be the host's.
            while host.heartbeating < self._order.channels:  # noqa: ASYNC110
                await trio.sleep(0.05)

    async def _sample(self, host: Host, scraper: Scraper | None, channel_kb: float) -> Sample:
        channels = list(host.channels.values())

        def total(name: str) -> int:
            return sum(getattr(channel.heartbeat, name) for channel in channels)

        beats, missed = total("beats"), total("missed")
        late_ticks = host.guard.late_ticks
        self.dialer.forget()
        self.collections.taken()
        begin = Meter.read()
        scrapes = await _beat(self._order.seconds, scraper)
        end = Meter.read()
        late_ms = self.dialer.late_ms(self._order.interval_ms / 1e3)
        sample = Sample(
            channels=self._order.channels,
            seconds=end.at - begin.at,
            beats=total("beats") - beats,
            cpu_s=end.cpu_s - begin.cpu_s,
            wakeups=end.waits - begin.waits,
            channel_kb=channel_kb,
            late_ms=late_ms,
            misses=total("missed") - missed,
            scrapes=scrapes,
            late_ticks=host.guard.late_ticks - late_ticks,
            collections_s=self.collections.taken(),
        )
        if scraper is None:
            return sample
        await scraper.scrape()  # the first one also imports and compiles
        beats = total("beats")
        begin = Meter.read()
        await scraper.scrape()
        await trio.sleep(_SCRAPED_S)
        end = Meter.read()
        usual_s = sample.cpu_s / max(sample.beats, 1) * (total("beats") - beats)
        return attrs.evolve(sample, scrape_cpu_s=max(0.0, end.cpu_s - begin.cpu_s - usual_s))


async def _beat(seconds: float, scraper: Scraper | None) -> int:
    """Lets the host beat for so long; returns how often its metrics were read."""
    until = trio.current_time() + seconds
    scrapes = 0
    while scraper is not None and until - trio.current_time() > SCRAPE_S:
        next_at = trio.current_time() + SCRAPE_S
        scrapes += bool(await scraper.scrape())
        await trio.sleep_until(next_at)
    await trio.sleep_until(until)
    return scrapes


if __name__ == "__main__":
    allow_descriptors()
    trio.run(_Run(Path(sys.argv[1]), Order.parse(sys.argv[2])).measure)
