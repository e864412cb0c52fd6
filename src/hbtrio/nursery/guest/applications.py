"""Serves the application API in the guest: a task per connected application."""

from __future__ import annotations

import errno
import logging
import os
import resource
import socket
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Final

import trio

from hbtrio.errors import os_reason
from hbtrio.log import LogOnce
from hbtrio.net.accepting import SHORTAGES, accept_waiting, drop_left, has_reserved
from hbtrio.net.peer_credentials import PeerCredentials, peer_credentials
from hbtrio.net.unix_socket import UnixListener
from hbtrio.nursery.guest.app_connection import AppConnection
from hbtrio.nursery.guest.app_log import AppLog, Topic
from hbtrio.nursery.guest.app_services import SharedServices
from hbtrio.nursery.guest.voters import VoterNames
from hbtrio.nursery.pacer import Pacer
from hbtrio.nursery.port import SocketPort
from hbtrio.nursery.windows import Handler
from hbtrio.policy.health_merge import HealthStatus
from hbtrio.policy.time_guard import OnTimeGuard
from hbtrio.policy.voter_news import KnownVoter
from hbtrio.wire.app_status import GuestApplications
from hbtrio.wire.channel_messages import ActionNotify
from hbtrio.wire.vocabulary import Event

#: Connections at once: a bound against runaway processes, far above any useful number.
MAX_CONNECTIONS: Final = 1024

#: Voter name of an application without a name.
_NAMELESS: Final = "application"

#: Seconds to wait after a transient error of accept(2).
_SHORTAGE_S: Final = 0.1


