"""The agent's APIs over TLS: who may look, who may change something, and what `hbtrio ctl` says."""

from __future__ import annotations

import logging
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio

from hbtrio.api.auth import operator_of
from hbtrio.client.address import Address
from hbtrio.client.client import CtlClient
from hbtrio.errors import ExitStatus, UserError
from hbtrio.http.server import CERTIFICATE_EXTENSION
from hbtrio.net.tls import owner_of
from hbtrio.net.tls_files import server_files
from hbtrio.store.records import InstanceRecord
from hbtrio.wire.operator import FleetStatus
from support.agent_world import request_bytes, socket_agent_world
from support.certificates import AUTHORITY, HERE, of_agent, pair, trusting
from support.fleet_world import TOKEN, FleetApi, fleet_api
from support.host_world import uuid_of

ABSENT = uuid_of(77)
READS = ["/v1/status", "/v1/history", "/v1/events?follow=no", "/openapi.json", "/no/such/path"]
CHANGES = [f"/v1/instances/{ABSENT}/{kind}" for kind in ("vote", "notify")]

ADMITTED = None
NEEDS_TOKEN = (401, "the token is missing or wrong")
NO_PERMISSION = (403, "no client certificate, and operator.token_file is not set")
WRONG_NAME = (403, "Host: does not name the loopback interface")
OTHER_SITE = (403, "Origin: the request comes from another site")

RIGHT = {"authorization": f"Bearer {TOKEN}"}
WRONG = {"authorization": f"Bearer {TOKEN}x"}


@asynccontextmanager
async def operator(api: FleetApi, certificate: str = "") -> AsyncIterator[httpx.AsyncClient]:
    """A client over TLS."""
    async with httpx.AsyncClient(
        verify=trusting(certificate),
        base_url=f"https://127.0.0.1:{api.port}",
        timeout=None,
        trust_env=False,
    ) as http:
        yield http


async def refused(
    http: httpx.AsyncClient, method: str, path: str, headers: dict[str, str]
) -> tuple[int, str] | None:
    """What a request without permission is told; None for one that reaches the application."""
    body = {"event": "stop"} if method == "POST" else None
    answer = await http.request(method, path, json=body, headers=headers)
    if answer.status_code in (401, 403):
        assert ("www-authenticate" in answer.headers) == (answer.status_code == 401)
        return answer.status_code, answer.json()["reason"]
    known = method == "GET" and path != "/no/such/path"
    assert answer.status_code == (200 if known else 404)
    return None


# -- operators -------------------------------------------------------------------------------


@pytest.mark.parametrize("local", [True, False])
@pytest.mark.parametrize(
    ("token", "certificate", "headers", "verdict"),
    [
        (TOKEN, "", {}, NEEDS_TOKEN),
        (TOKEN, "", WRONG, NEEDS_TOKEN),
        (TOKEN, "", {"x-auth-token": TOKEN}, NEEDS_TOKEN),
        (TOKEN, "", RIGHT, ADMITTED),
        (TOKEN, "operator", {}, ADMITTED),
        (TOKEN, "operator", WRONG, ADMITTED),
        ("", "", {}, NO_PERMISSION),
        ("", "", {"authorization": "Bearer"}, NO_PERMISSION),
        ("", "", RIGHT, NO_PERMISSION),
        ("", "operator", {}, ADMITTED),
    ],
)
async def test_who_may(
    tmp_path: Path,
    local: bool,
    token: str,
    certificate: str,
    headers: dict[str, str],
    verdict: tuple[int, str] | None,
) -> None:
    tls = of_agent(clients=True)
    async with (
        fleet_api(tmp_path, token=token, tls=tls, local=local) as api,
        operator(api, certificate) as http,
    ):
        for path in CHANGES:
            assert await refused(http, "POST", path, headers) == verdict
        for path in READS:
            # On this machine everybody may look.
            assert await refused(http, "GET", path, headers) == (ADMITTED if local else verdict)
        async with api.client() as unix:
            for path in READS:
                assert await refused(unix, "GET", path, {}) is ADMITTED
            assert await refused(unix, "POST", CHANGES[0], {}) is ADMITTED


