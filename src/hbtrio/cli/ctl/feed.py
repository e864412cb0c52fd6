"""Follows a daemon for as long as somebody looks: its status, and its events as they come.

The daemon is not asked every second. Its events say which instances have changed, and only these
are asked for; everything is asked for now and then, because not every change of state is an event.
A daemon that goes away is tried again until it is back, and what was known of it stays.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from typing import Final, NoReturn

import attrs
import trio

from hbtrio.client.client import CtlClient
from hbtrio.client.stream import SILENCE_S
from hbtrio.errors import ExitStatus, UserError
from hbtrio.policy.backoff import Backoff
from hbtrio.wire.operator import (
    AnyEventLine,
    FleetInstanceLine,
    FleetStatus,
    InstanceLine,
    Status,
    parse_event,
)

#: Events come in bursts; requests are put together for this long, in seconds.
GATHER_S: Final = 0.05

#: More changed instances than this are asked for together.
MANY: Final = 12

#: The shortest time between two requests for everything, in seconds.
BETWEEN_S: Final = 1.0

#: How often everything is asked for, in seconds, by the number of instances.
EVERY_S: Final = 3.0
EVERY_OF_MANY_S: Final = 10.0
CROWD: Final = 300

#: How long it waits before it tries a daemon again, in seconds: twice as long each time.
FIRST_PAUSE_S: Final = 0.25
LONGEST_PAUSE_S: Final = 5.0

#: Past events to begin with, and how many are remembered so that none is shown twice.
RECENT: Final = 100
_REMEMBERED: Final = 2 * RECENT

#: News that nobody has taken yet. A reader that is slower keeps the daemon waiting.
_QUEUE: Final = 1000


@attrs.frozen
class Seen:
    """A whole status, and when it was received on trio's clock."""

    status: Status | FleetStatus
    at: float


@attrs.frozen
class SeenOne:
    """The present state of one instance, and when it was received on trio's clock."""

    instance: InstanceLine | FleetInstanceLine
    at: float


@attrs.frozen
class Happened:
    """An event."""

    event: AnyEventLine


@attrs.frozen
class Away:
    """The daemon can't be reached or gives no answer, and is tried again; ``Seen`` ends that."""

    reason: str


News = Seen | SeenOne | Happened | Away


class Feed:
    """Follows one daemon.

    Args:
        client: of the host or agent.
        every_s: how often everything is asked for, in seconds; None: as their number suggests.
        recent: with how many past events to begin.
    """

    def __init__(self, client: CtlClient, *, every_s: float | None = None, recent: int = 0) -> None:
        self._client = client
        self._every_s = every_s
        self._recent = recent
        self._send, self.news = trio.open_memory_channel[News](_QUEUE)
        self._wake = trio.Event()
        self._touched: set[str] = set()
        self._all = False
        self._kind: type[InstanceLine] | type[FleetInstanceLine] | None = None
        self._asked, self._due = -math.inf, math.inf
        self._events: OrderedDict[AnyEventLine, None] = OrderedDict()

    async def run(self) -> NoReturn:
        """Sends what is new to ``news``, until cancelled.

        Raises:
            UserError: the daemon can't be reached, or refuses, at the very first.
        """
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._follow)
            await self._refresh()

    async def _follow(self) -> NoReturn:
        """Follows the events, and asks for everything each time that it begins to."""
        backoff, recent = Backoff(FIRST_PAUSE_S, LONGEST_PAUSE_S), self._recent
        while True:
            try:
                path = f"/v1/events?recent={recent}&follow=yes"
                async with self._client.lines("GET", path) as lines:
                    backoff.reset()
                    recent = RECENT if self._recent else 0
                    # After the stream is open, so that no change falls between the two.
                    self._touch_all()
                    while (event := await lines.read(parse_event, SILENCE_S)) is not None:
                        await self._take(event)
                    raise lines.lost("the daemon ended the stream")
            except UserError as fault:
                if self._kind is None:
                    raise
                await self._send.send(Away(str(fault)))
            await trio.sleep(backoff.next_delay_s())

    async def _take(self, event: AnyEventLine) -> None:
        # After a restart of the daemon its last events come again.
        if event in self._events:
            return
        self._events[event] = None
        if len(self._events) > _REMEMBERED:
            self._events.popitem(last=False)
        await self._send.send(Happened(event))
        if event.uuid:
            self._touched.add(event.uuid)
            self._wake.set()
        else:
            self._touch_all()

    def _touch_all(self) -> None:
        self._all = True
        self._wake.set()

    async def _refresh(self) -> NoReturn:
        """Asks for what has changed, one request at a time: no answer overtakes a newer one."""
        backoff = Backoff(FIRST_PAUSE_S, LONGEST_PAUSE_S)
        while True:
            with trio.move_on_at(self._due):
                await self._wake.wait()
            await trio.sleep(GATHER_S)
            self._wake = trio.Event()
            try:
                if self._kind is None or self._all or not 0 < len(self._touched) <= MANY:
                    await self._ask_all()
                else:
                    await self._ask_some(self._kind)
                backoff.reset()
            except UserError as fault:
                if self._kind is None:
                    raise
                await self._send.send(Away(str(fault)))
                await trio.sleep(backoff.next_delay_s())
                self._touch_all()

    async def _ask_all(self) -> None:
        await trio.sleep_until(self._asked + BETWEEN_S)
        self._all = False
        self._touched.clear()
        self._asked = trio.current_time()
        status = await self._client.any_status()
        fleet = isinstance(status, FleetStatus)
        self._kind = FleetInstanceLine if fleet else InstanceLine
        every_s = self._every_s
        if every_s is None:
            every_s = EVERY_OF_MANY_S if len(status.instances) > CROWD else EVERY_S
        self._due = self._asked + every_s
        await self._send.send(Seen(status, trio.current_time()))

    async def _ask_some(self, kind: type[InstanceLine] | type[FleetInstanceLine]) -> None:
        while self._touched:
            uuid = self._touched.pop()
            try:
                instance = await self._client.line(uuid, kind)
            except UserError as fault:
                if fault.status is not ExitStatus.FAILED:
                    raise
                # It is gone, or not registered: the next status is without it.
                self._touch_all()
                return
            await self._send.send(SeenOne(instance, trio.current_time()))
