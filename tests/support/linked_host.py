"""A host on the fake clock with an agent by hand at the other end of its link."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import attrs
import trio
from trio.testing import memory_stream_pair, wait_all_tasks_blocked

from hbtrio.config.host import AgentLinkSettings, AgentMayRun
from hbtrio.net.endpoints import Unreachable
from hbtrio.nursery.host.agent_link import HostLink, Identity
from hbtrio.wire.lines import LineReader
from hbtrio.wire.link_codec import MAX_LINK_LINE, decode_from_host, encode_link
from hbtrio.wire.link_messages import (
    Ack,
    FromHost,
    Hello,
    LinkMessage,
    LinkReport,
    Ping,
    Pong,
    Reporting,
    Welcome,
)
from hbtrio.wire.link_places import PlaceAnswer, PlaceRequest
from support.host_world import HostWorld, ScriptedGuest, host_world

IDENTITY = Identity("compute-0", "h-1", "boot-1")


class Slow(trio.abc.SendStream):
    """A stream that takes its time."""

    def __init__(self, inner: trio.abc.SendStream, takes_s: float) -> None:
        self._inner = inner
        self._takes_s = takes_s

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await trio.sleep(self._takes_s)
        await self._inner.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await trio.lowlevel.checkpoint()

    async def aclose(self) -> None:
        await self._inner.aclose()


class ScriptedAgent:
    """An agent by hand: what hosts say to it, on the connection that they have now."""

    def __init__(self) -> None:
        #: Why it can't be connected to, "" if it can.
        self.away = ""
        #: How long the host takes to send it a message.
        self.takes_s = 0.0
        #: What it says to a hello; None: nothing.
        self.welcome: LinkMessage | None = Welcome(1, "controller-0", 0)
        #: Whether it acknowledges each report at once.
        self.acknowledges = True
        #: What it answers when it is asked for a place; None: nothing.
        self.denies: Callable[[PlaceRequest], str | None] = lambda _: ""
        self.received: list[FromHost] = []
        #: When it was dialled.
        self.dialled: list[float] = []
        self._stream: trio.abc.Stream | None = None
        self._turn = trio.Lock()
        self._nursery: trio.Nursery | None = None

    async def connect(self) -> trio.abc.Stream:
        """The host's way to it."""
        self.dialled.append(round(trio.current_time(), 6))
        await trio.lowlevel.checkpoint()
        if self.away:
            raise Unreachable(self.away)
        ours, theirs = memory_stream_pair()
        self._stream = ours
        assert self._nursery is not None
        self._nursery.start_soon(self._read, ours)
        if self.takes_s:
            return trio.StapledStream(Slow(theirs, self.takes_s), theirs)
        return theirs

    async def _read(self, stream: trio.abc.Stream) -> None:
        lines = LineReader(MAX_LINK_LINE)
        try:
            while data := await stream.receive_some(65536):
                for line in lines.feed(bytes(data)):
                    await self._take(decode_from_host(line))
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass

    async def _take(self, message: FromHost) -> None:
        match message:
            case Ping(number=number):
                await self._send(Pong(number))
                return
            case Hello() if self.welcome is not None:
                await self._send(self.welcome)
            case LinkReport(number=number) if self.acknowledges:
                await self._send(Ack(number))
            case PlaceRequest(number=number) if (denial := self.denies(message)) is not None:
                await self._send(PlaceAnswer(number, denial))
        self.received.append(message)

    async def _send(self, *messages: LinkMessage) -> None:
        assert self._stream is not None
        async with self._turn:
            await self._stream.send_all(b"".join(map(encode_link, messages)))

    async def post(self, *messages: LinkMessage) -> None:
        """Says these, and leaves them in the link."""
        await self._send(*messages)

    async def send(self, *messages: LinkMessage) -> None:
        """Says these, and waits until all that follows at once has happened."""
        await self._send(*messages)
        await wait_all_tasks_blocked()

    async def cut(self) -> None:
        assert self._stream is not None
        await trio.aclose_forcefully(self._stream)
        await wait_all_tasks_blocked()

    @property
    def reports(self) -> list[tuple[int, str, str]]:
        """Number, kind and result of each report."""
        return [
            (one.number, one.kind, one.result or "")
            for one in self.received
            if isinstance(one, LinkReport)
        ]

    def of(self, cls: type[Any]) -> list[Any]:
        return [one for one in self.received if type(one) is cls]


@attrs.frozen
class Linked:
    world: HostWorld
    agent: ScriptedAgent
    link: HostLink
    #: Ended, it ends the link as the end of the daemon does.
    scope: trio.CancelScope = attrs.field(factory=trio.CancelScope)

    async def report(self, guest: ScriptedGuest, *, on: bool = True) -> None:
        """The agent wants to hear of the guest's losses."""
        await self.agent.send(Reporting("", on), Reporting(guest.uuid, on))


@asynccontextmanager
async def linked(
    agent: ScriptedAgent | None = None, *, commands: AgentMayRun = "any", **config: Any
) -> AsyncIterator[Linked]:
    """A host with a link, once it has told all.

    Args:
        agent: the other end.
        commands: what the agent may have run.
        config: see :func:`host_world`.
    """
    agent = ScriptedAgent() if agent is None else agent
    config["agent"] = AgentLinkSettings(connect="unix:/agent", commands=commands)
    async with host_world(**config) as world, trio.open_nursery() as nursery:
        agent._nursery = nursery
        link = HostLink(world.host, IDENTITY, agent.connect)
        linked = Linked(world, agent, link)

        async def run() -> None:
            with linked.scope:
                await link.run()

        nursery.start_soon(run)
        await world.settle()
        yield linked
        nursery.cancel_scope.cancel()
