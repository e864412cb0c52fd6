"""The addresses and settings that the parts of a simulated fleet share."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from typing import Self, TypeVar

import attrs

from hbtrio.log.subject import Find, by_uuid
from hbtrio.nursery.host.heap_freezer import HeapFreezer
from hbtrio.simulate.network import Network
from hbtrio.simulate.observations import Observation
from hbtrio.simulate.timeline import Timeline
from hbtrio.simulate.trace import Trace
from hbtrio.system.sd_notify import ServiceManager

T = TypeVar("T")

AGENT_LINK = "tcp:controller:2411"
AGENT_OPERATOR = "unix:/run/agent.sock"
AGENT_VIM = "tcp:controller:2410"
VIM = "tcp:controller:30002"

#: The name of the agent's group.
SPREAD = "spread"


@attrs.frozen
class Stage:
    """What every part of a simulated fleet uses.

    Args:
        timeline: has the time and the random streams.
        trace: records what happens.
        network: connects processes.
        observe: called with what is observed.
    """

    timeline: Timeline
    trace: Trace
    network: Network
    observe: Callable[[Observation], None]


class QuietLog:
    """A daemon's log of which nothing is kept; see :class:`~hbtrio.daemons.serving.DaemonLog`."""

    def __init__(self) -> None:
        self.find: Find = by_uuid
        self.lines_dropped = 0

    def shed(self, shedding: bool) -> None:  # noqa: FBT001 - as of the protocol
        """Does nothing."""


class NoHeap(HeapFreezer):
    """Leaves the heap alone: one process holds the heaps of a whole fleet."""

    def __enter__(self) -> Self:
        """Does nothing."""
        return self

    def __exit__(self, *exc_info: object) -> None:
        """Does nothing."""


def no_manager() -> ServiceManager:
    """A service manager that is not there."""
    return ServiceManager("")


@contextmanager
def never_collecting() -> Iterator[Callable[[], None]]:
    """The simulation's garbage is not collected within a seed."""
    yield _nothing


def opening(thing: T) -> Callable[[], AbstractAsyncContextManager[T]]:
    """Returns what opens something that needs neither opening nor closing."""

    @asynccontextmanager
    async def opened() -> AsyncIterator[T]:
        yield thing

    return opened


def _nothing() -> None:
    pass
