"""The status of a host or agent as its API gives it."""

from __future__ import annotations

from typing import Any

import httpx


async def status_of(path: str) -> dict[str, Any]:
    """The status, of whoever listens at a unix socket."""
    transport = httpx.AsyncHTTPTransport(uds=path, verify=False)
    async with httpx.AsyncClient(
        transport=transport, base_url="http://daemon", timeout=None, trust_env=False
    ) as http:
        answer = await http.get("/v1/status")
        assert answer.status_code == 200
        found: dict[str, Any] = answer.json()
        return found