class Applications:
    """All applications of this VM, which vote and have a health of their own.

    Args:
        new_id: makes challenges and ids in 0..2^31-1.
        guard: the process's on-time guard, ticked by the caller.
        max_connections: connections at once, at most. A further connection replaces the one that
            has been unregistered for the longest time; if all are registered, it is closed at once.
        bounded_by: the limit that ``max_connections`` comes from, for the log.
    """

    def __init__(
        self,
        new_id: Callable[[], int],
        guard: OnTimeGuard,
        max_connections: int = MAX_CONNECTIONS,
        bounded_by: str = "",
    ) -> None:
        self._log = AppLog()
        #: Takes that an application, by its name, would not reject an event any more.
        self.on_withdrawn: Callable[[Event, str], None] = lambda event, name: None
        self._services = SharedServices(Pacer(), guard, new_id, self._log, self._withdrew)
        self._max_connections = max_connections
        self._bounded_by = bounded_by
        self._connections: dict[AppConnection, None] = {}
        self._full = LogOnce()
        self._shortage = LogOnce()

    async def serve(self, listener: UnixListener) -> None:
        """Serves until cancelled, which closes the listener and then the connections.

        In this order: an application that finds its connection closed connects anew at once.

        Args:
            listener: the socket that applications connect to.

        Raises:
            OSError: accept failed permanently. A fault of one connection is ignored; a shortage of
                descriptors or memory is logged, and accept is retried.
        """
        async with listener, trio.open_nursery() as outer:
            nursery = await outer.start(self._run_connections)
            nursery.cancel_scope.shield = True
            try:
                # Not trio.serve_listeners: in a shortage it logs ten tracebacks a second.
                async with listener:
                    while True:
                        for stream in await self._accept(listener):
                            nursery.start_soon(self._converse, stream)
            finally:
                nursery.cancel_scope.cancel()

    async def _run_connections(self, *, task_status: trio.TaskStatus[trio.Nursery]) -> None:
        """Runs the nursery of the connections."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._services.pacer.run)
            nursery.start_soon(self._log.run)
            task_status.started(nursery)

    async def _accept(self, listener: UnixListener) -> list[trio.SocketStream]:
        while True:
            try:
                streams = [await listener.accept()]
            except OSError as error:
                if error.errno not in SHORTAGES:
                    raise
                self._log_shortage(error)
                await trio.sleep(_SHORTAGE_S)
            else:
                streams += accept_waiting(listener)
                drop_left(streams)
                served = [one for one in streams if not has_reserved(one)]
                if len(served) < len(streams):
                    self._log_shortage(OSError(errno.EMFILE, os.strerror(errno.EMFILE)))
                    for stream in streams:
                        if stream not in served:
                            stream.socket.close()
                else:
                    self._shortage.clear()
                return served

    def _log_shortage(self, error: OSError) -> None:
        reason = os_reason(error)
        if error.errno == errno.EMFILE:
            files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
            reason = f"{reason}; the limit (ulimit -n) is {files}"
        if self._shortage.is_new(reason):
            self._log.log(Topic.REFUSED, logging.ERROR, "can't accept applications: %s", reason)

    def handlers(self, notify: ActionNotify) -> Mapping[str, Handler]:
        """See :class:`hbtrio.nursery.guest.voters.Voters`; equal names are numbered."""
        handlers: dict[str, Handler] = {}
        names = VoterNames()
        for connection in self._connections:
            if connection.application.registered:
                name = names.take(connection.application.profile.name or _NAMELESS)
                handlers[name] = partial(connection.ask, notify)
        return handlers

    def health(self) -> list[HealthStatus]:
        """See :class:`hbtrio.nursery.guest.voters.Voters`; in the order in which they connected."""
        applications = (connection.application for connection in self._connections)
        return [application.health for application in applications if application.registered]

    def known(self) -> Sequence[KnownVoter]:
        """See :class:`hbtrio.nursery.guest.voters.Voters`."""
        return [
            one.known(one.application.profile.name or _NAMELESS)
            for one in self._connections
            if one.application.registered
        ]

    def _withdrew(self, event: Event, name: str) -> None:
        self.on_withdrawn(event, name or _NAMELESS)

    def status(self) -> GuestApplications:
        """Returns what is known of the applications now."""
        now = trio.current_time()
        registered = [one for one in self._connections if one.application.registered]
        return GuestApplications(
            applications=[connection.status(now) for connection in registered],
            unregistered=len(self._connections) - len(registered),
        )

    async def _converse(self, stream: trio.SocketStream) -> None:
        if len(self._connections) >= self._max_connections and not self._make_room():
            await trio.aclose_forcefully(stream)
            return
        try:
            connection = AppConnection(*_port_of(stream), self._services)
        except OSError:  # closed by the peer meanwhile
            await trio.aclose_forcefully(stream)
            return
        self._connections[connection] = None
        try:
            await connection.run()
        except* Exception:  # noqa: BLE001 - the boundary where programming errors end
            # Untrusted bytes can find such errors: they end one connection, not the heartbeat.
            self._log.log(
                Topic.ERROR,
                logging.ERROR,
                "%s: connection closed: internal error",
                connection.label,
                traceback=True,
            )
        finally:
            self._connections.pop(connection, None)  # unless _make_room() has removed it
            self._full.clear()

    def _make_room(self) -> bool:
        """Closes the connection unregistered for longest; returns False if all are registered."""
        idle = [one for one in self._connections if not one.application.registered]
        if idle:
            oldest = min(idle, key=lambda one: one.unregistered_at)
            del self._connections[oldest]
            oldest.close("not registered, and a new connection needs the place")
            return True
        reason = f": {self._bounded_by}" if self._bounded_by else ""
        text = f"{self._max_connections} applications are registered; others are refused{reason}"
        if self._full.is_new(text):
            self._log.log(Topic.REFUSED, logging.ERROR, "%s", text)
        return False


def _port_of(stream: trio.SocketStream) -> tuple[SocketPort, PeerCredentials]:
    """Takes the socket out of trio's stream; returns it as a port, and who the peer is.

    Raises:
        OSError: the connection is broken.
    """
    peer = peer_credentials(stream)
    connection = socket.socket(fileno=stream.socket.detach())
    connection.setblocking(False)
    return SocketPort(connection), peer
