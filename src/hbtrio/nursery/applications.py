"""The guest's side of the application API: a socket, and a task for each that connects to it."""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable, Mapping
from functools import partial
from typing import Final

import trio

from hbtrio.fsm.health import HealthStatus
from hbtrio.fsm.ontime import OnTimeGuard
from hbtrio.nursery.app_connection import AppConnection, Surroundings
from hbtrio.nursery.pacer import Pacer
from hbtrio.nursery.port import SocketPort
from hbtrio.nursery.unix_socket import UnixListener, peer_credentials
from hbtrio.nursery.voters import VoterNames
from hbtrio.nursery.windows import Handler
from hbtrio.wire.messages import ActionNotify

_log = logging.getLogger("hbtrio.guest")

#: Connections at once; a bound for what has gone wild in the VM, no limit to what is of use.
MAX_CONNECTIONS: Final = 1024

#: What an application without a name is called among the voters.
_NAMELESS: Final = "application"


class Applications:
    """All applications of this VM: voters with a health of their own.

    Args:
        new_id: makes challenges and ids in 0..2^31-1.
        guard: the process's on-time guard; who ticks it is the caller's affair.
        max_connections: what connects beyond them is closed at once.
    """

    def __init__(
        self,
        new_id: Callable[[], int],
        guard: OnTimeGuard,
        max_connections: int = MAX_CONNECTIONS,
    ) -> None:
        self._surroundings = Surroundings(Pacer(), guard, new_id)
        self._max_connections = max_connections
        self._connections: dict[AppConnection, None] = {}
        self._said_full = False

    async def serve(self, listener: UnixListener) -> None:
        """Serves until cancelled; the connections and the listener are closed then.

        Args:
            listener: where applications connect.

        Raises:
            OSError: accept failed for another reason than a connection's fault or a passing
                shortage of descriptors or memory, which trio logs and waits out.
        """
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._surroundings.pacer.run)
            await trio.serve_listeners(self._converse, [listener], handler_nursery=nursery)

    def handlers(self, notify: ActionNotify) -> Mapping[str, Handler]:
        """See :class:`hbtrio.nursery.guest.Voters`; names that several have are numbered."""
        handlers: dict[str, Handler] = {}
        names = VoterNames()
        for connection in self._connections:
            if connection.application.registered:
                name = names.take(connection.application.profile.name or _NAMELESS)
                handlers[name] = partial(connection.ask, name, notify)
        return handlers

    def health(self) -> list[HealthStatus]:
        """See :class:`hbtrio.nursery.guest.Voters`; in the order in which they connected."""
        applications = (connection.application for connection in self._connections)
        return [application.health for application in applications if application.registered]

    async def _converse(self, stream: trio.SocketStream) -> None:
        if len(self._connections) >= self._max_connections:
            if not self._said_full:  # until there is room again
                self._said_full = True
                _log.error(
                    "%d applications are connected; no more are let in", self._max_connections
                )
            return  # trio closes it
        try:
            connection = AppConnection(*_port_of(stream), self._surroundings)
        except OSError:
            return  # gone before we looked at it
        self._connections[connection] = None
        try:
            await connection.run()
        except* Exception:  # noqa: BLE001 - the boundary where programming errors end
            # Bytes of strangers are what finds such errors: one connection, not the heartbeat.
            _log.exception("%s: connection closed: an error in this program", connection.label)
        finally:
            del self._connections[connection]
            self._said_full = False


def _port_of(stream: trio.SocketStream) -> tuple[SocketPort, str]:
    """The connection as a port, taken out of trio's stream, and who is at its other end.

    Raises:
        OSError: the connection is broken.
    """
    peer = peer_credentials(stream)
    connection = socket.socket(fileno=stream.socket.detach())
    connection.setblocking(False)
    return SocketPort(connection), f"pid {peer.pid}, uid {peer.uid}, gid {peer.gid}"
