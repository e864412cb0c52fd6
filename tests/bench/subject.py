"""The host as it is, in a process of its own, and what is watched of it.

python -m bench.subject CHANNEL_DIR CHANNELS SECONDS
"""

from __future__ import annotations

import json
import logging
import math
import random
import sys
from array import array
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from functools import partial
from typing import Final

import attrs
import trio

from bench.sample import WARM_UP_S, Meter, Sample, allow_descriptors, quantiles_ms, resident_kb
from hbtrio.config.host import HostConfig
from hbtrio.nursery.host import daemon
from hbtrio.nursery.host.daemon import Host
from hbtrio.nursery.host.directory_watch import InotifyWatch
from hbtrio.nursery.host.environment import HostEnvironment
from hbtrio.nursery.host.reports import Reports
from hbtrio.nursery.pacer import SLOT_S
from hbtrio.nursery.port import Dialer, Port, UnixDialer
from hbtrio.system.runner import SystemProcesses
from hbtrio.wire.channel_messages import MAX_ID

INTERVAL_S: Final = 1.0

#: One channel in so many is timed: the watching must not be seen in what is watched.
_TIMED: Final = 8

#: How long all channels may take until they beat, in seconds.
_START_S: Final = 20.0


class TimedPort:
    """A port that notes when it sent; the rest is the real one's.

    Args:
        port: the real one.
    """

    def __init__(self, port: Port) -> None:
        self.sent = array("d")
        #: When the challenge was sent whose answer came last.
        self.answered_sent_at = math.nan
        self._port = port
        self.wait_readable = port.wait_readable
        self.wait_writable = port.wait_writable
        self.close = port.close

    def send_nowait(self, data: bytes) -> int:
        """Notes the time and sends."""
        self.sent.append(trio.current_time())
        return self._port.send_nowait(data)

    def receive_nowait(self) -> bytes | None:
        """Receives; what comes is the answer to what was sent last."""
        data = self._port.receive_nowait()
        if data and self.sent:
            self.answered_sent_at = self.sent[-1]
        return data


class TimedDialer:
    """Dials real sockets and times some of them."""

    def __init__(self, is_timed: Callable[[str], bool]) -> None:
        self.timed: dict[str, TimedPort] = {}
        self._is_timed = is_timed
        self._dialer = UnixDialer()

    def dial(self, path: str) -> Port:
        """See :class:`hbtrio.nursery.port.Dialer`."""
        port = self._dialer.dial(path)
        if not self._is_timed(path):
            return port
        self.timed[path] = TimedPort(port)
        return self.timed[path]

    def forget(self) -> None:
        """Forgets when was sent so far."""
        for port in self.timed.values():
            del port.sent[:]

    def late_ms(self) -> tuple[float, float, float]:
        """The lateness of all beats since :meth:`forget`; the shares 0.5, 0.99 and 1."""
        return quantiles_ms([late for port in self.timed.values() for late in _late(port)])


@asynccontextmanager
async def open_host(directory: str, dialer: Dialer) -> AsyncIterator[Host]:
    """A host over real sockets, put together as ``hbtrio host`` does it; its log goes nowhere."""
    logging.getLogger("hbtrio").addHandler(logging.NullHandler())
    with InotifyWatch(directory) as watch:
        async with SystemProcesses() as processes:
            environment = HostEnvironment(
                watch=watch,
                dialer=dialer,
                processes=processes,
                new_id=partial(random.getrandbits, MAX_ID.bit_length()),
                reports=Reports(lambda: datetime.now(UTC).astimezone()),
            )
            async with daemon.open_host(HostConfig(channel_dir=directory), environment) as host:
                yield host


async def all_heartbeating(host: Host, count: int) -> None:
    """Waits until so many instances are heartbeating.

    Raises:
        trio.TooSlowError: they are not within 20 s.
    """
    with trio.fail_after(_START_S):
        while host.heartbeating < count:  # noqa: ASYNC110 - an Event would have to be the host's
            await trio.sleep(0.05)


async def _measure(directory: str, count: int, seconds: float) -> Sample:
    numbers = iter(range(sys.maxsize))
    dialer = TimedDialer(lambda _: next(numbers) % _TIMED == 0)
    before_kb = resident_kb()
    async with open_host(directory, dialer) as host:
        await all_heartbeating(host, count)
        channel_kb = (resident_kb() - before_kb) / count
        await trio.sleep(WARM_UP_S)
        channels = list(host.channels.values())

        def total(name: str) -> int:
            return sum(getattr(channel.heartbeat, name) for channel in channels)

        dialer.forget()
        beats, misses = total("beats"), total("missed")
        begin = Meter.read()
        await trio.sleep(seconds)
        end = Meter.read()
        return Sample(
            channels=count,
            seconds=end.at - begin.at,
            beats=total("beats") - beats,
            cpu_s=end.cpu_s - begin.cpu_s,
            wakeups=end.waits - begin.waits,
            channel_kb=channel_kb,
            late_ms=dialer.late_ms(),
            misses=total("missed") - misses,
        )


def _late(port: TimedPort) -> list[float]:
    """How long after its slot each beat was sent; the most punctual shows where the slot is."""
    sent = list(port.sent)
    if not sent:
        return []
    phases = [at - round((at - sent[0]) / INTERVAL_S) * INTERVAL_S for at in sent]
    slot_at = math.floor(min(phases) / SLOT_S) * SLOT_S
    return [phase - slot_at for phase in phases]


if __name__ == "__main__":
    allow_descriptors()
    _sample = trio.run(_measure, sys.argv[1], int(sys.argv[2]), float(sys.argv[3]))
    print(json.dumps(attrs.asdict(_sample)))
