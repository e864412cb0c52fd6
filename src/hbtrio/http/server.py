"""Serves HTTP on listeners and shuts down gracefully.

Cancelling :func:`serve_http` is the only way to stop it. The connections run in a shielded scope,
which the caller's cancellation doesn't reach. A task outside the shield reacts to the cancellation:
it closes the listeners, ends the idle waits and sets the shield's deadline.

If all places for a request are taken, it gets 503: in the backlog a client couldn't tell a busy
server from a dead one. The VIM's audit repeats a request after a 503. Which requests share places,
and which connections are closed to make room, is described in :mod:`hbtrio.http.slots` and
:mod:`hbtrio.http.waiting`.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from functools import partial

import msgspec
import trio
from starlette.responses import StreamingResponse
from starlette.types import ASGIApp, Send

from hbtrio.http.connection import HttpConnection
from hbtrio.http.handshakes import Handshakes
from hbtrio.http.limits import Drain, HttpLimits
from hbtrio.http.request import (
    CERTIFICATE_EXTENSION,
    DELIVERED_EXTENSION,
    DISPLACED_EXTENSION,
    PEER_EXTENSION,
)
from hbtrio.http.slots import ONE_CLASS, Place, RequestClasses, Slots
from hbtrio.net.accepting import accept_connections, has_reserved, has_unread
from hbtrio.net.connections import AcceptedStream, ConnectionEnds, Listener, ends_of
from hbtrio.net.peer_credentials import PeerCredentials
from hbtrio.net.tls import owner_of
from hbtrio.net.tls_files import TlsFiles

__all__ = [
    "CERTIFICATE_EXTENSION",
    "DELIVERED_EXTENSION",
    "DISPLACED_EXTENSION",
    "PEER_EXTENSION",
    "ClosingStreamingResponse",
    "HttpLimits",
    "PeerCredentials",
    "Place",
    "RequestClasses",
    "serve_http",
]


async def serve_http(
    app: ASGIApp,
    listeners: Sequence[Listener],
    *,
    tls: TlsFiles | None = None,
    limits: HttpLimits = HttpLimits(),  # noqa: B008 - frozen
    classes: RequestClasses = ONE_CLASS,
    on_crash: Callable[[BaseException], None],
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve an ASGI application on all listeners until cancelled.

    Args:
        app: an ASGI 3 application; its lifespan is not run.
        listeners: TCP or unix listeners; closed at the end. All listeners of one call share their
            places: use a call of its own for a socket that must stay reachable.
        tls: the context for TCP connections, renewed or not; None for plain HTTP.
        limits: see HttpLimits.
        classes: which requests share places, and how many there are.
        on_crash: called with every exception that the application raises, and with bugs of the
            server. The client gets 500 if nothing was sent yet, its connection is closed, and the
            server goes on. Exceptions of on_crash are not caught.
        task_status: started as soon as connections are accepted.

    Raises:
        OSError: accept failed permanently. In a temporary shortage of descriptors or memory
            connections are refused.

    Cancellation stops accepting and closes idle connections at once. Requests in progress have
    ``limits.drain_s`` to finish and are then cancelled. Only an application with a shield or a
    thread can take longer.
    """
    server = _HttpServer(app, tls, limits, classes, on_crash)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.drain_when_cancelled)
        await server.serve(listeners, task_status)


class ClosingStreamingResponse(StreamingResponse):
    """A StreamingResponse that always closes its generator.

    If the client disconnects or the server stops during a send, Starlette's class leaves the
    generator to the garbage collector: the generator's ``finally`` then runs later and outside of
    the request, and trio warns.
    """

    async def stream_response(self, send: Send) -> None:
        """Send the stream; close the generator before returning or raising."""
        try:
            await super().stream_response(send)
        finally:
            if isinstance(self.body_iterator, AsyncGenerator):
                await self.body_iterator.aclose()


class _HttpServer:
    def __init__(
        self,
        app: ASGIApp,
        tls: TlsFiles | None,
        limits: HttpLimits,
        classes: RequestClasses,
        on_crash: Callable[[BaseException], None],
    ) -> None:
        self._app = app
        self._limits = limits
        self._on_crash = on_crash
        self._drain = Drain()
        self._handshakes = None if tls is None else Handshakes(tls, limits, self._drain)
        self._serving = trio.CancelScope(shield=True)
        self._accepting = trio.CancelScope()
        self._slots = Slots(limits, classes)

    async def serve(
        self, listeners: Sequence[Listener], task_status: trio.TaskStatus[None]
    ) -> None:
        with self._serving:
            async with trio.open_nursery() as connections:
                with self._accepting:
                    async with trio.open_nursery() as acceptors:
                        for listener in listeners:
                            acceptors.start_soon(self._accept, listener, connections)
                        task_status.started()

    async def drain_when_cancelled(self) -> None:
        try:
            await trio.sleep_forever()
        finally:
            self._serving.deadline = trio.current_time() + self._limits.drain_s
            self._accepting.cancel()
            self._drain.begin()

    async def _accept(self, listener: Listener, connections: trio.Nursery) -> None:
        handler = partial(self._handle, listener)
        await accept_connections(
            handler, listener, connections, whose="HTTP connections", to_the_last=True
        )

    async def _handle(self, listener: Listener, stream: AcceptedStream) -> None:
        try:
            endpoint = ends_of(listener, stream)
        except OSError:
            return  # the connection was reset; the caller closes the stream
        try:
            scarce = has_reserved(stream)
            if self._handshakes is None or endpoint.credentials is not None:
                await self._serve(stream, endpoint, in_reserve=scarce)
            elif not isinstance(stream, trio.SocketStream):
                raise TypeError("TLS needs a socket")
            elif (wrapped := await self._handshakes.make(stream, in_reserve=scarce)) is not None:
                certificate = owner_of(wrapped.getpeercert())
                secured = msgspec.structs.replace(endpoint, tls=True, certificate=certificate)
                await self._serve(wrapped, secured, in_reserve=scarce)
        except* Exception as bugs:  # noqa: BLE001 - reported to on_crash
            # A bug here or in h11 must cost only one connection, because any client's bytes may
            # trigger it. except* also catches exceptions that an application raises while it is
            # cancelled, but not the cancellation.
            self._on_crash(bugs)

    async def _serve(
        self, stream: trio.abc.Stream, endpoint: ConnectionEnds, *, in_reserve: bool
    ) -> None:
        connection = HttpConnection(
            self._app,
            stream,
            limits=self._limits,
            on_crash=self._on_crash,
            drain=self._drain,
            endpoint=endpoint,
        )
        slot = self._slots.take(partial(has_unread, stream), in_reserve=in_reserve)
        try:
            await connection.run(slot)
        finally:
            slot.leave()
