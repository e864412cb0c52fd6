"""Mutated requests over real sockets: whatever a stranger sends, the server goes on."""

from __future__ import annotations

import random
import socket
import struct
from functools import partial
from typing import Any

import trio
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route

from hbtrio.nursery.http_edge import ClosingStreamingResponse, HttpLimits, serve_http

SEED = 20_240_601
REQUESTS = 2000
CLIENTS = 8

HEALTHY = b"GET /v1/hosts/1?a=b HTTP/1.1\r\nHost: x\r\n\r\n"
SEEDS = [
    HEALTHY,
    b"GET http://[::1/v1/hosts/1 HTTP/1.1\r\nHost: [::1]:80\r\nConnection: close\r\n\r\n",
    b"GET //[::1 HTTP/1.0\r\n\r\n",
    b"HEAD /stream HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET /stream HTTP/1.1\r\nHost: x\r\n\r\n",
    b"POST /v1/hosts/1 HTTP/1.1\r\nHost: x\r\nContent-Length: 7\r\n\r\n{'a':1}",
    b'PUT /v1/hosts/1/ HTTP/1.1\r\nHost: x\r\nContent-Length: 7\r\n\r\n{"a":1}',
    b"POST /v1/hosts/1 HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"5\r\nhello\r\n0\r\n\r\n",
    b"POST /v1/hosts/1 HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n{}",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    b"GET /v1/hosts/1 HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\n\r\n\x81\x85\x01\x02\x03\x04igoo\x6e",
    b"CONNECT h:1 HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc",
    b"OPTIONS * HTTP/1.1\r\nHost: x\r\nCookie: a=b; c\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: x\r\nA: " + b"a" * 200_000 + b"\r\n\r\n",
]


def mutate(rng: random.Random, data: bytes) -> bytes:
    out = bytearray(data)
    for _ in range(rng.randrange(6)):
        at = rng.randrange(len(out) + 1)
        match rng.randrange(6):
            case 0 if at < len(out):
                out[at] = rng.randrange(256)
            case 1:
                out[at:at] = rng.randbytes(rng.randint(1, 8))
            case 2:
                del out[at : at + rng.randint(1, 10)]
            case 3:
                out += rng.choice(SEEDS)
            case 4:
                out[at:at] = rng.choice([b"\r\n", b"\n", b"\x00", b"%", b"[", b"]", b"//", b"\xff"])
            case _:
                out[at:at] = out[: rng.randint(1, 60)]
    return bytes(out)


async def look_at_everything(request: Request) -> Response:
    try:
        body = await request.json()
    except ValueError:
        return JSONResponse({"status": "fail", "reason": "no JSON"}, status_code=400)
    url = request.url
    seen = [url.path, url.hostname, url.port, str(request.base_url), request.cookies]
    return JSONResponse([*map(str, seen), dict(request.query_params), str(body)])


async def stream(request: Request) -> Response:
    async def lines() -> Any:
        for _ in range(3):
            yield b"{}\n"

    return ClosingStreamingResponse(lines(), media_type="application/x-ndjson")


APP = Starlette(
    routes=[
        Route("/stream", stream),
        Route("/v1/hosts/{uuid}", look_at_everything, methods=["GET", "POST", "PUT"]),
        Mount("/", routes=[Route("/{rest:path}", look_at_everything)]),
    ]
)


async def attack(rng: random.Random, address: tuple[str, int]) -> None:
    data = mutate(rng, rng.choice(SEEDS))
    peer = await trio.open_tcp_stream(*address)
    async with peer:
        try:
            for _ in range(rng.randrange(3)):
                cut = rng.randrange(len(data) + 1)
                await peer.send_all(data[:cut])
                data = data[cut:]
            await peer.send_all(data)
            match rng.randrange(3):
                case 0:
                    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                case 1:
                    await peer.send_eof()
                    async for _ in peer:
                        pass
                case _:
                    with trio.move_on_after(0.005):
                        await peer.receive_some()
        except trio.BrokenResourceError:
            pass


async def test_mutated_requests() -> None:
    rng = random.Random(SEED)
    crashes: list[BaseException] = []
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    address = listeners[0].socket.getsockname()
    left = iter(range(REQUESTS))

    async def client() -> None:
        for _ in left:
            await attack(rng, address)

    with trio.fail_after(120):
        async with trio.open_nursery() as nursery:
            serve = partial(serve_http, APP, listeners, on_crash=crashes.append)
            await nursery.start(partial(serve, limits=HttpLimits(drain_s=0.1)))
            async with trio.open_nursery() as clients:
                for _ in range(CLIENTS):
                    clients.start_soon(client)
            async with await trio.open_tcp_stream(*address) as peer:
                await peer.send_all(HEALTHY)
                assert (await peer.receive_some()).startswith(b"HTTP/1.1 400 Bad Request\r\n")
            nursery.cancel_scope.cancel()
    assert crashes == []
    assert next(left, None) is None
