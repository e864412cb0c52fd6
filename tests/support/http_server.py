"""The HTTP server on a loopback port, for tests of real connections."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import attrs
import trio

from hbtrio.http.server import HttpLimits, RequestClasses, serve_http
from hbtrio.http.slots import ONE_CLASS
from hbtrio.net.tls_files import TlsFiles

GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"

#: Every wait of these tests is for an event; this only turns a hang into a failure.
PATIENCE_S = 20

App = Callable[[Any, Any, Any], Awaitable[None]]


@attrs.define
class HttpServer:
    """A server that runs."""

    address: tuple[str, int]
    crashes: list[BaseException] = attrs.field(factory=list)
    scope: trio.CancelScope = attrs.field(factory=trio.CancelScope)
    ended: trio.Event = attrs.field(factory=trio.Event)

    async def connect(self) -> trio.SocketStream:
        return await trio.open_tcp_stream(*self.address)

    async def stop(self) -> float:
        """Cancel it and return the seconds it took to end."""
        began = trio.current_time()
        self.scope.cancel()
        await self.ended.wait()
        return trio.current_time() - began


S = TypeVar("S", bound=HttpServer)


@asynccontextmanager
async def running(
    kind: type[S],
    app: App,
    limits: HttpLimits,
    classes: RequestClasses = ONE_CLASS,
    tls: TlsFiles | None = None,
) -> AsyncIterator[S]:
    """Serves ``app`` within the block."""
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    server = kind(listeners[0].socket.getsockname())

    async def serve(task_status: trio.TaskStatus[None]) -> None:
        with server.scope:
            await serve_http(
                app,
                listeners,
                tls=tls,
                limits=limits,
                classes=classes,
                on_crash=server.crashes.append,
                task_status=task_status,
            )
        server.ended.set()

    with trio.fail_after(PATIENCE_S):
        async with trio.open_nursery() as nursery:
            await nursery.start(serve)
            yield server
            server.scope.cancel()
