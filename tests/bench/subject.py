"""The host's core on real sockets, and how late its beats are."""

from __future__ import annotations

import logging
import math
import random
from array import array
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from functools import partial

import trio

from bench.sample import quantiles_ms
from hbtrio.config.host import HostConfig
from hbtrio.nursery.host import daemon
from hbtrio.nursery.host.daemon import Host
from hbtrio.nursery.host.directory_watch import InotifyWatch
from hbtrio.nursery.host.environment import HostEnvironment
from hbtrio.nursery.host.reports import Reports
from hbtrio.nursery.pacer import SLOT_S
from hbtrio.nursery.port import ChannelPort, Dialer, UnixDialer
from hbtrio.system.runner import SystemProcesses
from hbtrio.wire.channel_messages import MAX_ID


class TimedPort:
    """A port that notes when it sent; the rest is the real one's.

    Args:
        port: the real one.
    """

    def __init__(self, port: ChannelPort) -> None:
        self.sent = array("d")
        #: When the challenge was sent whose answer came last.
        self.answered_sent_at = math.nan
        self._port = port
        self.number = port.number
        self.watch = port.watch
        self.unwatch = port.unwatch
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
        self.readers = self._dialer.readers

    def dial(self, path: str) -> ChannelPort:
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

    def late_ms(self, interval_s: float) -> tuple[float, float, float]:
        """The lateness of all beats since :meth:`forget`; the shares 0.5, 0.99 and 1.

        Args:
            interval_s: of all channels that are timed.
        """
        return quantiles_ms(
            [late for port in self.timed.values() for late in _late(port.sent, interval_s)]
        )


@asynccontextmanager
async def open_host(directory: str, dialer: Dialer) -> AsyncIterator[Host]:
    """A host's core on real sockets, without its APIs, memory and link; its log goes nowhere."""
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


def _late(sent: Sequence[float], interval_s: float) -> list[float]:
    """How long after its slot each beat was sent; the most punctual shows where the slot is."""
    if not sent:
        return []
    phases = [at - round((at - sent[0]) / interval_s) * interval_s for at in sent]
    slot_at = math.floor(min(phases) / SLOT_S) * SLOT_S
    return [phase - slot_at for phase in phases]
