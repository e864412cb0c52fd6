"""Who may use the agent's operator API, and who may change something."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from support.agent_api_cases import CHANGES, NEEDS_TOKEN, STOP, UNKNOWN
from support.api_replies import refusal
from support.fleet_world import TOKEN, fleet_api

# -- who may --------------------------------------------------------------------------------

READS = ["/v1/status", "/v1/history", "/v1/events?follow=no", "/openapi.json"]

READ_ONLY = (403, "no client certificate, and operator.token_file is not set")
WRONG_NAME = (403, "Host: does not name the loopback interface")


async def change(http: httpx.AsyncClient, path: str, **headers: str) -> tuple[int, str]:
    body = {"action": "stop"} if path.endswith("act") else STOP
    return refusal(await http.post(path, json=body, headers=headers))


@pytest.mark.parametrize("token", [TOKEN, ""])
async def test_over_a_unix_socket_the_mode_decides(tmp_path: Path, token: str) -> None:
    async with fleet_api(tmp_path, token=token) as api, api.client() as http:
        for path in READS:
            assert (await http.get(path)).status_code == 200
        for path in CHANGES:
            assert await change(http, path) == UNKNOWN
            assert await change(http, path, authorization="Bearer wrong") == UNKNOWN


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (None, NEEDS_TOKEN),
        ("", NEEDS_TOKEN),
        ("Bearer", NEEDS_TOKEN),
        (f"Bearer {TOKEN[:-1]}", NEEDS_TOKEN),
        (f"Bearer {TOKEN}x", NEEDS_TOKEN),
        (f"Bearer {TOKEN.upper()}", NEEDS_TOKEN),
        (f"Basic {TOKEN}", NEEDS_TOKEN),
        (TOKEN, NEEDS_TOKEN),
        ("Bearer \xe9", NEEDS_TOKEN),
        (f"Bearer {TOKEN}", UNKNOWN),
        (f"bearer  {TOKEN}", UNKNOWN),
    ],
)
async def test_over_tcp_changes_need_the_token(
    tmp_path: Path, given: str | None, expected: tuple[int, str]
) -> None:
    async with fleet_api(tmp_path) as api, api.client(tcp=True) as http:
        raw = {} if given is None else {"authorization": given.encode("latin-1")}
        for path in CHANGES:
            body = {"action": "stop"} if path.endswith("act") else STOP
            answer = await http.post(path, json=body, headers=raw)
            assert refusal(answer) == expected
            challenged = answer.headers.get("www-authenticate")
            assert challenged == ('Bearer realm="hbtrio"' if expected is NEEDS_TOKEN else None)
        for path in READS:
            assert (await http.get(path, headers=raw)).status_code == 200
        # Not even which paths there are.
        for method in ("POST", "PUT", "DELETE", "PATCH", "FOO"):
            answer = await http.request(method, "/no/such/path", headers=raw)
            assert refusal(answer) == (expected if expected is NEEDS_TOKEN else (404, "Not Found"))


async def test_over_tcp_without_a_configured_token_nothing_can_be_changed(tmp_path: Path) -> None:
    async with fleet_api(tmp_path, token="") as api, api.client(tcp=True) as http:
        for path in READS:
            assert (await http.get(path)).status_code == 200
        for given in ("", "Bearer", "Bearer x"):
            for path in CHANGES:
                assert await change(http, path, authorization=given) == READ_ONLY


@pytest.mark.parametrize(
    ("name", "admitted"),
    [
        ("localhost", True),
        ("LOCALHOST:1234", True),
        ("127.0.0.1", True),
        ("[::1]", True),
        ("[::1]:80", True),
        ("", False),
        ("evil.example", False),
        ("evil.example:2411", False),
        ("127.0.0.1.evil.example", False),
        ("localhost.", False),
        ("[::2]", False),
    ],
)
async def test_names_of_other_machines_are_refused_over_tcp(
    tmp_path: Path, name: str, admitted: bool
) -> None:
    async with fleet_api(tmp_path) as api, api.client(tcp=True) as http:
        answer = await http.get("/v1/status", headers={"host": name})
        if admitted:
            assert answer.status_code == 200
        else:
            assert refusal(answer) == WRONG_NAME
        headers = {"host": name, "authorization": f"Bearer {TOKEN}"}
        assert await change(http, CHANGES[0], **headers) == (UNKNOWN if admitted else WRONG_NAME)
