"""The agent's end of the links: hosts that dial in, what they send, and commands to them.

A host is known by its name; with TLS its certificate has to bear it. A second connection of the
same host replaces the first, for the first may be a connection that only this end believes in; the
first is told, for it may be another host with the same name.
"""

from __future__ import annotations

import logging
import re
import ssl
from collections.abc import Mapping
from functools import partial
from typing import Final

import attrs
import trio

from hbtrio.net.endpoints import Listener, peer_text
from hbtrio.net.link_session import LinkSession, SessionEnded
from hbtrio.nursery.agent.fleet import Fleet
from hbtrio.nursery.agent.host_events import HostEvents
from hbtrio.nursery.agent.host_session import HostSession
from hbtrio.nursery.agent.name_conflicts import NameConflicts
from hbtrio.nursery.supervisor import Supervisor
from hbtrio.nursery.wakeup import WakeUp
from hbtrio.store.store import Store
from hbtrio.store.worker import StoreFault
from hbtrio.wire.link_codec import LinkError, decode_from_host
from hbtrio.wire.link_messages import (
    PROTOCOL,
    Ack,
    ActionProgress,
    FromHost,
    Gone,
    Hello,
    Instance,
    LinkReport,
    Reply,
    SnapshotEnd,
    Welcome,
)

_log = logging.getLogger("hbtrio.links")

#: A connection has to say who it is within this, in seconds.
_HELLO_S: Final = 5.0

#: Connections that have not said who they are.
_STRANGERS: Final = 64

#: Reports that come within this time share a sync, in seconds. A verdict is on its way to the VIM
#: meanwhile, and the sync would get in between.
_GATHER_S: Final = 0.005

#: Hosts with a link.
_HOSTS: Final = 10_000

#: What a host may call itself, in the words of host.toml: it is logged, and asked the VIM about.
_HOSTNAME: Final = re.compile(r"[A-Za-z0-9._-]{1,253}", re.ASCII)

#: What the cloud may call it; "" if the host was not told. Of each the inventory keeps a record.
_HOST_UUID: Final = re.compile(r"([0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12})?", re.ASCII)


class AgentLinks:
    """Serves the links of all hosts.

    Args:
        nursery: runs what is listened for.
        name: the agent's, for hosts to log.
        fleet: holds the sessions.
        store: knows which reports are kept.
        events: takes in what hosts report.
        supervisor: counts programming errors.
    """

    def __init__(
        self,
        nursery: trio.Nursery,
        name: str,
        fleet: Fleet,
        store: Store,
        events: HostEvents,
        supervisor: Supervisor,
    ) -> None:
        self.conflicts = NameConflicts()
        self._nursery = nursery
        self._name = name
        self._fleet = fleet
        self._store = store
        self._events = events
        self._supervisor = supervisor
        #: Connections that have not said who they are, the oldest first.
        self._strangers: dict[trio.CancelScope, None] = {}

    def listen(self, listeners: list[Listener], tls: ssl.SSLContext | None) -> None:
        """Serves, in its nursery, every host that dials in; a crash ends only that host's link.

        Args:
            listeners: where; closed in the end.
            tls: what their connections are wrapped in.
        """
        self._nursery.start_soon(trio.serve_listeners, partial(self._serve_socket, tls), listeners)

    async def _serve_socket(self, tls: ssl.SSLContext | None, stream: trio.SocketStream) -> None:
        try:
            # The handshake is made with the first read, within the time that a host has to say who
            # it is.
            wrapped = stream if tls is None else trio.SSLStream(stream, tls, server_side=True)
            await self.serve(wrapped)
        except Exception:  # noqa: BLE001 - one host's programming error is not the agent's end
            self._supervisor.count_crash()
            _log.exception("link failed")

    async def serve(self, stream: trio.abc.Stream) -> None:
        """Serves one connection until it ends; its faults, and the store's, end here."""
        patience = trio.CancelScope(deadline=trio.current_time() + _HELLO_S)
        self._make_room_for(patience)
        peer = peer_text(stream)
        link = LinkSession(stream, decode_from_host)
        ack = _Acknowledgement(link, self._store)
        known: HostSession | None = None
        why = f"no hello within {_HELLO_S:g} s"
        ours = False
        crash: BaseExceptionGroup[Exception] | None = None
        try:
            async with trio.open_nursery() as nursery:

                async def handle(message: FromHost) -> None:
                    nonlocal known
                    if known is not None:
                        await self._heard(known, message, ack)
                        return
                    hello = _hello(message, stream, self._fleet.sessions)
                    # From here on somebody has to be told of its end, whatever is waited for.
                    known = HostSession(hello, link, nursery.cancel_scope, peer)
                    self._strangers.pop(patience, None)
                    patience.cancel()
                    await self._welcome(known)
                    nursery.start_soon(known.send_reporting)

                async def expect_hello() -> None:
                    nonlocal why
                    with patience:
                        await trio.sleep_forever()
                    if known is None:
                        if patience not in self._strangers:
                            why = f"{_STRANGERS} others came before its hello"
                        nursery.cancel_scope.cancel()

                nursery.start_soon(expect_hello)
                nursery.start_soon(ack.run)
                why = await link.run(handle)
                nursery.cancel_scope.cancel()
        except* StoreFault as faults:
            why, ours = f"store: {_first(faults)}", True
        except* Exception as crashes:  # noqa: BLE001 - raised again, once the host is told of as gone
            why, ours, crash = "internal failure", True, crashes
        finally:
            self._strangers.pop(patience, None)
            if known is not None:
                known.end()
        if known is None:
            _log.warning("%s: a connection that was no host's: %s", peer, why)
        elif self._fleet.sessions.get(known.hostname) is known:
            del self._fleet.sessions[known.hostname]
            _log.warning("%s: link ended: %s", known.hostname, why)
            await self._events.host_down(known, why, ours=ours)
        if crash is not None:
            raise crash

    def _make_room_for(self, newcomer: trio.CancelScope) -> None:
        # The oldest goes: a real host says hello at once, and nobody can keep it out by saying
        # nothing on many connections.
        while len(self._strangers) >= _STRANGERS:
            oldest = next(iter(self._strangers))
            del self._strangers[oldest]
            oldest.cancel()
        self._strangers[newcomer] = None

    async def _welcome(self, session: HostSession) -> None:
        hello = session.hello
        before = self._fleet.sessions.get(hello.hostname)
        self._fleet.sessions[hello.hostname] = session
        if before is not None:
            self._replace(before, session)
        acknowledged = await self._store.welcome(hello.hostname, hello.boot_id)
        await session.link.send(Welcome(PROTOCOL, self._name, acknowledged))
        _log.info("%s: link is up, version %s", hello.hostname, hello.version)
        if hello.dropped:
            _log.warning("%s: %d reports were dropped there", hello.hostname, hello.dropped)
        await self._events.host_up(session)

    def _replace(self, before: HostSession, session: HostSession) -> None:
        hostname = session.hostname
        if before.hello.boot_id == session.hello.boot_id:
            _log.warning("%s: a newer connection replaces the old one", hostname)
        else:
            # The former may be one whose daemon was started again. Then nobody reads this.
            before.link.farewell = f"another host calls itself {hostname}, from {session.peer}"
            now = trio.current_time()
            self.conflicts.replaced(hostname, before.peer, session.peer, now)
        before.end()  # before its farewell, which may take a moment
        before.scope.cancel()

    async def _heard(self, session: HostSession, message: FromHost, ack: _Acknowledgement) -> None:
        match message:
            case Instance(uuid=uuid):
                session.told(message)
                await self._events.instance_reported(session, uuid)
            case Gone(uuid=uuid):
                session.instances.pop(uuid, None)
                await self._events.instance_reported(session, uuid)
            case SnapshotEnd():
                await self._events.snapshot_received(session)
            case LinkReport(number=number):
                await self._events.report_received(session, message)
                ack.owe(number)
            case Reply():
                session.replied(message)
            case ActionProgress():
                session.progressed(message)
            case Hello():
                raise LinkError("hello was said twice")