async def test_who_has_asked_is_on_record(tmp_path: Path) -> None:
    """As far as anybody knows: of those who have the token, or the socket's uid, nobody does."""
    async with (
        fleet_api(tmp_path, tls=of_agent(clients=True)) as api,
        operator(api, "operator") as certified,
        operator(api) as tokened,
        api.client() as unix,
    ):
        await api.agent.inventory.put_instance(InstanceRecord(ABSENT, "compute-0", True))
        for http in (certified, tokened, unix):
            for path, body in (("vote", {"event": "stop"}), ("act", {"action": "stop"})):
                path = f"/v1/instances/{ABSENT}/{path}"
                assert (await http.post(path, json=body, headers=RIGHT)).status_code == 409
        kept = [(record.entry.kind, record.entry.who) for record in await api.agent.store.history()]
        names = ("operator CN=operator", "operator", f"operator uid {os.geteuid()}")
        assert kept[::-1] == [(kind, who) for who in names for kind in ("vote", "action")]


@pytest.mark.parametrize(
    ("certificate", "owner"),
    [
        (None, None),
        ({}, None),
        ({"subject": ((("organizationName", "x"),), (("commonName", "alice"),))}, "CN=alice"),
        (
            {
                "subject": ((("organizationName", "x"),),),
                "subjectAltName": (("email", "a@b.example"), ("DNS", "b.example")),
            },
            "email=a@b.example",
        ),
        ({"subject": ((("organizationName", "x"),),)}, "organizationName=x"),
        ({"subject": (), "serialNumber": "0A"}, "serial 0A"),
    ],
)
def test_whose_certificate_it_is(certificate: dict[str, Any] | None, owner: str | None) -> None:
    assert owner_of(certificate) == owner


def test_a_name_can_t_break_a_line() -> None:
    scope = {"extensions": {CERTIFICATE_EXTENSION: "CN=a\nb\u202e" + "c" * 100}}
    assert operator_of(scope) == r"operator CN=a\nb\u202e" + "c" * 67


async def test_without_an_authority_a_certificate_permits_nothing(tmp_path: Path) -> None:
    async with (
        fleet_api(tmp_path, tls=of_agent(), local=False) as api,
        operator(api, "operator") as http,
    ):
        assert await refused(http, "GET", READS[0], {}) == NEEDS_TOKEN
        assert await refused(http, "POST", CHANGES[0], {}) == NEEDS_TOKEN
        assert await refused(http, "GET", READS[0], RIGHT) is ADMITTED


@pytest.mark.parametrize("certificate", ["", "operator"])
async def test_names(tmp_path: Path, certificate: str) -> None:
    """On the loopback a foreign name is a trick; elsewhere any name may be the agent's."""
    for local, verdict in ((True, WRONG_NAME), (False, ADMITTED)):
        async with (
            fleet_api(tmp_path, tls=of_agent(clients=True), local=local) as api,
            operator(api, certificate) as http,
        ):
            headers = {"host": "evil.example", **RIGHT}
            assert await refused(http, "GET", READS[0], headers) == verdict
            assert await refused(http, "POST", CHANGES[0], headers) == verdict


@pytest.mark.parametrize("local", [True, False])
async def test_a_page_of_another_site_can_t_use_the_browsers_certificate(
    tmp_path: Path, local: bool
) -> None:
    async with (
        fleet_api(tmp_path, tls=of_agent(clients=True), local=local) as api,
        operator(api, "operator") as http,
    ):
        own = {"origin": f"https://127.0.0.1:{api.port}"}
        assert await refused(http, "POST", CHANGES[0], own) is ADMITTED
        for origin in ("https://evil.example", "null", "", f"http://127.0.0.1:{api.port}"):
            assert await refused(http, "POST", CHANGES[0], {"origin": origin}) == OTHER_SITE
        async with operator(api) as tokened:
            # A token is not sent by itself.
            headers = {"origin": "https://evil.example", **RIGHT}
            assert await refused(tokened, "POST", CHANGES[0], headers) is ADMITTED


