"""The agent's end of the links: hosts that dial in, what they tell, and commands to them.

A host is known by its name; with TLS its certificate has to bear it. A second connection of the same
host replaces the first, for the first may be a connection that only this end believes in.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from typing import Final, Protocol

import attrs
import trio

from hbtrio.nursery.link_session import LinkSession, SessionEnded
from hbtrio.nursery.store import Store
from hbtrio.wire.link_codec import LinkError, decode_from_host
from hbtrio.wire.link_messages import (
    PROTOCOL,
    Ack,
    ActCommand,
    FromHost,
    Gone,
    Goodbye,
    Hello,
    Instance,
    LinkReport,
    Progress,
    Reply,
    Reporting,
    RoundCommand,
    SnapshotEnd,
    Welcome,
)

_log = logging.getLogger("hbtrio.links")

#: A connection has to say who it is within this, in seconds.
_HELLO_S: Final = 5.0

#: Connections that have not said who they are.
_STRANGERS: Final = 64

#: Hosts and their instances that are remembered of one session.
_INSTANCES: Final = 100_000

#: How long a host may take to say how it took a command, in seconds.
REPLY_S: Final = 5.0

#: Lines of an action's progress that may wait for their reader.
_PROGRESS: Final = 256


class LinkEvents(Protocol):
    """Who is told what the hosts say: the agent."""

    async def host_up(self, session: HostSession) -> None:
        """A host has said hello; its snapshot follows."""

    async def host_down(self, session: HostSession, why: str) -> None:
        """The link of a host has ended, and no newer one has taken its place."""

    async def instance_told(self, session: HostSession, uuid: str) -> None:
        """The host told of an instance, or that it is gone."""

    async def snapshot_told(self, session: HostSession) -> None:
        """The host has told of all its instances."""

    async def report_told(self, session: HostSession, report: LinkReport) -> None:
        """The host reports; on return it is safe to acknowledge after the next sync."""


class HostUnreachable(Exception):
    """The host has no link, or did not answer."""


@attrs.define(eq=False)
class HostSession:
    """One host's session, as the agent sees it."""

    hello: Hello
    link: LinkSession[FromHost]
    scope: trio.CancelScope
    instances: dict[str, Instance] = attrs.field(factory=dict)
    _told: set[str] = attrs.field(factory=set)
    _replies: dict[str, trio.MemorySendChannel[Reply]] = attrs.field(factory=dict)
    _progress: dict[str, trio.MemorySendChannel[str]] = attrs.field(factory=dict)

    @property
    def hostname(self) -> str:
        """The host's name."""
        return self.hello.hostname

    async def set_reporting(self, uuid: str, enabled: bool) -> None:
        """Tells the host whose losses are to be reported; a lost link is told anew anyway."""
        try:
            await self.link.send(Reporting(uuid, enabled))
        except SessionEnded:
            pass

    async def command(self, message: RoundCommand | ActCommand) -> Reply:
        """Sends a command and returns how the host took it.

        Raises:
            HostUnreachable: the link is gone, or there was no reply within ``REPLY_S`` beyond the
                command's own deadline: it may or may not have been carried out.
        """
        send, receive = trio.open_memory_channel[Reply](1)
        self._replies[message.command_id] = send
        try:
            with trio.fail_after(REPLY_S + message.deadline_s):
                await self.link.send(message)
                return await receive.receive()
        except (SessionEnded, trio.EndOfChannel):
            raise HostUnreachable(f"the link to {self.hostname} is gone") from None
        except trio.TooSlowError:
            raise HostUnreachable(f"{self.hostname} did not reply") from None
        finally:
            del self._replies[message.command_id]

    async def act(self, message: ActCommand) -> AsyncIterator[str]:
        """Sends an action's command and yields its lines of progress.

        Raises:
            HostUnreachable: as for :meth:`command`, and when the link goes in the middle.
        """
        send, receive = trio.open_memory_channel[str](_PROGRESS)
        self._progress[message.command_id] = send
        try:
            reply = await self.command(message)
            if not reply.ok:
                raise HostUnreachable(reply.reason)
            async for line in receive:
                yield line
            if message.command_id in self._progress:
                raise HostUnreachable(f"the link to {self.hostname} is gone")
        finally:
            self._progress.pop(message.command_id, None)

    def replied(self, reply: Reply) -> None:
        """A reply came; one that nobody waits for any more is dropped."""
        waiting = self._replies.get(reply.command_id)
        if waiting is not None:
            try:
                waiting.send_nowait(reply)
            except trio.WouldBlock:
                pass  # a second reply to one command counts for nothing

    def progressed(self, progress: Progress) -> None:
        """A line of progress came."""
        channel = self._progress.get(progress.command_id)
        if channel is None:
            return
        if progress.last:
            del self._progress[progress.command_id]
            channel.close()
            return
        try:
            channel.send_nowait(progress.line)
        except trio.WouldBlock:
            _log.warning("%s: a reader of progress is too slow", self.hostname)

    def told(self, instance: Instance) -> None:
        """The host told of an instance."""
        if instance.uuid in self.instances or len(self.instances) < _INSTANCES:
            self.instances[instance.uuid] = instance
            self._told.add(instance.uuid)

    def snapshot_over(self) -> list[str]:
        """The uuids that were not told of: none at first, for a session begins with nothing."""
        gone = [uuid for uuid in self.instances if uuid not in self._told]
        for uuid in gone:
            del self.instances[uuid]
        return gone

    def end(self) -> None:
        """Lets everybody go who waits for this host."""
        for reply in self._replies.values():
            reply.close()
        for progress in self._progress.values():
            progress.close()


