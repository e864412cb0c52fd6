"""An operator sees that a host's alarms are held back, and lets them go: API and `hbtrio ctl`."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

import attrs
import httpx
import pytest
import trio

from hbtrio.errors import ExitStatus, UserError
from hbtrio.wire.vim_result import NotSent
from support.agent_world import AgentWorld, agent_world, operators_api
from support.control_socket import call
from support.inline_store import EPOCH
from support.scripted_host import INSTANCE, ScriptedHost

pytestmark = pytest.mark.usefixtures("autojump_clock")

VMS = [f"{n:08x}-1111-4111-8111-111111111111" for n in range(3)]

WHY = "3 of 3 instances failed at once"


@asynccontextmanager
async def in_alarm(folder: Path) -> AsyncIterator[tuple[AgentWorld, ScriptedHost, str]]:
    """A host all of whose instances are lost, and the path of its agent's operator API."""
    async with agent_world(folder) as world:
        host = ScriptedHost(instances=tuple(attrs.evolve(INSTANCE, uuid=uuid) for uuid in VMS))
        await world.bound_host(host=host)
        for uuid in VMS:
            await host.report_lost(uuid)
        await world.at(2)
        async with operators_api(world) as path:
            yield world, host, path


def client(path: str) -> httpx.AsyncClient:
    transport = httpx.AsyncHTTPTransport(uds=path, verify=False)
    return httpx.AsyncClient(
        transport=transport, base_url="http://agent", timeout=None, trust_env=False
    )


def alarms(world: AgentWorld) -> list[str]:
    return sorted(body["uuid"] for _, body in world.vim.got if body["event-type"] == "alarm")


async def test_status_says_so(tmp_path: Path) -> None:
    async with in_alarm(tmp_path) as (_, host, path):
        async with client(path) as http:
            status = (await http.get("/v1/status")).json()
        [line] = status["hosts"]
        since = (EPOCH + timedelta(seconds=1)).isoformat(timespec="seconds")
        assert (line["held_since"], line["held_why"]) == (since, WHY)
        assert status["agent"]["host_alarms"] == 1
        shown = (await call(path, "status")).lines
        assert shown[1] == (
            f"ALARM: compute-0: alarms held back since {since.replace('T', ' ')}: {WHY}"
        )
        await host.report_heartbeating(VMS[0])
        await trio.sleep(11)
        async with client(path) as http:
            [line] = (await http.get("/v1/status")).json()["hosts"]
        assert (line["held_since"], line["held_why"]) == (None, "")
        assert "ALARM" not in (await call(path, "status")).text


@pytest.mark.parametrize(
    ("what", "said", "heard"),
    [
        ("send", "compute-0: 3 alarms sent, 0 withdrawn", VMS),
        ("withdraw", "compute-0: 0 alarms sent, 3 withdrawn", []),
    ],
)
async def test_ctl_lets_them_go(
    tmp_path: Path,
    what: str,
    said: str,
    heard: list[str],
) -> None:
    async with in_alarm(tmp_path) as (world, _, path):
        called = await call(path, "alarms", what, "compute-0")
        assert (called.lines, called.status) == ([said], ExitStatus.DONE)
        await world.at(10)
        assert alarms(world) == heard
        newest = (await call(path, "history", "--limit", "1")).lines[-1]
        done = "withdrew" if what == "withdraw" else "released"
        who = f"operator uid {os.geteuid()}"
        assert newest.endswith(f"compute-0 host-alarm-over by {who}: an operator {done} them")
        with pytest.raises(UserError) as caught:
            await call(path, "alarms", "send", "compute-0")
        assert str(caught.value) == "no alarms of compute-0 are held back"
        assert caught.value.status is ExitStatus.FAILED


@pytest.mark.parametrize("name", ["compute-9", "../status", "a/b", "x" * 300, "%00", "münchen"])
async def test_ctl_and_a_host_without_an_alarm(tmp_path: Path, name: str) -> None:
    async with in_alarm(tmp_path) as (world, _, path):
        with pytest.raises(UserError) as caught:
            await call(path, "alarms", "send", name)
        assert "\n" not in str(caught.value)
        await world.at(60)
        assert alarms(world) == []


async def test_an_agent_has_no_brake(tmp_path: Path) -> None:
    async with in_alarm(tmp_path) as (_, _, path):
        with pytest.raises(UserError) as caught:
            await call(path, "brake", "release")
        assert str(caught.value) == (
            "an agent has no brake; its hosts do (--url), and `hbtrio ctl alarms` is for its alarms"
        )
        assert caught.value.status is ExitStatus.FAILED


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ({"alarms": "burn"}, "body.alarms: unknown word; expected one of send, withdraw"),
        ({"alarms": 1}, "body: alarms: must be a string, got 1"),
        ({}, "body: alarms: is missing, and has no default"),
        ([], "the body is not a JSON object"),
    ],
)
async def test_faulty_requests_release_nothing(tmp_path: Path, body: object, reason: str) -> None:
    async with in_alarm(tmp_path) as (world, _, path):
        async with client(path) as http:
            answer = await http.post("/v1/hosts/compute-0/alarms", json=body)
        assert (answer.status_code, answer.json()) == (400, {"status": "fail", "reason": reason})
        await world.at(60)
        assert alarms(world) == []


async def test_a_disk_that_fails_releases_nothing(tmp_path: Path) -> None:
    async with in_alarm(tmp_path) as (world, _, path):
        world.worker.fault = "database or disk is full"
        with pytest.raises(UserError) as caught:
            await call(path, "alarms", "send", "compute-0")
        assert str(caught.value) == "store: database or disk is full"
        world.worker.fault = ""
        assert (await call(path, "alarms", "send", "compute-0")).lines == [
            "compute-0: 3 alarms sent, 0 withdrawn"
        ]


async def test_status_says_that_the_vim_is_away(tmp_path: Path) -> None:
    async with in_alarm(tmp_path) as (world, _, path):
        assert "VIM can't" not in (await call(path, "status")).text
        world.vim.next = [NotSent("connection refused")] * 20
        await world.agent.mass_failure_guard.release("compute-0", "operator", send=True)
        await world.at(3)
        shown = (await call(path, "status")).lines
        assert shown[1] == "the VIM can't be reached: connection refused; 3 messages waiting"


async def test_status_says_that_the_store_fails(tmp_path: Path) -> None:
    async with in_alarm(tmp_path) as (world, _, path):
        world.worker.fault = "database or disk is full"
        with pytest.raises(UserError):
            await call(path, "alarms", "send", "compute-0")
        shown = (await call(path, "status")).lines
        assert shown[1] == "the store can't be written: database or disk is full"
