"""A unix socket between a host and its agent, at which a test decides what passes and when."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterable
from pathlib import Path

import trio

from hbtrio.wire.lines import LineReader
from hbtrio.wire.link_codec import MAX_LINK_LINE
from support.real_processes import SOON_S

_GONE = (trio.BrokenResourceError, trio.ClosedResourceError)

#: The number of a ping that neither end sends by itself.
_OURS = 4_000_000

#: Seconds after which an unanswered one is repeated.
_AGAIN_S = 1.0


def kind_of(line: bytes) -> str:
    """What a line of the link is: its type, ``outcome`` for the report of a vote or notice."""
    message = json.loads(line)
    outcome = message["type"] == "report" and message["command_id"]
    return "outcome" if outcome else str(message["type"])


class Lane:
    """The lines of one direction, each of which passes until it is held."""

    def __init__(self) -> None:
        #: Those that have passed, of the present connection.
        self.passed: list[bytes] = []
        self._waiting: deque[bytes] = deque()
        self._held = ""
        self._alone = False
        self._come = trio.Event()
        self._news = trio.Event()

    def hold(self, kind: str, *, alone: bool = False) -> None:
        """From the next line of this kind on nothing passes.

        Args:
            kind: see :func:`kind_of`.
            alone: lines of other kinds pass those that are held.
        """
        self._held = kind
        self._alone = alone

    def release(self) -> None:
        """What is held passes, and whatever comes."""
        self._held = ""
        self._come.set()

    async def held(self, count: int) -> None:
        """Returns once so many lines of the kind are held."""
        with trio.fail_after(SOON_S):
            while sum(kind_of(line) == self._held for line in self._waiting) < count:
                await self._news.wait()

    async def until_passed(self, kind: str, **members: object) -> None:
        """Returns once such a line has passed and none of its kind and uuid after it says else."""
        with trio.fail_after(SOON_S):
            while not self._has_passed(kind, members):
                await self._news.wait()

    def _has_passed(self, kind: str, members: dict[str, object]) -> bool:
        uuid = members.get("uuid")
        for line in reversed(self.passed):
            message = json.loads(line)
            if message["type"] == kind and uuid in (None, message.get("uuid")):
                return members.items() <= message.items()
        return False

    def has_ponged(self, first: int) -> bool:
        """Whether a pong with this number or a higher one has passed, whatever came after it."""
        pongs = (line for line in self.passed if kind_of(line) == "pong")
        return any(json.loads(line)["number"] >= first for line in pongs)

    async def until_ponged(self, first: int) -> None:
        """Returns once :meth:`has_ponged`."""
        while not self.has_ponged(first):
            await self._news.wait()

    def forget(self) -> None:
        """Another connection: what was held is lost."""
        self.passed.clear()
        self._waiting.clear()

    def put(self, lines: Iterable[bytes]) -> None:
        """These come along."""
        self._waiting += lines
        self._come.set()
        self._notify()

    async def pump(self, source: trio.abc.ReceiveStream, sink: trio.abc.SendStream) -> None:
        """Carries lines until either end is gone."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._write, sink, nursery.cancel_scope)
            lines = LineReader(MAX_LINK_LINE)
            try:
                while data := await source.receive_some(65536):
                    self.put(lines.feed(bytes(data)))
            except _GONE:
                pass
            nursery.cancel_scope.cancel()

    async def _write(self, sink: trio.abc.SendStream, scope: trio.CancelScope) -> None:
        while True:
            self._come = trio.Event()
            for line in self._passing():
                try:
                    await sink.send_all(line + b"\n")
                except _GONE:
                    scope.cancel()
                    return
                self.passed.append(line)
            self._notify()
            await self._come.wait()

    def _passing(self) -> list[bytes]:
        kinds = list(map(kind_of, self._waiting))
        if self._held not in kinds:
            passing = list(self._waiting)
        elif self._alone:
            passing = [line for line in self._waiting if kind_of(line) != self._held]
        else:
            passing = list(self._waiting)[: kinds.index(self._held)]
        for line in passing:
            self._waiting.remove(line)
        return passing

    def _notify(self) -> None:
        self._news.set()
        self._news = trio.Event()


class LinkProxy:
    """Where the host dials instead of to its agent; one connection at a time.

    Args:
        path: where it listens.
        agent_path: where the agent does.
    """

    def __init__(self, path: Path, agent_path: Path) -> None:
        self.path = path
        self.to_agent = Lane()
        self.to_host = Lane()
        self._agent_path = agent_path
        self._scope = trio.CancelScope()
        self._ended = trio.Event()
        self._ended.set()
        self._up = trio.Event()
        self._up.set()
        self._pings = _OURS

    async def run(self, *, task_status: trio.TaskStatus[None]) -> None:
        """Joins connections until cancelled."""
        sock = trio.socket.socket(trio.socket.AF_UNIX)
        await sock.bind(str(self.path))
        sock.listen(8)
        async with trio.SocketListener(sock) as listener:
            task_status.started()
            while True:
                host = await listener.accept()
                try:
                    await self._up.wait()
                    await self._join(host)
                finally:
                    await trio.aclose_forcefully(host)

    async def _join(self, host: trio.SocketStream) -> None:
        try:
            agent = await trio.open_unix_socket(str(self._agent_path))
        except OSError:
            return

        async def carry(lane: Lane, source: trio.SocketStream, sink: trio.SocketStream) -> None:
            await lane.pump(source, sink)
            nursery.cancel_scope.cancel()

        self._ended = trio.Event()
        try:
            async with trio.open_nursery() as nursery:
                self._scope = nursery.cancel_scope
                nursery.start_soon(carry, self.to_agent, host, agent)
                nursery.start_soon(carry, self.to_host, agent, host)
        finally:
            self.to_agent.forget()
            self.to_host.forget()
            self._ended.set()
            await trio.aclose_forcefully(agent)

    async def ended(self) -> None:
        """Returns once no connection is joined."""
        with trio.fail_after(SOON_S):
            await self._ended.wait()

    async def cut(self) -> None:
        """Ends the connection, with what is on its way; the host dials again."""
        self._scope.cancel()
        await self.ended()

    async def down(self) -> None:
        """Ends the connection; the next one waits until the link is up."""
        if self._up.is_set():
            self._up = trio.Event()
        await self.cut()

    def up(self) -> None:
        """Connections are joined again."""
        self._up.set()

    async def received(self) -> None:
        """Returns once the agent has dealt with all that it was sent: it takes lines in order.

        Of a connection that ends meanwhile, the ping is sent again on the next one.
        """
        first = self._pings + 1
        with trio.fail_after(SOON_S):
            while not self.to_host.has_ponged(first):
                self._pings += 1
                self.to_agent.put([b'{"type":"ping","number":%d}' % self._pings])
                with trio.move_on_after(_AGAIN_S):
                    await self.to_host.until_ponged(first)