async def test_the_document_says_what_is_needed(tmp_path: Path) -> None:
    either = [{"token": []}, {"certificate": []}]
    for local in (True, False):
        async with fleet_api(tmp_path, tls=of_agent(), local=local) as api, operator(api) as http:
            document = (await http.get("/openapi.json", headers=RIGHT)).json()
        schemes = document["components"]["securitySchemes"]
        assert schemes == {
            "token": {"type": "http", "scheme": "bearer"},
            "certificate": {"type": "mutualTLS"},
        }
        for operations in document["paths"].values():
            for method, operation in operations.items():
                guarded = method == "post" or not local
                assert operation.get("security") == (either if guarded else None)
                assert ("401" in operation["responses"]) == guarded


# -- hbtrio ctl ------------------------------------------------------------------------------


async def ctl(
    api: FleetApi, host: str = "127.0.0.1", scheme: str = "https", **how: Any
) -> FleetStatus:
    """The fleet's status as `hbtrio ctl` asks for it."""
    address = Address.parse(f"{scheme}://{host}:{api.port}")
    with trio.fail_after(20):
        async with CtlClient(address, **how) as client:
            status = await client.any_status()
            assert isinstance(status, FleetStatus)
            return status


async def fault_of_ctl(
    api: FleetApi, host: str = "127.0.0.1", **how: Any
) -> tuple[str, ExitStatus]:
    with pytest.raises(UserError) as caught:
        await ctl(api, host, **how)
    return str(caught.value).replace(str(api.port), "PORT"), caught.value.status


async def test_ctl(tmp_path: Path) -> None:
    async with fleet_api(tmp_path, tls=of_agent(clients=True), local=False) as api:
        certificate, key = pair("operator")
        for how in ({"token": TOKEN}, {"certificate": certificate, "key": key}):
            assert (await ctl(api, authority=AUTHORITY, **how)).agent.name == "controller"
        for token in ("", f"{TOKEN}x"):
            fault = await fault_of_ctl(api, token=token, authority=AUTHORITY)
            assert fault == (f"https://127.0.0.1:PORT: {NEEDS_TOKEN[1]}", ExitStatus.DENIED)


async def test_ctl_in_clear_where_tls_is_spoken(tmp_path: Path) -> None:
    async with fleet_api(tmp_path, tls=of_agent()) as api:
        assert await fault_of_ctl(api, scheme="http") == (
            "http://127.0.0.1:PORT: the daemon went away; or it speaks https only",
            ExitStatus.UNREACHABLE,
        )


async def test_ctl_and_whom_it_does_not_trust(tmp_path: Path) -> None:
    async with fleet_api(tmp_path, tls=of_agent(), local=False) as api:
        text, status = await fault_of_ctl(api, token=TOKEN)  # whom the system trusts
        assert text.startswith("https://127.0.0.1:PORT: the certificate is refused: ")
        assert status is ExitStatus.UNREACHABLE
        other = str(HERE / "other-authority.pem")
        text, status = await fault_of_ctl(api, token=TOKEN, authority=other)
        assert text.startswith("https://127.0.0.1:PORT: the certificate is refused: ")
        assert status is ExitStatus.UNREACHABLE
        text, status = await fault_of_ctl(api, "127.0.0.3", token=TOKEN, authority=AUTHORITY)
        url = "https://127.0.0.3:PORT"
        assert text == f"{url}: connection refused; is hbtrio host or agent running?"
        assert api.crashes == []


async def test_ctl_and_an_agent_under_another_name(tmp_path: Path) -> None:
    tls = server_files("test", *pair("agent-elsewhere"))
    async with fleet_api(tmp_path, tls=tls, local=False) as api:
        text, status = await fault_of_ctl(api, token=TOKEN, authority=AUTHORITY)
        assert text.startswith(
            "https://127.0.0.1:PORT: the certificate is refused: IP address mismatch"
        )
        assert status is ExitStatus.UNREACHABLE


