"""The agent's operator API over real sockets, with a real host behind a link, and `hbtrio ctl`."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio
from trio.testing import MockClock

import hbtrio
from hbtrio.api.fleet_status import fleet_status
from hbtrio.client.address import Address
from hbtrio.client.client import CtlClient
from hbtrio.errors import ExitStatus, UserError
from hbtrio.nursery.broadcast import FOLLOWER_QUEUE
from hbtrio.store.records import HistoryEntry, InstanceRecord
from hbtrio.wire.link_messages import ActCommand, ActionProgress, Reply
from hbtrio.wire.operator import FleetStatus
from hbtrio.wire.vocabulary import EVENT_TABLE, Event, VoteResult
from support.control_socket import call, served
from support.fake_processes import HANGS, FakeRun
from support.fleet_world import HOST_UUID, TOKEN, FleetApi, FleetWorld, fleet_api, fleet_world
from support.host_world import Reply as Answer
from support.host_world import ScriptedGuest, host_world, stay_silent, uuid_of
from support.inline_store import EPOCH, wall_clock

ONE, ABSENT = uuid_of(1), uuid_of(77)

STOP = {"event": "stop"}

#: Who asks, over the unix socket.
ME = f"operator uid {os.geteuid()}"


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


async def heartbeating(world: FleetWorld, **init: Any) -> ScriptedGuest:
    """A guest that the agent knows of."""
    guest = await world.host.heartbeating(**init)
    await world.host.settle()
    assert world.agent.fleet.live(guest.uuid) is not None
    return guest


async def history(http: httpx.AsyncClient, query: str = "") -> list[tuple[str, ...]]:
    answer = (await http.get(f"/v1/history?{query}")).json()
    return [
        tuple(entry.get(name, "") for name in ("kind", "event", "result", "who", "reason"))
        for entry in answer["history"]
    ]


# -- status ---------------------------------------------------------------------------------


async def test_status_without_hosts(tmp_path: Path) -> None:
    async with fleet_api(tmp_path) as api, api.client() as http:
        assert (await http.get("/v1/status")).json() == {
            "agent": {
                "name": "controller",
                "version": hbtrio.__version__,
                "started": api.agent.started_at.isoformat(timespec="seconds"),
                "vim": None,
                "store_fault": "",
                "delivery": None,
                "crashes": 0,
                "links": 0,
                "host_alarms": 0,
                "heartbeating": 0,
                "actions": {},
            },
            "hosts": [],
            "instances": [],
            "unregistered": [],
        }


def instance(guest: ScriptedGuest, **changes: Any) -> dict[str, Any]:
    return {
        "uuid": guest.uuid,
        "hostname": "compute-0",
        "link": "up",
        "reporting": True,
        "name": "web",
        "state": "heartbeating",
        "why": "",
        "heartbeating": True,
        "health": "healthy",
        "interval_ms": 1000,
        "windows_s": {
            "VOTE": 9,
            "SHUTDOWN_NOTICE": 10,
            "SUSPEND_NOTICE": 11,
            "RESUME_NOTICE": 14,
            "RESTART": 121,
        },
        "corrective_action": "reboot",
    } | changes


async def test_status_of_a_fleet_through_a_broken_link(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with fleet_world(tmp_path) as world, world.api.client() as http:
        guest = await heartbeating(world, name="web")
        host = {
            "hostname": "compute-0",
            "uuid": HOST_UUID,
            "link": "up",
            "down_s": None,
            "version": hbtrio.__version__,
            "reports_dropped": 0,
            "reporting": True,
            "instances": 1,
            "heartbeating": 1,
            "unregistered": 0,
            "held_since": None,
            "held_why": "",
            "conflict": "",
        }
        status = (await http.get("/v1/status")).json()
        assert status["hosts"] == [host]
        assert status["instances"] == [instance(guest)]
        assert (await http.get(f"/v1/instances/{ONE.upper()}")).json() == instance(guest)
        await world.cut()
        await world.host.sleep(10)
        status = (await http.get("/v1/status")).json()
        assert status["hosts"] == [host | {"link": "down", "down_s": 10.0, "version": ""}]
        why = "its host has no link; as last reported"
        assert status["instances"] == [instance(guest, link="down", why=why)]
        await world.host.sleep(20)
        status = (await http.get("/v1/status")).json()
        assert status["hosts"] == [
            host | {"link": "lost", "down_s": 30.0, "version": "", "heartbeating": 0}
        ]
        assert status["instances"] == [
            instance(
                guest,
                link="lost",
                state="unknown",
                why="its host has no link",
                heartbeating=False,
                health="unknown",
                interval_ms=None,
                windows_s={},
                corrective_action=None,
            )
        ]
        assert (await history(http))[0] == ("host-unreachable", "", "", "", "no link for 30 s")


async def test_a_large_fleet_holds_nobody_up(tmp_path: Path) -> None:
    """Others have their turn after each 250 instances, and nothing is lost in between."""
    async with fleet_api(tmp_path) as api:
        uuids = [f"{n:08x}-1111-4111-8111-111111111111" for n in range(1001)]
        for uuid in uuids:
            api.agent.fleet.instances[uuid] = InstanceRecord(uuid, "compute-0", True)
        turns = 0

        async def others() -> None:
            nonlocal turns
            while True:
                await trio.lowlevel.checkpoint()
                turns += 1

        async with trio.open_nursery() as nursery:
            nursery.start_soon(others)
            status = json.loads(await fleet_status(api.agent, api.agent.actions))
            nursery.cancel_scope.cancel()
        assert turns >= 3  # of five, as it has to begin and the last may be ours
        assert [one["uuid"] for one in status["instances"]] == uuids
        assert [(one["hostname"], one["instances"]) for one in status["hosts"]] == [
            ("compute-0", 1001)
        ]


# -- votes and notices ----------------------------------------------------------------------


async def test_a_vote(autojump_clock: MockClock, tmp_path: Path) -> None:
    async with fleet_world(tmp_path) as world, world.api.client() as http:
        guest = await heartbeating(world)
        guest.reply = lambda _: Answer(VoteResult.REJECT, "busy", after_s=3)
        assert lines_of(await http.post(at(guest, "vote"), json=STOP)) == [
            {"step": "vote", "event": "stop", "window": "VOTE", "seconds": 9},
            {"step": "vote", "event": "stop", "result": "reject", "reason": "busy"},
        ]
        assert trio.current_time() == 4.0
        assert (await history(http))[0] == ("vote", "stop", "reject", ME, "busy")


async def test_a_notice(autojump_clock: MockClock, tmp_path: Path) -> None:
    async with fleet_world(tmp_path) as world, world.api.client() as http:
        guest = await heartbeating(world)
        body = {"event": "resume"}
        assert lines_of(await http.post(at(guest, "notify"), json=body)) == [
            {"step": "notice", "event": "resume", "window": "RESUME_NOTICE", "seconds": 14},
            {"step": "notice", "event": "resume", "result": "complete", "reason": ""},
        ]


async def test_a_vote_whose_host_is_lost_ends_with_its_window(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with fleet_world(tmp_path) as world, world.api.client() as http:
        guest = await heartbeating(world)
        guest.reply = stay_silent
        async with stream(http, "POST", at(guest, "vote"), json=STOP) as (_, lines):
            assert json.loads(await anext(lines))["seconds"] == 9
            await world.cut()
            assert json.loads(await anext(lines)) == {
                "step": "vote",
                "event": "stop",
                "result": "accept",
                "reason": "no answer within 9 s",
            }
        assert trio.current_time() == pytest.approx(1 + 9 - 0.25)


async def test_whoever_hangs_up_ends_nothing(autojump_clock: MockClock, tmp_path: Path) -> None:
    async with fleet_world(tmp_path) as world, world.api.client() as http:
        guest = await heartbeating(world)
        guest.reply = lambda _: Answer(VoteResult.ACCEPT, "late", after_s=3)
        async with stream(http, "POST", at(guest, "vote"), json=STOP) as (_, lines):
            await anext(lines)
        await world.host.sleep(4)
        assert (await history(http))[0] == ("vote", "stop", "accept", ME, "late")


# -- actions --------------------------------------------------------------------------------


async def test_an_action_is_run_by_the_host(autojump_clock: MockClock, tmp_path: Path) -> None:
    runs = {"virsh": FakeRun(stdout=b"done\n", delay_s=2)}
    async with fleet_world(tmp_path, runs=runs) as world, world.api.client() as http:
        guest = await heartbeating(world)
        body = {"action": "stop", "command": ["virsh", "{uuid}"]}
        lines = lines_of(await http.post(at(guest, "act"), json=body))
        assert [(line["step"], line.get("result", "")) for line in lines] == [
            ("vote", ""),
            ("vote", "accept"),
            ("notice", ""),
            ("notice", "complete"),
            ("command", ""),
            ("command", "done"),
            ("end", ""),
        ]
        assert lines[4]["argv"] == ["virsh", guest.uuid]
        assert lines[-1] == {"step": "end", "outcome": "done", "reason": ""}
        assert world.api.agent.actions.in_progress == {}
        kept = [entry for entry in await history(http) if entry[0] == "action"]
        assert kept == [
            ("action", "", "", ME, "stop: done"),
            ("action", "", "", ME, "stop: asked, with virsh"),
        ]


async def test_an_action_goes_on_without_its_watcher(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    runs = {"true": FakeRun(delay_s=5)}
    async with fleet_world(tmp_path, runs=runs) as world, world.api.client() as http:
        guest = await heartbeating(world)
        body = {"action": "pause", "command": ["true"], "force": True}
        async with stream(http, "POST", at(guest, "act"), json=body) as (_, lines):
            assert json.loads(await anext(lines))["step"] == "notice"
        status = (await http.get("/v1/status")).json()
        assert status["agent"]["actions"] == {guest.uuid: "pause"}
        await world.host.sleep(6)
        kept = [entry[4] for entry in await history(http) if entry[0] == "action"]
        assert kept == ["pause: done", "pause: asked, without its vote, with true"]


async def test_an_action_whose_host_is_lost(autojump_clock: MockClock, tmp_path: Path) -> None:
    async with fleet_world(tmp_path, runs={"slow": HANGS}) as world, world.api.client() as http:
        guest = await heartbeating(world)
        body = {"action": "pause", "command": ["slow"], "force": True}
        async with stream(http, "POST", at(guest, "act"), json=body) as (_, lines):
            for _ in range(3):
                await anext(lines)
            await world.cut()
            reason = "the link to compute-0 is gone"
            assert json.loads(await anext(lines)) == {"step": "lost", "reason": reason}
            assert [line async for line in lines] == []
        assert world.api.agent.actions.in_progress == {}
        kept = [entry[4] for entry in await history(http) if entry[0] == "action"]
        asked = "pause: asked, without its vote, with slow"
        assert kept == [f"pause: the outcome is unknown: {reason}", asked]


@pytest.mark.parametrize(
    ("said", "fault"),
    [
        ("x", "not JSON"),
        ("[]", "Expected `object`, got `array`"),
        ('{"a": ' * 2000, "not JSON"),
        ('{"event": "stop"}', "Object missing required field `step`"),
        ('{"step": "vote", "seconds": "9"}', "Expected `int | float | null`, got `str`"),
    ],
)
async def test_a_host_whose_progress_is_not_understood(
    autojump_clock: MockClock,
    tmp_path: Path,
    said: str,
    fault: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with fleet_world(tmp_path) as world, world.api.client() as http:
        guest = await heartbeating(world)
        session = world.agent.fleet.sessions["compute-0"]

        async def command(message: ActCommand) -> Reply:
            session.progressed(ActionProgress(message.command_id, '{"step": "vote"}', last=False))
            session.progressed(ActionProgress(message.command_id, said, last=False))
            return Reply(message.command_id, ok=True)

        monkeypatch.setattr(type(session), "command", lambda _, message: command(message))
        body = {"action": "stop", "command": ["x"]}
        assert lines_of(await http.post(at(guest, "act"), json=body)) == [
            {"step": "vote"},
            {"step": "lost", "reason": f"invalid progress line from the host: {fault}"},
        ]


# -- events and history ---------------------------------------------------------------------


def happened(api: FleetApi, count: int, first: int = 0) -> None:
    for number in range(first, first + count):
        entry = HistoryEntry(wall_clock(), "loss", ONE, "compute-0", f"number {number}")
        api.agent.history.publish(entry)


async def test_events_as_lines_and_as_server_sent_events(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with fleet_api(tmp_path) as api, api.client() as http:
        happened(api, 3)
        expected = [
            {
                "time": EPOCH.isoformat(timespec="milliseconds"),
                "kind": "loss",
                "uuid": ONE,
                "hostname": "compute-0",
                "reason": f"number {number}",
            }
            for number in (1, 2)
        ]
        assert lines_of(await http.get("/v1/events?recent=2&follow=no")) == expected
        accept = {"accept": "application/json;q=0.5, Text/Event-Stream; q=1"}
        async with stream(http, "GET", "/v1/events?recent=2", headers=accept) as (response, lines):
            assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
            assert response.headers["cache-control"] == "no-store"
            for event in expected:
                text = await anext(lines)
                assert json.loads(text.removeprefix("data: ")) == event
                assert await anext(lines) == ""
            assert [await anext(lines), await anext(lines)] == [":", ""]
            assert trio.current_time() == 15.0
            happened(api, 1, first=3)
            assert '"number 3"' in await anext(lines)


async def test_a_follower_that_reads_too_slowly_is_told(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with fleet_api(tmp_path) as api, api.client() as http:
        async with stream(http, "GET", "/v1/events") as (_, lines):
            await trio.testing.wait_all_tasks_blocked()
            happened(api, FOLLOWER_QUEUE + 2)
            heard = [json.loads(line) async for line in lines if line]
        assert heard[-1] == {"kind": "lost", "reason": "too slow: some events were left out"}
        assert len(heard) == FOLLOWER_QUEUE + 2


async def test_events_of_a_host_reach_the_operator(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with fleet_world(tmp_path) as world, world.api.client() as http:
        guest = await heartbeating(world)
        async with stream(http, "GET", "/v1/events") as (_, lines):
            guest.answers_after_s = None
            event = json.loads(await anext(lines))
            assert (
                event["kind"],
                event["uuid"],
                event["hostname"],
                event["corrective_action"],
            ) == (
                "loss",
                guest.uuid,
                "compute-0",
                "reboot",
            )


async def test_pages_of_the_history(tmp_path: Path) -> None:
    async with fleet_api(tmp_path) as api, api.client() as http:
        for number in range(5):
            entry = HistoryEntry(
                EPOCH,
                "vote",
                uuid_of(number % 2),
                "compute-0",
                str(number),
                Event.STOP,
                asked_at=EPOCH - timedelta(seconds=1.5),
            )
            await api.agent.store.record(entry)
        first = (await http.get("/v1/history?limit=2")).json()
        assert [entry["reason"] for entry in first["history"]] == ["4", "3"]
        assert first["history"][0] == {
            "id": 5,
            "time": "2025-01-01T00:00:00.000+00:00",
            "kind": "vote",
            "uuid": uuid_of(0),
            "hostname": "compute-0",
            "event": "stop",
            "asked_at": "2024-12-31T23:59:58.500+00:00",
            "reason": "4",
        }
        document = (await http.get("/openapi.json")).json()
        described = document["components"]["schemas"]["FleetEventLine"]
        assert first["history"][0].keys() < described["properties"].keys()
        assert first["before"] == 4
        second = (await http.get("/v1/history?before=4")).json()
        assert [entry["reason"] for entry in second["history"]] == ["2", "1", "0"]
        assert second["before"] is None
        mine = (await http.get(f"/v1/history?uuid={uuid_of(1).upper()}")).json()
        assert [entry["reason"] for entry in mine["history"]] == ["3", "1"]
        assert (await http.get("/v1/history?limit=0")).json() == {"history": [], "before": None}


# -- refusals -------------------------------------------------------------------------------


WORDS = ", ".join(EVENT_TABLE)


@pytest.mark.parametrize(
    ("method", "path", "body", "expected"),
    [
        (
            "GET",
            "/v1/history?limit=1001",
            None,
            (400, "limit: not a number from 0 to 1000: '1001'"),
        ),
        ("GET", "/v1/history?limit=x", None, (400, "limit: not a number from 0 to 1000: 'x'")),
        (
            "GET",
            "/v1/history?before=-1",
            None,
            (400, "before: not a number from 0 to 999999999999999: '-1'"),
        ),
        (
            "GET",
            f"/v1/history?before={10**15}",
            None,
            (400, f"before: not a number from 0 to 999999999999999: '{10**15}'"),
        ),
        ("GET", "/v1/events?recent=", None, (400, "recent: not a number from 0 to 99999: ''")),
        ("GET", "/v1/events?follow=1", None, (400, "follow: neither yes nor no: '1'")),
        ("GET", f"/v1/instances/{ABSENT}", None, (404, f"unknown instance {ABSENT}")),
        ("GET", "/v1/instances", None, (404, "Not Found")),
        ("DELETE", f"/v1/instances/{ABSENT}", None, (405, "Method Not Allowed")),
        ("POST", "/v1/status", b"{}", (405, "Method Not Allowed")),
        ("POST", f"/v1/instances/{ABSENT}/vote", b"", (400, "the body is not JSON")),
        ("POST", f"/v1/instances/{ABSENT}/vote", b"[]", (400, "the body is not a JSON object")),
        (
            "POST",
            f"/v1/instances/{ABSENT}/vote",
            b'{"event": "x"}',
            (400, f"body.event: unknown word; expected one of {WORDS}"),
        ),
        (
            "POST",
            f"/v1/instances/{ABSENT}/vote",
            b'{"event": "resume"}',
            (400, "resume is not voted on: it has happened already"),
        ),
        (
            "POST",
            f"/v1/instances/{ABSENT}/notify",
            b'{"event": "stop"}',
            (404, f"unknown instance {ABSENT}"),
        ),
        (
            "POST",
            f"/v1/instances/{ABSENT}/act",
            b'{"action": "stop"}',
            (404, f"unknown instance {ABSENT}"),
        ),
        (
            "POST",
            f"/v1/instances/{ABSENT}/act",
            b'{"action": "stop", "command": ["a", "{x}"]}',
            (
                400,
                "body: command: item 2: unknown placeholder {x}, expected {uuid}; "
                "write {{x}} for a literal {x}",
            ),
        ),
        (
            "POST",
            f"/v1/instances/{ABSENT}/act",
            b"x" * 70_000,
            (413, "the body is larger than 65536 bytes"),
        ),
    ],
)
async def test_faulty_requests(
    tmp_path: Path, method: str, path: str, body: bytes | None, expected: tuple[int, str]
) -> None:
    async with fleet_api(tmp_path) as api, api.client() as http:
        assert refusal(await http.request(method, path, content=body)) == expected


async def test_what_a_host_refuses(autojump_clock: MockClock, tmp_path: Path) -> None:
    async with fleet_world(tmp_path, runs={"slow": HANGS}) as world, world.api.client() as http:
        guest = await heartbeating(world)
        assert refusal(await http.post(at(guest, "act"), json={"action": "stop"})) == (
            409,
            "no command for stop: give one after --, or set stop in [actions]",
        )
        guest.reply = stay_silent
        world.host.notice(guest, Event.PAUSE)
        status, reason = refusal(await http.post(at(guest, "vote"), json=STOP))
        assert (status, reason.partition(" for another")[0]) == (409, "a notice on pause is open")
        await world.host.sleep(12)
        guest.exits("so long")
        await world.host.sleep(1)
        assert refusal(await http.post(at(guest, "vote"), json=STOP)) == (
            409,
            f"{guest.uuid} is not heartbeating: guest exited: so long",
        )
        body = {"action": "stop", "command": ["slow"]}
        async with stream(http, "POST", at(guest, "act"), json=body):
            assert refusal(await http.post(at(guest, "act"), json=body)) == (
                409,
                f"stop is in progress on {guest.uuid}",
            )


async def test_a_host_without_a_link(autojump_clock: MockClock, tmp_path: Path) -> None:
    async with fleet_world(tmp_path) as world, world.api.client() as http:
        guest = await heartbeating(world)
        await world.cut()
        for kind, body in (("vote", STOP), ("notify", STOP), ("act", {"action": "stop"})):
            status, reason = refusal(await http.post(at(guest, kind), json=body))
            assert status == 409
            assert "link" in reason


async def test_a_full_disk(autojump_clock: MockClock, tmp_path: Path) -> None:
    async with fleet_world(tmp_path) as world, world.api.client() as http:
        guest = await heartbeating(world)
        world.api.worker.fault = "disk full"
        assert refusal(await http.get("/v1/history")) == (503, "store: disk full")
        assert refusal(await http.post(at(guest, "vote"), json=STOP)) == (503, "store: disk full")
        world.api.worker.fault = ""
        assert len(lines_of(await http.post(at(guest, "vote"), json=STOP))) == 2


async def test_a_programming_error_is_told_as_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with fleet_api(tmp_path) as api, api.client() as http:
        monkeypatch.setattr(api.agent.fleet, "hosts", None)
        assert refusal(await http.get("/v1/status")) == (500, "internal error")
        await trio.testing.wait_all_tasks_blocked()
        assert [type(crash) for crash in api.crashes] == [AttributeError]
        api.crashes.clear()


# -- who may --------------------------------------------------------------------------------

READS = ["/v1/status", "/v1/history", "/v1/events?follow=no", "/openapi.json"]
CHANGES = [f"/v1/instances/{ABSENT}/{kind}" for kind in ("vote", "notify", "act")]

NEEDS_TOKEN = (401, "the token is missing or wrong")
READ_ONLY = (403, "no client certificate, and operator.token_file is not set")
WRONG_NAME = (403, "Host: does not name the loopback interface")
UNKNOWN = (404, f"unknown instance {ABSENT}")


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


# -- hbtrio ctl -----------------------------------------------------------------------------


async def test_ctl_status(autojump_clock: MockClock, tmp_path: Path) -> None:
    async with fleet_world(tmp_path) as world:
        await heartbeating(world, name="web")
        called = await call(world.api.path, "status")
        assert called.status == ExitStatus.DONE
        started = "2025-01-01 00:00:01+00:00"
        assert called.lines == [
            "controller: 1 of 1 instance heartbeating, 1 of 1 host linked, VIM none, "
            f"hbtrio {hbtrio.__version__} since {started}",
            "",
            "HOST       LINK  INSTANCES  HEARTBEATING  VERSION  NOTE",
            f"compute-0  up            1             1  {hbtrio.__version__}",
            "",
            f"{'UUID':36}  NAME  HOST       STATE         HEALTH   REPORTED  NOTE",
            f"{ONE}  web   compute-0  heartbeating  healthy  yes",
        ]
        whole = json.loads((await call(world.api.path, "status", "--json")).text)
        assert [one["hostname"] for one in whole["hosts"]] == ["compute-0"]
        await world.cut()
        await world.host.sleep(31)
        lost = await call(world.api.path, "status", columns=80, terminal=True)
        assert "compute-0  lost          1             0  -        for 31 s" in lost.text
        assert all(len(line) <= 80 for line in lost.lines)


async def test_ctl_votes_notifies_and_acts(autojump_clock: MockClock, tmp_path: Path) -> None:
    async with fleet_world(tmp_path, runs={"true": FakeRun()}) as world:
        guest = await heartbeating(world, name="web")
        guest.reply = lambda _: Answer(VoteResult.REJECT, "busy")
        called = await call(world.api.path, "vote", "web", "stop")
        assert called.lines == [
            "vote on stop: VOTE window of 9 s",
            "vote on stop: rejected (busy)",
        ]
        assert called.status == ExitStatus.REJECTED
        called = await call(world.api.path, "notify", ONE[:8], "resume")
        assert called.lines[0] == "notice of resume: RESUME_NOTICE window of 14 s"
        assert called.status == ExitStatus.DONE
        called = await call(world.api.path, "act", ONE, "pause", "--force", "--", "true")
        assert called.lines[2:] == [
            "command: true, at most 600 s",
            "command: done",
            "pause: done",
        ]
        assert called.status == ExitStatus.DONE


async def test_ctl_events_and_history(autojump_clock: MockClock, tmp_path: Path) -> None:
    async with fleet_world(tmp_path) as world:
        guest = await heartbeating(world, name="web")
        await call(world.api.path, "vote", "web", "stop")
        vote = f"2025-01-01 00:00:01.000 {guest.uuid} (web) compute-0 vote stop accept by {ME}"
        for words in (["events"], ["history"], ["history", "web"], ["history", ONE, "--limit=9"]):
            called = await call(world.api.path, *words)
            assert called.status == ExitStatus.DONE
            assert len(called.lines) == 2
            assert " heartbeating" in called.lines[0]
            # The time is the host's own.
            assert (
                called.lines[1].partition(" ")[2].partition(" ")[2]
                == (vote.partition(" ")[2].partition(" ")[2])
            )
        # With all that is known, such as when it was asked for by the agent's clock.
        for words in ("events", "history"):
            called = await call(world.api.path, words, "--json")
            began, voted = map(json.loads, called.lines)
            asked_at = datetime.fromisoformat(voted["asked_at"])
            assert timedelta(0) <= wall_clock() - asked_at < timedelta(seconds=1)
            assert "asked_at" not in began
        newest = await call(world.api.path, "history", "--limit", "1")
        assert newest.lines[0] == "... older entries: --before 2"
        older = await call(world.api.path, "history", "--before", "2", "--json")
        assert [json.loads(line)["kind"] for line in older.lines] == ["heartbeating"]
        assert (await call(world.api.path, "history", ABSENT)).lines == []


async def fault_of(path: str, *words: str) -> tuple[str, ExitStatus]:
    with pytest.raises(UserError) as caught:
        await call(path, *words)
    return str(caught.value), caught.value.status


async def test_ctl_and_an_instance_of_nobody(autojump_clock: MockClock, tmp_path: Path) -> None:
    async with fleet_world(tmp_path) as world:
        assert await fault_of(world.api.path, "vote", "x", "stop") == (
            "no instance x in this fleet",
            ExitStatus.FAILED,
        )
        assert await fault_of(world.api.path, "history", "x") == (
            "no instance x in this fleet",
            ExitStatus.FAILED,
        )
        assert await fault_of(world.api.path, "vote", ABSENT, "stop") == (
            f"unknown instance {ABSENT}",
            ExitStatus.FAILED,
        )


async def test_ctl_over_tcp(tmp_path: Path) -> None:
    async with fleet_api(tmp_path) as api:
        for token, expected in [
            (TOKEN, (UNKNOWN[1], ExitStatus.FAILED)),
            (f"{TOKEN}x", (f"{api.url}: {NEEDS_TOKEN[1]}", ExitStatus.DENIED)),
            ("", (f"{api.url}: {NEEDS_TOKEN[1]}", ExitStatus.DENIED)),
        ]:
            async with CtlClient(Address.parse(api.url), token) as client:
                status = await client.any_status()
                assert isinstance(status, FleetStatus)
                assert status.agent.name == "controller"
                with pytest.raises(UserError) as caught:
                    async with client.lines("POST", CHANGES[0], STOP):
                        pass
                assert (str(caught.value), caught.value.status) == expected


async def test_ctl_and_a_host_without_a_history(autojump_clock: MockClock) -> None:
    async with host_world() as host, served(host.host) as api:
        assert await fault_of(api.path, "history") == (
            "a host keeps no history; ask its agent (--url)",
            ExitStatus.FAILED,
        )


async def test_ctl_and_an_action_whose_host_is_lost(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with fleet_world(tmp_path, runs={"slow": HANGS}) as world:
        guest = await heartbeating(world)
        world.host.after(20, lambda: world._nursery.start_soon(world.cut))
        text, status = await fault_of(
            world.api.path, "act", guest.uuid, "pause", "--force", "--", "slow"
        )
        assert "the link to compute-0 is gone; the outcome of pause" in text
        assert status == ExitStatus.UNREACHABLE