class _Acknowledgement:
    """Acknowledges reports once they survive the machine, many with one sync."""

    def __init__(self, link: LinkSession[FromHost], store: Store) -> None:
        self._link = link
        self._store = store
        self._owed = 0
        self._reports = WakeUp()

    def owe(self, number: int) -> None:
        self._owed = number
        self._reports.set()

    async def run(self) -> None:
        acknowledged = 0
        try:
            while True:
                await self._reports.wait()
                await trio.sleep(_GATHER_S)
                owed = self._owed
                if owed > acknowledged:
                    await self._store.sync()
                    await self._link.send(Ack(owed))
                    acknowledged = owed
        except SessionEnded:
            pass  # what is not acknowledged comes again
        except StoreFault as fault:
            # The reports are taken all the same; the host keeps them, until an agent is sure.
            _log.error("store: %s: reports can't be acknowledged", fault)


def _hello(
    message: FromHost, stream: trio.abc.Stream, sessions: Mapping[str, HostSession]
) -> Hello:
    """The first message of a connection, if it may be one; its ``host_uuid`` in lower case.

    Raises:
        LinkError: why it may not.
    """
    if not isinstance(message, Hello):
        raise LinkError("the first message is not hello")
    if message.protocol != PROTOCOL:
        raise LinkError(f"protocol {message.protocol}, this agent speaks {PROTOCOL}")
    if not _HOSTNAME.fullmatch(message.hostname):
        raise LinkError(f"{message.hostname[:40]!r} is no host name")
    # In one spelling: the VIM's requests name it in any.
    host_uuid = message.host_uuid.lower()
    if not _HOST_UUID.fullmatch(host_uuid):
        raise LinkError(f"host_uuid {message.host_uuid[:40]!r} is no uuid")
    if isinstance(stream, trio.SSLStream) and message.hostname not in _names(stream):
        raise LinkError(f"the certificate does not bear the name {message.hostname}")
    if len(sessions) >= _HOSTS and message.hostname not in sessions:
        raise LinkError(f"{_HOSTS} hosts are connected")
    return attrs.evolve(message, host_uuid=host_uuid)


def _first(error: BaseException) -> BaseException:
    return _first(error.exceptions[0]) if isinstance(error, BaseExceptionGroup) else error


def _names(stream: trio.SSLStream[trio.abc.Stream]) -> set[str]:
    """The host names of the other end's certificate; as in RFC 6125, the common name last."""
    certificate = stream.getpeercert() or {}
    names = {value for kind, value in certificate.get("subjectAltName", ()) if kind == "DNS"}
    return names or {
        value
        for part in certificate.get("subject", ())
        for kind, value in part
        if kind == "commonName"
    }
