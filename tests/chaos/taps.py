"""Where channels and links can be held back, and are read along on."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final

import trio

from hbtrio.lab.bridge import Tap

_GONE: Final = (trio.BrokenResourceError, trio.ClosedResourceError)

Feed = Callable[[bytes], None]


def nothing(_: bytes) -> None:
    """Reads nothing."""


class Gate:
    """Lets pass, unless somebody holds it."""

    def __init__(self) -> None:
        self._holders = 0
        self._free = trio.Event()
        self._free.set()

    def hold(self) -> None:
        """Holds everything back until as many calls of :meth:`release`."""
        self._holders += 1
        if self._holders == 1:
            self._free = trio.Event()

    def release(self) -> None:
        """Takes one :meth:`hold` back."""
        self._holders -= 1
        if not self._holders:
            self._free.set()

    async def wait(self) -> None:
        """Waits until nobody holds it."""
        await self._free.wait()


class ChannelTap(Tap):
    """The channel of a VM."""

    def __init__(self) -> None:
        self.to_guest, self.to_host = Gate(), Gate()
        #: Read what the host has written, and what has arrived at it; set by who reads along.
        self.from_host_feed: Feed = nothing
        self.at_host_feed: Feed = nothing
        #: Called when the guest says something.
        self.on_spoken: Callable[[], None] = lambda: None
        #: Set by the next bytes that arrive at the host.
        self.heard = trio.Event()

    async def before_guest(self, data: bytes) -> None:
        self.from_host_feed(data)
        await self.to_guest.wait()

    async def before_host(self, data: bytes) -> None:
        self.on_spoken()
        await self.to_host.wait()

    def at_host(self, data: bytes) -> None:
        self.heard.set()
        self.at_host_feed(data)


class LinkRelay:
    """Where a host dials instead of to its agent.

    Args:
        path: where it listens.
        agent_path: where the agent does.
        feeds: makes what reads along on a connection: what has arrived at the agent, and what is
            about to arrive at the host.
    """

    def __init__(
        self, path: Path, agent_path: Path, feeds: Callable[[], tuple[Feed, Feed]]
    ) -> None:
        self.path = path
        self.to_agent, self.to_host = Gate(), Gate()
        self._agent_path = agent_path
        self._feeds = feeds
        self._scopes: set[trio.CancelScope] = set()

    @property
    def joined(self) -> bool:
        """Whether a connection goes through."""
        return bool(self._scopes)

    def cut(self) -> None:
        """Ends the connection, with what is on its way; the host dials again."""
        for scope in self._scopes:
            scope.cancel()

    async def run(self, *, task_status: trio.TaskStatus[None]) -> None:
        """Joins connections until cancelled."""
        sock = trio.socket.socket(trio.socket.AF_UNIX)
        await sock.bind(str(self.path))
        sock.listen(8)
        async with trio.SocketListener(sock) as listener, trio.open_nursery() as nursery:
            task_status.started()
            while True:
                nursery.start_soon(self._join, await listener.accept())

    async def _join(self, host: trio.SocketStream) -> None:
        async with host:
            try:
                agent = await trio.open_unix_socket(str(self._agent_path))
            except OSError:
                return
            at_agent, before_host = self._feeds()
            async with agent, trio.open_nursery() as nursery:
                scope = nursery.cancel_scope
                self._scopes.add(scope)
                try:
                    to_agent = partial(_pump, host, agent, self.to_agent, after=at_agent)
                    nursery.start_soon(to_agent, scope)
                    await _pump(agent, host, self.to_host, scope, before=before_host)
                finally:
                    self._scopes.discard(scope)


async def _pump(
    source: trio.SocketStream,
    sink: trio.SocketStream,
    gate: Gate,
    scope: trio.CancelScope,
    *,
    before: Feed = nothing,
    after: Feed = nothing,
) -> None:
    """Carries bytes until either end is gone, which ends both directions.

    Who reads along does so ``before`` they lie in the socket, when it has to know them before the
    peer answers, or ``after``, to say when they have arrived.
    """
    try:
        while data := bytes(await source.receive_some(65536)):
            await gate.wait()
            before(data)
            await sink.send_all(data)
            after(data)
    except _GONE:
        pass
    scope.cancel()
