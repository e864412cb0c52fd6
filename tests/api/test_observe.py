"""What a host shows at ``[observe]``: to whom, and that nothing there changes anything."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest
import trio
from prometheus_client.parser import text_string_to_metric_families

from hbtrio.api.host import observe_api
from hbtrio.api.metrics import METRICS_TYPE
from hbtrio.http.server import serve_http
from support.api_replies import refusal
from support.host_world import HostWorld, host_world, uuid_of

pytestmark = pytest.mark.usefixtures("autojump_clock")

TOKEN = "0123456789-lookers"
NEEDS_TOKEN = (401, "the token is missing or wrong")
READ_ONLY = (405, "Method Not Allowed")

READS = ["/v1/status", "/v1/events?follow=no", "/v1/clock", "/metrics"]
CHANGES = [
    *(f"/v1/instances/{uuid_of(1)}/{kind}" for kind in ("vote", "notify", "act")),
    "/v1/brake/release",
]


@asynccontextmanager
async def observed(
    world: HostWorld, *, token: str = "", local: bool = True
) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the endpoint on the loopback, which may pose as one that is open to others."""
    api = observe_api(world.host, token=(lambda: token) if token else None, local=local)
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listener.socket.getsockname()[1]
    crashes: list[BaseException] = []
    async with trio.open_nursery() as nursery:

        async def serve(*, task_status: trio.TaskStatus[None]) -> None:
            await serve_http(
                api,
                [listener],
                classes=api.classes,
                on_crash=crashes.append,
                task_status=task_status,
            )

        await nursery.start(serve)
        async with httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{port}", timeout=None, trust_env=False
        ) as http:
            yield http
        nursery.cancel_scope.cancel()
    assert crashes == []


async def test_on_the_loopback_all_may_read() -> None:
    async with host_world() as world, observed(world) as http:
        guest = await world.heartbeating()
        for path in READS:
            assert (await http.get(path)).status_code == 200, path
        answer = await http.get(f"/v1/instances/{guest.uuid}")
        assert (answer.status_code, answer.json()["state"]) == (200, "heartbeating")
        events = await http.get("/v1/events?follow=no&recent=1")
        assert json.loads(events.text)["kind"] == "heartbeating"


async def test_the_live_tasks_are_for_operators_only() -> None:
    async with host_world() as world, observed(world) as http:
        assert refusal(await http.get("/v1/tree")) == (404, "Not Found")


async def test_metrics_are_served() -> None:
    async with host_world() as world, observed(world) as http:
        await world.all_heartbeating(3)
        answer = await http.get("/metrics")
        assert answer.headers["content-type"] == METRICS_TYPE
        samples = {
            (sample.name, *sample.labels.values()): sample.value
            for family in text_string_to_metric_families(answer.text)
            for sample in family.samples
        }
        assert samples["hbtrio_host_instances", "heartbeating"] == 3


@pytest.mark.parametrize("given", ["", TOKEN])
async def test_nothing_can_be_changed(given: str) -> None:
    async with host_world() as world, observed(world, token=TOKEN) as http:
        await world.heartbeating()
        headers = {"authorization": f"Bearer {given}"} if given else {}
        for path in CHANGES:
            answer = await http.post(path, json={"event": "stop"}, headers=headers)
            assert refusal(answer) in (NEEDS_TOKEN, READ_ONLY, (404, "Not Found")), path
            assert (refusal(answer) == NEEDS_TOKEN) is (not given)
        assert world.rounds == []


async def test_a_page_whose_name_resolves_to_the_loopback_reads_nothing() -> None:
    async with host_world() as world, observed(world) as http:
        for path in READS:
            answer = await http.get(path, headers={"host": "page.example"})
            assert refusal(answer) == (403, "Host: does not name the loopback interface")


async def test_beyond_the_loopback_reading_needs_the_token() -> None:
    async with host_world() as world, observed(world, token=TOKEN, local=False) as http:
        for path in READS:
            assert refusal(await http.get(path)) == NEEDS_TOKEN
            headers = {"authorization": f"Bearer {TOKEN}"}
            assert (await http.get(path, headers=headers)).status_code == 200
