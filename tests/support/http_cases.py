"""What the tests of connection share."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import attrs
import trio
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from trio.testing import (
    memory_stream_pair,
)

from hbtrio.http.connection import HttpConnection
from hbtrio.http.limits import Drain, HttpLimits
from hbtrio.http.server import ClosingStreamingResponse
from hbtrio.http.slots import Slots
from hbtrio.net.connections import ConnectionEnds

Scope = dict[str, Any]


Receive = Callable[[], Awaitable[Any]]


Send = Callable[[Any], Awaitable[None]]


App = Callable[[Scope, Receive, Send], Awaitable[None]]


GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


def quiet() -> bool:
    """For the slot of a client of which nothing waits to be read."""
    return False


def answer(body: bytes, status: str = "200 OK", *more: str) -> bytes:
    head = [f"HTTP/1.1 {status}", f"content-length: {len(body)}", *more, "", ""]
    return "\r\n".join(head).encode() + body


def failure(status: str, reason: str) -> bytes:
    body = json.dumps({"status": "fail", "reason": reason}).encode()
    head = [
        f"HTTP/1.1 {status}",
        "content-type: application/json",
        f"content-length: {len(body)}",
        "Connection: close",
        "",
        "",
    ]
    return "\r\n".join(head).encode() + body


async def reply(send: Send, body: bytes, status: int = 200) -> None:
    length = [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": length})
    await send({"type": "http.response.body", "body": body})


class Echo:
    """Answers with the method, the target and the body; keeps the scopes."""

    def __init__(self) -> None:
        self.scopes: list[Scope] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scopes.append(scope)
        message = await receive()
        assert message["type"] == "http.request"
        assert not message["more_body"]
        text = f"{scope['method']} {scope['path']} ".encode() + message["body"]
        await reply(send, text)


@attrs.define
class Dialogue:
    """The client's side of one connection that is being served."""

    stream: Any
    places: Slots
    drain: Drain
    crashes: list[BaseException]
    closed: trio.Event
    started_at: float

    async def send(self, *pieces: bytes) -> None:
        for piece in pieces:
            await self.stream.send_all(piece)

    async def receive(self, size: int) -> bytes:
        """Read exactly so many bytes, or what there is before the end."""
        heard = b""
        while len(heard) < size and (data := await self.stream.receive_some(size - len(heard))):
            heard += data
        return heard

    async def hear_all(self) -> bytes:
        """Read until the server has said its last, and let it close."""
        heard = await self.receive(1 << 24)
        await self.stream.send_eof()
        await self.closed.wait()
        return heard

    @property
    def elapsed_s(self) -> float:
        return trio.current_time() - self.started_at


@asynccontextmanager
async def serving(
    app: App,
    limits: HttpLimits = HttpLimits(),  # noqa: B008 - frozen
    streams: Callable[[], Any] = memory_stream_pair,
) -> AsyncIterator[Dialogue]:
    client, server = streams()
    dialogue = Dialogue(client, Slots(limits), Drain(), [], trio.Event(), trio.current_time())

    async def serve() -> None:
        connection = HttpConnection(
            app,  # type: ignore[arg-type]
            server,
            limits=limits,
            on_crash=dialogue.crashes.append,
            drain=dialogue.drain,
            endpoint=ConnectionEnds(),
        )
        place = dialogue.places.take(quiet)
        await connection.run(place)
        place.leave()
        dialogue.closed.set()

    # On the fake clock a test that hangs fails here and now.
    with trio.fail_after(100_000):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve)
            yield dialogue
            nursery.cancel_scope.cancel()


async def ask(app: App, *pieces: bytes, limits: HttpLimits = HttpLimits()) -> bytes:  # noqa: B008
    """Say it, end, and return everything that comes back; nothing may have crashed."""
    async with serving(app, limits) as client:
        await client.send(*pieces)
        await client.stream.send_eof()
        heard = await client.receive(1 << 24)
        await client.closed.wait()
        assert client.crashes == []
    return heard


def stream_app(ended: trio.Event, pause_s: float, media_type: str) -> Starlette:
    async def lines() -> AsyncIterator[str]:
        try:
            for i in range(1_000_000):
                yield f'{{"n":{i}}}\n'
                await trio.sleep(pause_s)
        finally:
            ended.set()

    async def stream(request: Request) -> Response:
        return ClosingStreamingResponse(lines(), media_type=media_type)

    return Starlette(routes=[Route("/", stream)])
