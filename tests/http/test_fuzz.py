"""Mutated requests over real sockets: whatever a stranger sends, the server goes on."""

from __future__ import annotations

import itertools
import random
import re
import socket
import struct
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route

from hbtrio.http.server import ClosingStreamingResponse, HttpLimits, serve_http
from support.agent_world import request_bytes
from support.real_agent import TOKEN, RealAgent, real_agent
from support.real_processes import descriptors, until
from support.scripted_host import HOST_UUID, HOSTNAME, INSTANCE, VM, ScriptedHost

SEED = 20_240_601
REQUESTS = 2000
CLIENTS = 8

HEALTHY = b"GET /v1/hosts/1?a=b HTTP/1.1\r\nHost: x\r\n\r\n"
SEEDS = [
    HEALTHY,
    b"GET http://[::1/v1/hosts/1 HTTP/1.1\r\nHost: [::1]:80\r\nConnection: close\r\n\r\n",
    b"GET //[::1 HTTP/1.0\r\n\r\n",
    b"GET /v1/hosts/1 HTTP/1.1\r\nHost: [::1\r\n\r\n",
    b"GET /v1/hosts/1 HTTP/1.1\r\nHost: x:99999\r\n\r\n",
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


def mutate(rng: random.Random, data: bytes, others: Sequence[bytes] = SEEDS) -> bytes:
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
                out += rng.choice(others)
            case 4:
                out[at:at] = rng.choice([b"\r\n", b"\n", b"\x00", b"%", b"[", b"]", b"//", b"\xff"])
            case _:
                out[at:at] = out[: rng.randint(1, 60)]
    return bytes(out)


async def look_at_everything(request: Request) -> Response:
    url = request.url
    seen = [url.path, url.hostname, url.port, str(request.base_url), request.cookies]
    seen.append(dict(request.query_params))
    try:
        seen.append(await request.json())
    except ValueError:
        return JSONResponse({"status": "fail", "reason": "no JSON"}, status_code=400)
    return JSONResponse([*map(str, seen)])


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


@attrs.frozen
class Attack:
    """What one client sends, in which pieces, and how it takes leave."""

    pieces: tuple[bytes, ...]
    #: By a reset, by EOF and reading to the end, or by going after the first bytes of the answer.
    leave: int

    @classmethod
    def of(cls, rng: random.Random, data: bytes) -> Attack:
        cuts = sorted(rng.randrange(len(data) + 1) for _ in range(rng.randrange(3)))
        places = [0, *cuts, len(data)]
        pieces = [data[start:end] for start, end in itertools.pairwise(places)]
        return cls(tuple(pieces), rng.randrange(3))

    async def make(self, address: tuple[str, int]) -> bytes:
        """Attacks; returns the answer if it waits for the end of it."""
        answer = b""
        async with await trio.open_tcp_stream(*address) as peer:
            try:
                for piece in self.pieces:
                    await peer.send_all(piece)
                match self.leave:
                    case 0:
                        linger = struct.pack("ii", 1, 0)
                        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                    case 1:
                        await peer.send_eof()
                        # Events that are followed have no end where more is sent behind the request
                        # than is read ahead: the EOF is not seen then.
                        with trio.move_on_after(1):
                            async for data in peer:
                                answer += data
                    case _:
                        with trio.move_on_after(0.005):
                            await peer.receive_some()
            except trio.BrokenResourceError:
                pass
        return answer


_STATUS = re.compile(rb"^HTTP/1\.1 ([0-9]{3}) [^\r]*\r$", re.MULTILINE)


async def make_all(attacks: Sequence[Attack], address: tuple[str, int]) -> Counter[int]:
    """Makes attacks side by side; the statuses of the answers that were waited for."""
    left = iter(attacks)
    statuses: Counter[int] = Counter()

    async def client() -> None:
        for attack in left:
            answer = await attack.make(address)
            found = [int(status) for status in _STATUS.findall(answer)]
            assert bool(found) == bool(answer), answer[:80]
            statuses.update(found)

    async with trio.open_nursery() as clients:
        for _ in range(CLIENTS):
            clients.start_soon(client)
    return statuses


async def test_mutated_requests() -> None:
    rng = random.Random(SEED)
    crashes: list[BaseException] = []
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    address = listeners[0].socket.getsockname()
    attacks = [Attack.of(rng, mutate(rng, rng.choice(SEEDS))) for _ in range(REQUESTS)]

    with trio.fail_after(120):
        async with trio.open_nursery() as nursery:
            serve = partial(serve_http, APP, listeners, on_crash=crashes.append)
            await nursery.start(partial(serve, limits=HttpLimits(drain_s=0.1)))
            statuses = await make_all(attacks, address)
            async with await trio.open_tcp_stream(*address) as peer:
                await peer.send_all(HEALTHY)
                assert (await peer.receive_some()).startswith(b"HTTP/1.1 400 Bad Request\r\n")
            nursery.cancel_scope.cancel()
    assert crashes == []
    assert 500 not in statuses
    assert {200, 400, 431, 501, 505} <= set(statuses)


# -- the agent's own ----------------------------------------------------------------------------

REAL_REQUESTS = 5000

HOST = f"/v1/hosts/{HOST_UUID}"
INST = f"/v1/instances/{VM}"
ABOUT_HOST = f'{{"uuid":"{HOST_UUID}","hostname":"{HOSTNAME}"}}'.encode()
ABOUT_VM = f'{{"uuid":"{VM}","hostname":"{HOSTNAME}",'.encode()
PATCH = ABOUT_VM + b'"services":[{"service":"heartbeat","state":"enabled"}]}'
ASK = ABOUT_VM + b'"action":"stop"}'

VIM_REQUESTS: list[tuple[str, str, bytes]] = [
    ("POST", HOST, ABOUT_HOST),
    ("PUT", f"{HOST}/enable", ABOUT_HOST),
    ("PUT", f"{HOST}/disable", ABOUT_HOST),
    ("GET", HOST, b""),
    ("GET", f"{HOST}/disable", ABOUT_HOST),
    ("DELETE", HOST, b""),
    ("POST", INST, ABOUT_VM + b'"services":["heartbeat"]}'),
    ("POST", INST, ABOUT_VM + b'"services":["heartbeat"]}'),
    ("PATCH", INST, PATCH),
    ("GET", INST, b""),
    ("DELETE", INST, b""),
    ("POST", f"{INST}/vote", ASK),
    ("POST", f"{INST}/notify", ASK),
    ("PATCH", INST, b"[" * 60_000),
]

OPERATOR_REQUESTS: list[tuple[str, str, bytes]] = [
    ("GET", "/v1/status", b""),
    ("GET", "/openapi.json", b""),
    ("GET", INST, b""),
    ("GET", "/v1/events?recent=5&follow=no", b""),
    ("GET", "/v1/events?recent=99", b""),
    ("GET", f"/v1/history?uuid={VM}&before=99&limit=3", b""),
    ("POST", f"{INST}/vote", b'{"event": "stop"}'),
    ("POST", f"{INST}/notify", b'{"event": "resize_end"}'),
    ("POST", f"{INST}/act", b'{"action": "reboot", "command": ["x", "{uuid}"], "force": false}'),
    ("POST", f"{INST}/notify", b'{"event":' * 6_000),
]


def mutated(
    rng: random.Random, requests: list[tuple[str, str, bytes]], headers: tuple[str, ...]
) -> bytes:
    """A request with faults: in its bytes, or in its parts, so that it gets further."""
    method, target, body = rng.choice(requests)
    agent = "vim/1.0"
    if rng.randrange(2):
        whole = [request_bytes(*one, headers=headers) for one in requests]
        return mutate(rng, request_bytes(method, target, body, headers=headers), whole)
    match rng.randrange(4):
        case 0:
            bodies = [one for _, _, one in requests if one]
            body = mutate(rng, body, bodies)
        case 1:
            # Whatever a request line can hold.
            raw = mutate(rng, target.encode(), [one.encode() for _, one, _ in requests])
            target = re.sub(r"[^!-~]", lambda found: f"%{ord(found[0]):02x}", raw.decode("latin-1"))
        case 2:
            method = rng.choice(["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "X"])
        case _:
            agent = rng.choice(["", "vim/1.1", "curl", "vim/1.0, vim/1.0"])
    return request_bytes(method, target, body, agent=agent, headers=headers)


async def idle(agent: RealAgent) -> int:
    """Its open files, once it has closed what is closed on it."""
    await agent.operate("GET", "/v1/status")
    return descriptors(agent.daemon.pid)


@pytest.mark.processes
async def test_mutated_requests_to_the_agent(tmp_path: Path) -> None:
    """10,000 of them, to both of its APIs at once, with a host behind it that takes part."""
    rng = random.Random(SEED)
    token = (f"Authorization: Bearer {TOKEN}", "Accept: text/event-stream")
    vim, operator = (
        [Attack.of(rng, mutated(rng, requests, headers)) for _ in range(REAL_REQUESTS)]
        for requests, headers in (
            (VIM_REQUESTS, ("X-Auth-Token: secret",)),
            (OPERATOR_REQUESTS, token),
        )
    )
    statuses: dict[str, Counter[int]] = {}
    async with real_agent(tmp_path) as agent:
        await agent.host(ScriptedHost(instances=(INSTANCE,)))
        for method, target, body in (VIM_REQUESTS[0], VIM_REQUESTS[6]):
            assert (await agent.ask(method, target, body)).status == 200
        before = await idle(agent)

        async def make(name: str, attacks: list[Attack], port: int) -> None:
            statuses[name] = await make_all(attacks, ("127.0.0.1", port))

        with trio.fail_after(120):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(make, "vim", vim, agent.vim_port)
                nursery.start_soon(make, "operator", operator, agent.operator_port)
        # Both go on as if nothing had been.
        for method, target, body in VIM_REQUESTS[:5] + VIM_REQUESTS[6:9]:
            assert (await agent.ask(method, target, body)).status == 200
        assert (await agent.ask("POST", f"{INST}/vote", ASK)).json["timeout"] == "12"
        status = await agent.operate("GET", "/v1/status")
        assert (status["agent"]["crashes"], status["agent"]["heartbeating"]) == (0, 1)
        await until(lambda: descriptors(agent.daemon.pid) <= before)
        assert await agent.daemon.stop() == 0
        assert "Traceback" not in agent.log
    assert {200, 204, 400, 403, 404, 411} <= set(statuses["vim"])
    assert {200, 400, 401, 403, 404, 405} <= set(statuses["operator"])
    assert 500 not in statuses["vim"] + statuses["operator"]
