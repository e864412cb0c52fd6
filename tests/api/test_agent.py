"""The agent's operator API over real sockets, with a real host behind a link, and `hbtrio ctl`."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock

import hbtrio
from hbtrio.api.fleet_status import fleet_status
from hbtrio.config.host import ActionCommands, AgentLinkSettings
from hbtrio.nursery.broadcast import FOLLOWER_QUEUE
from hbtrio.store.records import HistoryEntry, InstanceRecord
from hbtrio.wire.link_messages import ActCommand, ActionProgress, Reply
from hbtrio.wire.vocabulary import EVENT_TABLE, Event, VoteResult
from support.agent_api_cases import ABSENT, ME, ONE, STOP, heartbeating, history
from support.api_replies import at, lines_of, refusal, stream
from support.fake_processes import HANGS, FakeRun
from support.fleet_world import HOST_UUID, FleetApi, fleet_api, fleet_world
from support.host_world import Reply as Answer
from support.host_world import ScriptedGuest, stay_silent, uuid_of
from support.inline_store import EPOCH, wall_clock

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
                "store_files_fault": "",
                "files": {"certificates": [], "warnings": [], "faults": []},
                "links_refused": 0,
                "delivery": None,
                "crashes": 0,
                "links": 0,
                "host_alarms": 0,
                "on_hold": 0,
                "heartbeating": 0,
                "actions": {},
            },
            "hosts": [],
            "instances": [],
            "unregistered": [],
            "groups": [],
            "drains": [],
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
        "hold": None,
        "planned": None,
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
        "domain": "",
        "domain_state": "",
        "open": None,
        "restart_remaining_s": None,
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
            "certificate": "",
            "conflict": "",
            "commands": "any",
            "overload": None,
        }
        status = (await http.get("/v1/status")).json()
        assert status["hosts"] == [host]
        assert status["instances"] == [instance(guest)]
        detail = (await http.get(f"/v1/instances/{ONE.upper()}")).json()
        assert instance(guest).items() <= detail.items()
        assert detail.keys() - instance(guest).keys() == {
            *("since", "action", "rounds", "next_loss", "groups"),
            *("voters", "voters_unlisted"),
        }
        await world.cut()
        await world.host.sleep(10)
        status = (await http.get("/v1/status")).json()
        gone = {"version": "", "commands": ""}
        assert status["hosts"] == [host | gone | {"link": "down", "down_s": 10.0}]
        why = "its host has no link; as last reported"
        assert status["instances"] == [instance(guest, link="down", why=why)]
        await world.host.sleep(20)
        status = (await http.get("/v1/status")).json()
        assert status["hosts"] == [
            host | gone | {"link": "lost", "down_s": 30.0, "heartbeating": 0}
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
    """Others have their turn after each slice of instances, and nothing is lost in between."""
    async with fleet_api(tmp_path) as api:
        uuids = [f"{n:08x}-1111-4111-8111-111111111111" for n in range(1001)]
        for uuid in uuids:
            api.agent.fleet.put_instance(InstanceRecord(uuid, "compute-0", True))
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
        assert turns >= 8  # of eleven, as it has to begin and the last may be ours
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
        assert trio.current_time() == pytest.approx(1 + 9 + 3 - 0.25)


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
        world.host.after(1, guest.vanish)
        lines = lines_of(await http.post(at(guest, "act"), json=body))
        assert [(line["step"], line.get("result", "")) for line in lines] == [
            ("vote", ""),
            ("vote", "accept"),
            ("notice", ""),
            ("notice", "complete"),
            ("command", ""),
            ("command", "done"),
            ("down", ""),
            ("down", "down"),
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


async def test_a_host_runs_only_its_own_commands(
    autojump_clock: MockClock, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A refusal is a line for the operator, in the history and in the host's log; each says who."""
    own = {"agent": AgentLinkSettings(), "actions": ActionCommands(stop=("virsh", "{uuid}"))}
    runs = {name: FakeRun() for name in ("virsh", "rm")}
    async with fleet_world(tmp_path, runs=runs, **own) as world, world.api.client() as http:
        guest = await heartbeating(world)
        why = (
            "this host runs only its own command for stop: give none; its host.toml has "
            'commands = "configured" in [agent]'
        )
        stolen = {"action": "stop", "command": ["rm", "-rf", "/"], "force": True}
        assert refusal(await http.post(at(guest, "act"), json=stolen)) == (409, why)
        kept = [entry for entry in await history(http) if entry[0] == "action"]
        assert kept == [
            ("action", "", "", ME, f"stop: refused: {why}"),
            ("action", "", "", ME, "stop: asked, without its vote, with rm"),
        ]
        line = f"{guest.uuid}: action stop for {ME} of the agent refused: {why}"
        assert caplog.messages.count(line) == 1
        for given in ([], ["virsh", "{uuid}"]):
            body = {"action": "stop", "command": given}
            lines = lines_of(await http.post(at(guest, "act"), json=body))
            # It answers on: for the API it is enough that the command was run.
            assert "it never went down" in lines[-1]["reason"]
        started = [one.argv for one in world.host.processes.started]
        assert started == [("virsh", guest.uuid)] * 2
        [host] = (await http.get("/v1/status")).json()["hosts"]
        assert host["commands"] == "configured"


async def test_an_action_goes_on_without_its_watcher(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    runs = {"true": FakeRun(delay_s=5)}
    async with fleet_world(tmp_path, runs=runs) as world, world.api.client() as http:
        guest = await heartbeating(world)
        body = {"action": "live-migrate", "command": ["true"], "force": True}
        async with stream(http, "POST", at(guest, "act"), json=body) as (_, lines):
            assert json.loads(await anext(lines))["step"] == "notice"
        status = (await http.get("/v1/status")).json()
        assert status["agent"]["actions"] == {guest.uuid: "live-migrate"}
        await world.host.sleep(6)
        kept = [entry[4] for entry in await history(http) if entry[0] == "action"]
        assert kept == ["live-migrate: done", "live-migrate: asked, without its vote, with true"]


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

        monkeypatch.setattr(type(session), "command", lambda _, message, __: command(message))
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
                command_id=f"c{number}",
                note="h replied later: no",
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
            "note": "h replied later: no",
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
        guest.send_exit("so long")
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