async def test_ctl_with_a_certificate_of_somebody_else(tmp_path: Path) -> None:
    certificate, key = pair("compute-0-by-other")
    async with fleet_api(tmp_path, tls=of_agent(clients=True), local=False) as api:
        text, status = await fault_of_ctl(
            api, certificate=certificate, key=key, authority=AUTHORITY
        )
        assert text.startswith("https://127.0.0.1:PORT: the daemon went away")
        assert text.endswith("; or it refuses the certificate, see its log")
        assert status is ExitStatus.UNREACHABLE


async def test_ctl_and_what_is_no_tls(tmp_path: Path) -> None:
    async with fleet_api(tmp_path) as api:
        text, status = await fault_of_ctl(api, token=TOKEN, authority=AUTHORITY)
        assert text == "https://127.0.0.1:PORT: the other end does not use TLS"
        assert status is ExitStatus.UNREACHABLE
    async with fleet_api(tmp_path, tls=of_agent()) as api:
        with pytest.raises(UserError, match="the daemon went away") as caught:
            async with CtlClient(Address.parse(f"http://127.0.0.1:{api.port}")) as client:
                await client.any_status()
        assert caught.value.status is ExitStatus.UNREACHABLE


# -- the VIM ---------------------------------------------------------------------------------

VM = f"/v1/instances/{ABSENT}"
VIM_TOKEN = "the-vims-own-token-0123456789"


@pytest.mark.parametrize(
    ("header", "admitted"),
    [
        (f"X-Auth-Token: {VIM_TOKEN}", True),
        (f"x-auth-token:{VIM_TOKEN} ", True),
        (f"Authorization: Bearer {VIM_TOKEN}", True),
        (f"X-Auth-Token: keystone-s0me-other-t0ken\r\nAuthorization: bearer {VIM_TOKEN}", True),
        ("X-Nothing: x", False),
        ("X-Auth-Token:", False),
        (f"X-Auth-Token: {VIM_TOKEN[:-1]}", False),
        (f"X-Auth-Token: {VIM_TOKEN}x", False),
        (f"X-Auth-Token: {VIM_TOKEN.upper()}", False),
        (f"X-Auth-Token: Bearer {VIM_TOKEN}", False),
        (f"Authorization: {VIM_TOKEN}", False),
        ("Authorization: Bearer", False),
        ("Authorization: Basic x", False),
    ],
)
async def test_the_vims_token(
    tmp_path: Path, header: str, admitted: bool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    spoke: list[None] = []
    async with socket_agent_world(tmp_path, token=VIM_TOKEN) as agent:
        assert agent.agent.delivery is not None
        agent.agent.delivery.vim_spoke = lambda: spoke.append(None)  # type: ignore[method-assign]
        for method in ("GET", "DELETE", "POST", "PATCH", "FOO"):
            for path in (VM, f"{VM}/vote", "/v1/hosts/x", "/no/such/path"):
                answer = await agent.exchange(request_bytes(method, path, headers=(header,)))
                if admitted:
                    assert answer.status in (400, 403, 404, 411)
                else:
                    body = {"status": "fail", "reason": "the token is missing or wrong"}
                    assert (answer.status, answer.json) == (401, body)
                assert VIM_TOKEN.encode() not in answer.raw
        # Nor does a stranger make the agent try its outbox.
        assert bool(spoke) == admitted
    assert VIM_TOKEN[:-1] not in caplog.text


async def test_the_user_agent_counts_as_well(tmp_path: Path) -> None:
    async with socket_agent_world(tmp_path, token=VIM_TOKEN) as agent:
        header = (f"X-Auth-Token: {VIM_TOKEN}",)
        answer = await agent.request("GET", VM, agent="curl/8", headers=header)
        assert (answer.status, answer.json["reason"]) == (403, "unknown User-Agent")
        assert (await agent.request("GET", VM, headers=header)).status == 404
