"""Replies of the operator API of a host or an agent, as a client reads them."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any

import httpx
import trio

from support.host_world import ScriptedGuest


@asynccontextmanager
async def stream(
    http: httpx.AsyncClient, method: str, path: str, **more: Any
) -> AsyncIterator[tuple[httpx.Response, AsyncGenerator[str]]]:
    """Asks, and hangs up at the end of the block."""

    async def read(chunks: AsyncIterator[bytes]) -> AsyncGenerator[str]:
        held = b""
        async for chunk in chunks:
            *whole, held = (held + chunk).split(b"\n")
            for line in whole:
                yield line.decode()

    async with http.stream(method, path, **more) as response:
        assert response.status_code == 200
        chunks = response.aiter_raw()
        async with aclosing(read(chunks)) as lines:
            yield response, lines
        # What else would end httpx's generators is the garbage collector, with a warning.
        with trio.CancelScope() as at_once:
            at_once.cancel()
            async for _ in chunks:
                pass


def lines_of(response: httpx.Response) -> list[dict[str, Any]]:
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/x-ndjson"
    return [json.loads(line) for line in response.text.splitlines()]


def refusal(response: httpx.Response) -> tuple[int, str]:
    body = response.json()
    assert response.headers["content-type"] == "application/json"
    assert set(body) == {"status", "reason"}
    assert body["status"] == "fail"
    return response.status_code, body["reason"]


def at(guest: ScriptedGuest, what: str) -> str:
    return f"/v1/instances/{guest.uuid}/{what}"