class AgentLinks:
    """The sessions of all hosts.

    Args:
        name: the agent's, for hosts to log.
        store: knows which reports are kept.
        events: who is told.
    """

    def __init__(self, name: str, store: Store, events: LinkEvents) -> None:
        self.sessions: dict[str, HostSession] = {}
        self._name = name
        self._store = store
        self._events = events
        self._strangers = 0

    async def serve(self, stream: trio.abc.Stream) -> None:
        """Serves one connection until it ends; connection faults end here."""
        if self._strangers >= _STRANGERS:
            await trio.aclose_forcefully(stream)
            return
        link = LinkSession(stream, decode_from_host)
        known: HostSession | None = None
        self._strangers += 1
        ack = _Acknowledgement(link, self._store)

        async def handle(message: FromHost) -> None:
            nonlocal known
            if known is None:
                if not isinstance(message, Hello):
                    raise LinkError("the first message is not hello")
                known = await self._welcome(message, link, scope, stream)
                self._strangers -= 1
                hello_in_time.cancel()
            else:
                await self._heard(known, message, ack)

        why = "nobody said who it is"
        try:
            async with trio.open_nursery() as nursery:
                scope = nursery.cancel_scope
                hello_in_time = trio.CancelScope(deadline=trio.current_time() + _HELLO_S)

                async def expect_hello() -> None:
                    with hello_in_time:
                        await trio.sleep_forever()
                    if known is None:
                        nursery.cancel_scope.cancel()

                nursery.start_soon(expect_hello)
                nursery.start_soon(ack.run)
                why = await link.run(handle)
                nursery.cancel_scope.cancel()
        finally:
            if known is None:
                self._strangers -= 1
            else:
                known.end()
        if known is not None and self.sessions.get(known.hostname) is known:
            del self.sessions[known.hostname]
            _log.warning("%s: link ended: %s", known.hostname, why)
            await self._events.host_down(known, why)

    async def _welcome(
        self,
        hello: Hello,
        link: LinkSession[FromHost],
        scope: trio.CancelScope,
        stream: trio.abc.Stream,
    ) -> HostSession:
        if hello.protocol != PROTOCOL:
            await link.send(Goodbye(f"this agent speaks link protocol {PROTOCOL}"))
            raise LinkError(f"{hello.hostname} speaks link protocol {hello.protocol}")
        if isinstance(stream, trio.SSLStream) and hello.hostname not in _names(stream):
            await link.send(Goodbye("the certificate bears another name"))
            raise LinkError(f"{hello.hostname}: its certificate bears another name")
        session = HostSession(hello, link, scope)
        before = self.sessions.get(hello.hostname)
        self.sessions[hello.hostname] = session
        if before is not None:
            _log.warning("%s: a newer connection replaces the old one", hello.hostname)
            before.scope.cancel()
        acknowledged = await self._store.acknowledged(hello.hostname, hello.boot_id)
        await link.send(Welcome(PROTOCOL, self._name, acknowledged))
        _log.info("%s: link is up, version %s", hello.hostname, hello.version)
        await self._events.host_up(session)
        return session

    async def _heard(self, session: HostSession, message: FromHost, ack: _Acknowledgement) -> None:
        match message:
            case Instance(uuid=uuid):
                session.told(message)
                await self._events.instance_told(session, uuid)
            case Gone(uuid=uuid):
                session.instances.pop(uuid, None)
                await self._events.instance_told(session, uuid)
            case SnapshotEnd():
                session.snapshot_over()
                await self._events.snapshot_told(session)
            case LinkReport(number=number):
                await self._events.report_told(session, message)
                ack.owe(number)
            case Reply():
                session.replied(message)
            case Progress():
                session.progressed(message)
            case Hello():
                raise LinkError("hello was said twice")


class _Acknowledgement:
    """Acknowledges reports once they survive the machine, many with one sync."""

    def __init__(self, link: LinkSession[FromHost], store: Store) -> None:
        self._link = link
        self._store = store
        self._owed = 0
        self._news = trio.Event()

    def owe(self, number: int) -> None:
        self._owed = number
        self._news.set()

    async def run(self) -> None:
        said = 0
        try:
            while True:
                await self._news.wait()
                self._news = trio.Event()
                owed = self._owed
                if owed > said:
                    await self._store.sync()
                    await self._link.send(Ack(owed))
                    said = owed
        except SessionEnded:
            pass  # what is not acknowledged comes again


def _names(stream: trio.SSLStream[trio.SocketStream]) -> set[str]:
    certificate = stream.getpeercert() or {}
    names = {value for kind, value in certificate.get("subjectAltName", ()) if kind == "DNS"}
    for part in certificate.get("subject", ()):
        names |= {value for kind, value in part if kind == "commonName"}
    return names
