"""The HTTP server: listeners on one side, HttpConnections on the other, and an ordered end.

The end. Cancelling :func:`serve_http` is the one way to stop it. Its connections live in a
shielded scope, so that the caller's cancellation does not reach them; a task outside the shield
hears it instead, closes the listeners, ends the idle waits and gives the shield its deadline.

Too many connections at work get 503 rather than being left in the backlog: there a caller could not
tell a busy server from a dead one. The VIM takes 503 as a failure that its audit repeats. Those
that only wait get none: they give way, see :mod:`hbtrio.http.slots`.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import AsyncGenerator, Callable, Sequence
from functools import partial
from typing import cast

import attrs
import trio
from starlette.responses import StreamingResponse
from starlette.types import ASGIApp, Send

from hbtrio.http.connection import HttpConnection
from hbtrio.http.handshakes import Handshakes
from hbtrio.http.limits import Drain, HttpLimits
from hbtrio.http.request import (
    CERTIFICATE_EXTENSION,
    DELIVERED_EXTENSION,
    PEER_EXTENSION,
    ConnectionEnds,
)
from hbtrio.http.slots import Slots
from hbtrio.net.tls import owner_of
from hbtrio.net.unix_socket import UnixListener, peer_credentials

__all__ = [
    "CERTIFICATE_EXTENSION",
    "DELIVERED_EXTENSION",
    "PEER_EXTENSION",
    "ClosingStreamingResponse",
    "HttpLimits",
    "serve_http",
]

#: How many surplus clients get a 503 at the same time; further ones are closed without one.
MAX_TURNED_AWAY = 16

HttpListener = trio.SocketListener | UnixListener


async def serve_http(
    app: ASGIApp,
    listeners: Sequence[HttpListener],
    *,
    tls: ssl.SSLContext | None = None,
    limits: HttpLimits = HttpLimits(),  # noqa: B008 - frozen
    on_crash: Callable[[BaseException], None],
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve an ASGI application on all listeners until cancelled.

    Args:
        app: an ASGI 3 application; its lifespan is not run.
        listeners: TCP or unix; closed at the end. Those of one call share ``max_connections``:
            give a socket that must stay reachable a call of its own.
        tls: what connections over TCP are wrapped in, if anything.
        limits: see HttpLimits.
        on_crash: called with every exception that the application lets out (its client gets 500
            if nothing was sent yet, and its connection is closed), and with faults of the driver
            itself. The server goes on. What on_crash raises is not caught.
        task_status: started as soon as connections are accepted.

    Raises:
        OSError: accept failed for another reason than a connection's fault or a passing shortage
            of descriptors or memory, which trio logs and waits out.

    Cancellation: accepting ends at once and idle connections are closed; requests in progress get
    up to ``limits.drain_s`` to finish, then they are cancelled. Only an application that shields
    itself, or waits for a thread, can make it last longer.
    """
    server = _HttpServer(app, tls, limits, on_crash)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.drain_when_cancelled)
        await server.serve(listeners, task_status)


class ClosingStreamingResponse(StreamingResponse):
    """A StreamingResponse that closes its generator however it ends.

    Starlette's own leaves a generator to the garbage collector when the reader goes, or the
    server ends, during a send: the generator's ``finally`` then runs at some later time and
    outside of the request, and trio warns.
    """

    async def stream_response(self, send: Send) -> None:
        """Stream; the generator is closed before this returns or raises."""
        try:
            await super().stream_response(send)
        finally:
            if isinstance(self.body_iterator, AsyncGenerator):
                await self.body_iterator.aclose()


class _HttpServer:
    def __init__(
        self,
        app: ASGIApp,
        tls: ssl.SSLContext | None,
        limits: HttpLimits,
        on_crash: Callable[[BaseException], None],
    ) -> None:
        self._app = app
        self._limits = limits
        self._on_crash = on_crash
        self._drain = Drain()
        self._handshakes = None if tls is None else Handshakes(tls, limits, self._drain)
        self._serving = trio.CancelScope(shield=True)
        self._accepting = trio.CancelScope()
        self._slots = Slots(limits.max_connections)
        self._turned_away = 0

    async def serve(
        self, listeners: Sequence[HttpListener], task_status: trio.TaskStatus[None]
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

    async def _accept(self, listener: HttpListener, connections: trio.Nursery) -> None:
        handler = partial(self._handle, listener)
        await trio.serve_listeners(handler, [listener], handler_nursery=connections)

    async def _handle(self, listener: HttpListener, stream: trio.SocketStream) -> None:
        try:
            endpoint = _endpoint(listener, stream)
        except OSError:
            return  # reset before we looked at it; the caller closes the stream
        try:
            if self._handshakes is None or endpoint.credentials is not None:
                await self._serve(stream, endpoint)
            elif (wrapped := await self._handshakes.make(stream)) is not None:
                certificate = owner_of(wrapped.getpeercert())
                await self._serve(
                    wrapped, attrs.evolve(endpoint, tls=True, certificate=certificate)
                )
        except* Exception as bugs:  # noqa: BLE001 - reported, as said below
            # A bug here or in h11 costs one connection, not the server: bytes of strangers are
            # what finds such bugs. except* also takes what an application raises while it is
            # being cancelled, and leaves the cancellation alone.
            self._on_crash(bugs)

    async def _serve(self, stream: trio.abc.Stream, endpoint: ConnectionEnds) -> None:
        connection = HttpConnection(
            self._app,
            stream,
            limits=self._limits,
            on_crash=self._on_crash,
            drain=self._drain,
            endpoint=endpoint,
        )
        if (slot := self._slots.take()) is not None:
            try:
                await connection.run(slot)
            finally:
                slot.leave()
        elif self._turned_away < MAX_TURNED_AWAY:
            self._turned_away += 1
            try:
                await connection.turn_away(503, "too many connections")
            finally:
                self._turned_away -= 1


def _endpoint(listener: HttpListener, stream: trio.SocketStream) -> ConnectionEnds:
    if stream.socket.family != socket.AF_UNIX:
        client, server = stream.socket.getpeername(), stream.socket.getsockname()
        return ConnectionEnds(client=client[:2], server=server[:2])
    # Of our own listeners getsockname() knows only the name from before the rename.
    path = listener.path if isinstance(listener, UnixListener) else stream.socket.getsockname()
    return ConnectionEnds(server=(cast(str, path), None), credentials=peer_credentials(stream))
