"""Serves the hosts' links to the agent.

A host is identified by its name; with TLS its certificate has to contain the name. A second
connection with the same name replaces the first, which may be dead without this end having noticed.
The first connection receives the reason, for it may be another host with the same name.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Final

import trio

from hbtrio.net.accepting import accept_connections
from hbtrio.net.connections import AcceptedStream, Listener
from hbtrio.net.endpoints import peer_text
from hbtrio.net.handshake import HandshakeFailed, make_handshake
from hbtrio.net.link_session import LinkSession, SessionEnded
from hbtrio.net.link_turns import Turns
from hbtrio.net.tls import expiry_of
from hbtrio.net.tls_files import TlsFiles
from hbtrio.nursery.agent.acknowledgement import Acknowledgement
from hbtrio.nursery.agent.fleet import Fleet
from hbtrio.nursery.agent.hello import accepted_hello
from hbtrio.nursery.agent.host_events import HostEvents
from hbtrio.nursery.agent.host_session import HostSession
from hbtrio.nursery.agent.instance_groups import FleetGroups
from hbtrio.nursery.agent.instance_holds import AgentHolds
from hbtrio.nursery.agent.later_truths import LaterTruths
from hbtrio.nursery.agent.name_conflicts import NameConflicts
from hbtrio.nursery.agent.refused_links import RefusedLinks
from hbtrio.nursery.file_watch import FileWatch
from hbtrio.nursery.supervisor import Supervisor
from hbtrio.nursery.time_guard import sleep_on_time
from hbtrio.policy.time_guard import OnTimeGuard
from hbtrio.store.store import Store
from hbtrio.store.worker import StoreFault
from hbtrio.wire.link_codec import LinkError, decode_from_host
from hbtrio.wire.link_holds import HoldWord
from hbtrio.wire.link_looks import Seen
from hbtrio.wire.link_messages import (
    MAX_TEXT,
    PROTOCOL,
    ActionProgress,
    FromHost,
    Gone,
    Hello,
    Instance,
    LinkReport,
    OverloadReport,
    Ping,
    Reply,
    SnapshotEnd,
    Welcome,
)
from hbtrio.wire.link_places import PlaceAnswer, PlaceOver, PlaceRequest

_log = logging.getLogger("hbtrio.links")

#: Seconds within which a connection has to send hello.
_HELLO_S: Final = 5.0

#: Connections without a hello, at most.
_STRANGERS: Final = 64


class AgentLinks:
    """Serves the links of all hosts.

    Args:
        nursery: runs the listeners.
        name: the agent's name, which hosts log.
        fleet: holds the sessions.
        store: knows which reports are stored.
        events: handles what hosts report.
        supervisor: counts programming errors.
        guard: the process's on-time guard.
        later: handles what comes when nobody waits for it any more.
        clock: this process's clock, see :mod:`hbtrio.policy.begin_by`.
        files: warns before the hosts' certificates expire.
        holds: the holds of operators, which hosts are told and tell.
        groups: the agent's groups, which hosts ask before they act.
    """

    def __init__(
        self,
        nursery: trio.Nursery,
        name: str,
        fleet: Fleet,
        store: Store,
        events: HostEvents,
        supervisor: Supervisor,
        guard: OnTimeGuard,
        later: LaterTruths,
        clock: Callable[[], float],
        files: FileWatch,
        holds: AgentHolds,
        groups: FleetGroups,
    ) -> None:
        self.conflicts = NameConflicts()
        self.refused = RefusedLinks()
        self._turns = Turns()
        self._nursery = nursery
        self._name = name
        self._fleet = fleet
        self._store = store
        self._events = events
        self._supervisor = supervisor
        self._guard = guard
        self._later = later
        self._clock = clock
        self._files = files
        self._holds = holds
        self._groups = groups

    def listen(self, listeners: Sequence[Listener], tls: TlsFiles | None) -> None:
        """Starts to serve all connecting hosts; an internal error ends only one host's link.

        Args:
            listeners: the listening sockets; closed at the end.
            tls: the context of TLS, or None.
        """
        for listener in listeners:
            self._nursery.start_soon(self._accept, listener, tls)

    async def _accept(self, listener: Listener, tls: TlsFiles | None) -> None:
        serve = partial(self._serve_socket, tls)
        await accept_connections(serve, listener, self._nursery, whose="hosts", to_the_last=False)

    async def _serve_socket(self, tls: TlsFiles | None, stream: AcceptedStream) -> None:
        try:
            # The handshake is made within the time limit for hello.
            wrapped = (
                stream
                if tls is None
                else trio.SSLStream(stream, tls.value.context, server_side=True)
            )
            await self.serve(wrapped)
        except Exception:  # noqa: BLE001 - a programming error ends one link only
            self._supervisor.count_crash()
            _log.exception("link failed")

    async def serve(self, stream: trio.abc.Stream) -> None:
        """Serves one connection until it ends; faults of the connection or the store are logged."""
        patience = trio.CancelScope()
        self._make_room_for(patience)
        peer = peer_text(stream)
        sleep, clock = sleep_on_time(self._guard), self._clock
        link = LinkSession(stream, decode_from_host, sleep=sleep, clock=clock, turns=self._turns)
        ack = Acknowledgement(link, self._store)
        known: HostSession | None = None
        reason = f"no hello within {_HELLO_S:g} s"
        ours = is_over = False
        crash: BaseExceptionGroup[Exception] | None = None
        try:
            async with trio.open_nursery() as nursery:

                async def handle(message: FromHost) -> None:
                    nonlocal known, is_over
                    if known is not None and is_over:
                        self._events.unstored(known, message)
                        return
                    if known is not None:
                        try:
                            await self._handle(known, message, ack)
                        except StoreFault as fault:
                            is_over = True
                            nursery.start_soon(end, fault)
                        return
                    hello = accepted_hello(message, stream, self._fleet.sessions)
                    # From here on the end of the session has to be handled.
                    known = HostSession(hello, link, nursery.cancel_scope, peer, self._guard)
                    self._fleet.strangers.pop(patience, None)
                    self.refused.accepted(peer, hello.hostname)
                    self._note_certificate(stream, hello.hostname)
                    patience.cancel()
                    await self._welcome(known)
                    nursery.start_soon(known.send_reporting)

                async def end(fault: StoreFault) -> None:
                    # What has arrived behind it, and may be a reject, is taken in first.
                    await link.sleep(trio.current_time())
                    raise fault

                async def expect_hello() -> None:
                    nonlocal reason
                    with patience:
                        await link.sleep(trio.current_time() + _HELLO_S)
                    if known is None:
                        if patience not in self._fleet.strangers:
                            reason = f"displaced by {_STRANGERS} newer connections before its hello"
                        nursery.cancel_scope.cancel()

                nursery.start_soon(expect_hello)
                nursery.start_soon(ack.run)
                reason = await _handshake(stream) or await link.run(handle)
                nursery.cancel_scope.cancel()
        except* StoreFault as faults:
            reason, ours = f"store: {_first(faults)}", True
        except* Exception as crashes:  # noqa: BLE001 - raised again below
            reason, ours, crash = "internal error", True, crashes
        finally:
            self._fleet.strangers.pop(patience, None)
            if known is not None:
                known.end()
        if known is None:
            self.refused.log(peer, reason, trio.current_time())
        elif self._fleet.sessions.get(known.hostname) is known:
            del self._fleet.sessions[known.hostname]
            self._files.forget_peer(known.hostname)
            _log.warning("%s: link ended: %s", known.hostname, reason)
            await self._events.host_down(known, reason, ours=ours)
        if crash is not None:
            raise crash

    def _note_certificate(self, stream: trio.abc.Stream, hostname: str) -> None:
        if isinstance(stream, trio.SSLStream):
            self._files.note_peer(hostname, expiry_of(stream.getpeercert()))

    def _make_room_for(self, patience: trio.CancelScope) -> None:
        # The oldest connection is closed: a real host sends hello at once, so many silent
        # connections can't keep it out.
        while len(self._fleet.strangers) >= _STRANGERS:
            oldest = next(iter(self._fleet.strangers))
            del self._fleet.strangers[oldest]
            oldest.cancel()
        self._fleet.strangers[patience] = None

    async def _welcome(self, session: HostSession) -> None:
        hello = session.hello
        before = self._fleet.sessions.get(hello.hostname)
        self._fleet.sessions[hello.hostname] = session
        if before is not None:
            self._replace(before, session)
        acknowledged = await self._store.links.welcome(hello.hostname, hello.boot_id)
        await session.link.send(
            Welcome(
                PROTOCOL,
                self._name,
                acknowledged,
                overloads=True,
                holds=True,
                places=bool(self._groups.rule),
            )
        )
        self._groups.host_up(hello.hostname)
        # Until the first pong, the host's clock is that of its hello, which may have come late.
        await session.link.send(Ping(0))
        _log.info("%s: link is up, version %s", hello.hostname, hello.version)
        if hello.clock_s is None:
            _log.info("%s: too old to let commands expire: it may begin one late", hello.hostname)
        if hello.dropped:
            _log.warning("%s: the host has dropped %d reports", hello.hostname, hello.dropped)
        await self._events.host_up(session)

    def _replace(self, before: HostSession, session: HostSession) -> None:
        hostname = session.hostname
        if before.hello.boot_id == session.hello.boot_id:
            _log.warning("%s: a newer connection replaces the old one", hostname)
        else:
            # The old connection may belong to a daemon that was restarted. Then nobody reads this.
            before.link.farewell = f"another host uses the name {hostname}, from {session.peer}"
            now = trio.current_time()
            self.conflicts.replaced(hostname, before.peer, session.peer, now)
        before.end()  # at once: sending the farewell may take a moment
        before.scope.cancel()

    async def _handle(self, session: HostSession, message: FromHost, ack: Acknowledgement) -> None:
        match message:
            case Instance(uuid=uuid):
                session.note_instance(message)
                self._holds.instance_reported(session, uuid)
                await self._events.instance_reported(session, uuid)
            case Gone(uuid=uuid, reason=reason):
                session.note_gone(uuid, reason)
                await self._events.instance_reported(session, uuid)
            case SnapshotEnd():
                await self._events.snapshot_received(session)
                session.complete = True
            case LinkReport(number=number):
                await self._events.report_received(session, message)
                ack.owe(number)
            case Reply():
                if not session.replied(message):
                    await self._later.replied(session.hostname, message)
            case ActionProgress():
                if not session.progressed(message):
                    await self._later.progressed(session.hostname, message)
            case Seen():
                session.looks.answered(message)
            case HoldWord():
                await self._holds.said(session, message)
            case PlaceRequest(number=number, uuid=uuid, event=event):
                denial = self._groups.ask(session.hostname, uuid, event)[:MAX_TEXT]
                with suppress(SessionEnded):
                    await session.link.send(PlaceAnswer(number, denial))
            case PlaceOver(uuid=uuid):
                self._groups.asked_over(session.hostname, uuid)
            case OverloadReport():
                session.note_overload(message)
            case Hello():
                raise LinkError("duplicate hello")


def _first(error: BaseException) -> BaseException:
    return _first(error.exceptions[0]) if isinstance(error, BaseExceptionGroup) else error


async def _handshake(stream: trio.abc.Stream) -> str:
    """Makes the handshake, if the connection uses TLS; returns why it failed, or ""."""
    if not isinstance(stream, trio.SSLStream):
        return ""
    try:
        await make_handshake(stream, alert_in_clear=True)
    except HandshakeFailed as error:
        return str(error)
    return ""
