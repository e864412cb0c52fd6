"""The operator API over a real unix socket: every route, every refusal, streams that end oddly."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
import trio

import hbtrio
from hbtrio.client.stream import LINE_BYTES
from hbtrio.config.host import ActionCommands
from hbtrio.http.server import HttpLimits
from hbtrio.nursery.broadcast import FOLLOWER_QUEUE
from hbtrio.nursery.host.memory import NO_DIRECTORY
from hbtrio.nursery.host.reports import Report, ReportKind
from hbtrio.wire.channel_messages import ActionNotify
from hbtrio.wire.vocabulary import ACTION_TABLE, EVENT_TABLE, Event, Health, VoteResult
from support.api_replies import at, lines_of, refusal, stream
from support.control_socket import Served, served
from support.fake_processes import HANGS, FakeRun
from support.host_world import HostWorld, Reply, host_world, stay_silent, uuid_of

pytestmark = pytest.mark.usefixtures("autojump_clock")

ABSENT = uuid_of(77)


@asynccontextmanager
async def serving(
    *,
    limits: HttpLimits = HttpLimits(),  # noqa: B008 - frozen
    **world: Any,
) -> AsyncIterator[tuple[HostWorld, httpx.AsyncClient, Served]]:
    with trio.fail_after(10_000):  # streams have no end of their own
        async with (
            host_world(**world) as host,
            served(host.host, limits) as api,
            api.client() as http,
        ):
            yield host, http, api


# -- status ---------------------------------------------------------------------------------


async def test_status_of_a_host_without_instances() -> None:
    async with serving() as (_, http, _api):
        response = await http.get("/v1/status")
        assert response.headers["content-type"] == "application/json"
        assert response.json() == {
            "host": {
                "hostname": "compute-0",
                "version": hbtrio.__version__,
                "started": "2026-01-01T00:00:00+00:00",
                "channels": 0,
                "heartbeating": 0,
                "late": False,
                "late_ticks": 0,
                "pacer_worst_lateness_ms": 0.0,
                "crashes": 0,
                "corrective_commands_run": 0,
                "corrective_commands_failed": 0,
                "corrective_commands_held_back": 0,
                "alarms": 0,
                "brake_closed": False,
                "on_hold": 0,
                "overload": None,
                "events_fault": None,
                "link": {
                    "state": "none",
                    "endpoint": "",
                    "agent": "",
                    "since": None,
                    "why": "",
                    "certificate": "",
                },
                "libvirt": {"state": "off", "since": None, "why": "", "domains": 0},
                "memory": {"state": "none", "path": "", "why": NO_DIRECTORY, "lost": 0},
                "files": {"certificates": [], "warnings": [], "faults": []},
                "agent_commands": "",
                "actions": {},
            },
            "instances": [],
            "groups": [],
            "drains": [],
        }


async def test_status_of_an_instance_and_of_all_of_them_by_uuid() -> None:
    async with serving() as (world, http, _api):
        first = await world.heartbeating(name="web-1")
        second = world.guest(name="").appear()
        second.sends_init = False
        await world.at(3.5)
        response = await http.get(f"/v1/instances/{first.uuid.upper()}")
        assert response.json() == {
            "uuid": first.uuid,
            "name": "web-1",
            "state": "heartbeating",
            "why": "answers challenges",
            "hold": None,
            "connected": True,
            "heartbeating": True,
            "reporting": True,
            "health": "healthy",
            "health_reason": "",
            "beats": 3,
            "missed": 0,
            "late_answers": 0,
            "faulty_messages": 0,
            "round_trip_ms": 0.0,
            "interval_ms": 1000,
            "windows_s": {
                "VOTE": 9,
                "SHUTDOWN_NOTICE": 10,
                "SUSPEND_NOTICE": 11,
                "RESUME_NOTICE": 14,
                "RESTART": 121,
            },
            "corrective_action": "reboot",
            "open": None,
            "restart_remaining_s": None,
            "last": {
                "time": "2026-01-01T00:00:01.000+00:00",
                "kind": "heartbeating",
                "uuid": first.uuid,
                "name": "web-1",
                "reason": "init answered",
            },
            "path": first.path,
            "domain": None,
            "owner": "",
            "policy": None,
            "not_acted": "",
            "planned": None,
            "hostname": "compute-0",
            "since": "2026-01-01T00:00:01+00:00",
            "action": "",
            "groups": [],
            "next_loss": {
                "reported": True,
                "action": "reboot",
                "does": "nothing",
                "argv": [],
                "asks": [],
                "cause": "",
                "why": "no command is configured for reboot ([corrective-commands])",
                "agent": "",
            },
            "voters": None,
            "voters_unlisted": 0,
            "corrective": {"used": 0, "per_hour": 3, "next_at": None},
        }
        both = (await http.get("/v1/status")).json()
        assert both["host"]["channels"] == 2
        assert both["host"]["heartbeating"] == 1
        assert both["instances"][0].items() <= response.json().items()
        shown = {key: both["instances"][1][key] for key in ("uuid", "name", "state", "last")}
        assert shown == {"uuid": second.uuid, "name": "", "state": "waiting", "last": None}
        assert both["instances"][1]["round_trip_ms"] is None


async def test_status_tells_what_is_open_and_what_is_under_way() -> None:
    async with serving(runs={"reset": FakeRun(delay_s=5)}) as (world, http, _api):
        guest = await world.heartbeating()
        guest.reply = lambda asked: Reply(VoteResult.COMPLETE, after_s=4)
        begun = world.host.begin_action(
            guest.uuid, next(a for a in ACTION_TABLE if a == "reboot"), ("reset",), force=False
        )
        await world.at(3)
        shown = (await http.get("/v1/status")).json()
        assert shown["host"]["actions"] == {guest.uuid: "reboot"}
        assert shown["instances"][0]["open"] == {
            "kind": "vote",
            "event": "reboot",
            "window": "VOTE",
            "remaining_s": 7.0,
            "extended": "",
        }
        await world.at(6)
        shown = (await http.get("/v1/status")).json()["instances"][0]
        assert shown["open"] == {
            "kind": "notice",
            "event": "reboot",
            "window": "SHUTDOWN_NOTICE",
            "remaining_s": 9.0,
            "extended": "",
        }
        await world.at(10)
        shown = (await http.get("/v1/status")).json()["instances"][0]
        assert (shown["open"], shown["restart_remaining_s"]) == (None, 120.0)
        assert begun.state.value == "performing"


async def test_status_tells_of_ill_health() -> None:
    async with serving() as (world, http, _api):
        guest = await world.heartbeating()
        guest.health, guest.log_msg = Health.UNHEALTHY, "disk \u202e full"
        await world.at(3)
        shown = (await http.get(f"/v1/instances/{guest.uuid}")).json()
        assert (shown["health"], shown["health_reason"]) == ("unhealthy", "disk \u202e full")
        assert shown["last"]["corrective_action"] == "reboot"


async def test_nobody_knows_the_health_of_what_is_lost() -> None:
    async with serving() as (world, http, _api):
        guest = await world.heartbeating()
        guest.health, guest.log_msg = Health.UNHEALTHY, "disk full"
        await world.at(3)
        guest.answers_after_s, guest.sends_init = None, False
        await world.at(20)
        shown = (await http.get(f"/v1/instances/{guest.uuid}")).json()
        assert (shown["state"], shown["health"], shown["health_reason"]) == ("lost", "unknown", "")


async def test_an_instance_that_is_well_again_says_so() -> None:
    async with serving() as (world, http, _api):
        guest = await world.heartbeating()
        guest.health, guest.log_msg = Health.UNHEALTHY, "disk full"
        await world.at(3.5)
        guest.health, guest.log_msg = Health.HEALTHY, ""
        await world.at(5)
        shown = (await http.get(f"/v1/instances/{guest.uuid}")).json()
        assert (shown["health"], shown["why"]) == ("healthy", "healthy again after: disk full")
        assert shown["last"]["kind"] == "unhealthy"


async def test_an_instance_whose_socket_nobody_serves_says_so() -> None:
    async with serving() as (world, http, _api):
        guest = world.guest().appear()
        world.dialer.refuse(guest.path)
        await world.sleep(0.5)
        shown = (await http.get(f"/v1/instances/{guest.uuid}")).json()
        assert (shown["state"], shown["why"]) == ("waiting", "connection refused; retrying")


# -- votes and notices ----------------------------------------------------------------------


@pytest.mark.parametrize("event", [event for event, rule in EVENT_TABLE.items() if rule.voted])
async def test_vote_on_each_event(event: Event) -> None:
    async with serving() as (world, http, _api):
        guest = await world.heartbeating()
        guest.reply = lambda asked: Reply(VoteResult.REJECT, "not \u00fc \u202e now")
        response = await http.post(at(guest, "vote"), json={"event": event})
        assert lines_of(response) == [
            {"step": "vote", "event": event, "window": "VOTE", "seconds": 9},
            {"step": "vote", "event": event, "result": "reject", "reason": "not \u00fc \u202e now"},
        ]


async def test_the_brake_is_released_once() -> None:
    async with serving() as (world, http, _api):
        response = await http.post("/v1/brake/release")
        assert (response.status_code, "the brake is not closed" in response.text) == (409, True)
        world.host.corrective.brake.close()
        assert (await http.post("/v1/brake/release")).status_code == 204
        assert not world.host.corrective.brake.closed


@pytest.mark.parametrize("event", EVENT_TABLE)
async def test_notice_of_each_event(event: Event) -> None:
    async with serving() as (world, http, _api):
        guest = await world.heartbeating()
        response = await http.post(at(guest, "notify"), json={"event": event})
        kind = EVENT_TABLE[event].notice
        assert lines_of(response) == [
            {
                "step": "notice",
                "event": event,
                "window": kind,
                "seconds": {"SHUTDOWN_NOTICE": 10, "SUSPEND_NOTICE": 11, "RESUME_NOTICE": 14}[kind],
            },
            {"step": "notice", "event": event, "result": "complete", "reason": ""},
        ]


async def test_lines_come_as_things_happen() -> None:
    async with serving() as (world, http, _api):
        guest = await world.heartbeating()
        guest.reply = stay_silent
        async with stream(http, "POST", at(guest, "vote"), json={"event": "stop"}) as (_, lines):
            assert "window" in json.loads(await anext(lines))
            assert trio.current_time() == 1.0
            assert json.loads(await anext(lines))["reason"] == "no answer within 9 s"
            assert trio.current_time() == 10.0


async def test_who_hangs_up_ends_no_vote() -> None:
    async with serving() as (world, http, _api):
        guest = await world.heartbeating()
        guest.reply = lambda asked: Reply(VoteResult.REJECT, "no", after_s=5)
        async with stream(http, "POST", at(guest, "vote"), json={"event": "stop"}) as (_, lines):
            await anext(lines)
        await world.at(7)
        assert world.reports(guest, since=2) == [(6.0, "vote", "stop", "reject", "no")]


async def test_an_instance_that_goes_away_ends_the_vote() -> None:
    async with serving() as (world, http, _api):
        guest = await world.heartbeating()
        guest.reply = stay_silent
        world.after(2, guest.vanish)
        response = await http.post(at(guest, "vote"), json={"event": "stop"})
        last = lines_of(response)[1]
        assert last.pop("reason").startswith("the channel ")
        assert last == {"step": "vote", "event": "stop", "result": "error"}
        assert refusal(await http.post(at(guest, "vote"), json={"event": "stop"})) == (
            404,
            f"no instance {guest.uuid} on this host",
        )


# -- actions --------------------------------------------------------------------------------


async def test_action_from_vote_to_post_notice() -> None:
    runs = {"virsh": FakeRun(stdout=b"well\x1b[31m\n", delay_s=2)}
    async with serving(runs=runs) as (world, http, _api):
        guest = await world.heartbeating()
        body = {"action": "live-migrate", "command": ["virsh", "migrate", "{uuid}", "{{uuid}}"]}
        response = await http.post(at(guest, "act"), json=body)
        argv = ["virsh", "migrate", guest.uuid, "{uuid}"]
        begin, end = "live_migrate_begin", "live_migrate_end"
        assert lines_of(response) == [
            {"step": "vote", "event": begin, "window": "VOTE", "seconds": 9},
            {"step": "vote", "event": begin, "result": "accept", "reason": ""},
            {"step": "notice", "event": begin, "window": "SUSPEND_NOTICE", "seconds": 11},
            {"step": "notice", "event": begin, "result": "complete", "reason": ""},
            {"step": "command", "argv": argv, "seconds": 600.0},
            {"step": "command", "result": "done", "reason": "", "output": "well\x1b[31m"},
            {"step": "notice", "event": end, "window": "RESUME_NOTICE", "seconds": 14},
            {"step": "notice", "event": end, "result": "complete", "reason": ""},
            {"step": "end", "outcome": "done", "reason": ""},
        ]
        assert [list(moment.argv) for moment in world.processes.started] == [argv]
        assert world.host.actions == {}


async def test_action_rejected() -> None:
    async with serving() as (world, http, _api):
        guest = await world.heartbeating()
        guest.reply = lambda asked: Reply(VoteResult.REJECT, "busy")
        response = await http.post(at(guest, "act"), json={"action": "stop", "command": ["true"]})
        assert lines_of(response)[-1] == {"step": "end", "outcome": "rejected", "reason": "busy"}
        assert world.processes.started == []


async def test_action_by_force_with_the_configured_command() -> None:
    actions = ActionCommands(stop=("virsh", "shutdown", "{uuid}"))
    runs = {"virsh": FakeRun(exit_code=3, stderr=b"no domain")}
    async with serving(actions=actions, runs=runs) as (world, http, _api):
        guest = await world.heartbeating()
        guest.reply = lambda asked: Reply(VoteResult.REJECT, "never heard")
        response = await http.post(at(guest, "act"), json={"action": "stop", "force": True})
        assert lines_of(response) == [
            {"step": "notice", "event": "stop", "window": "SHUTDOWN_NOTICE", "seconds": 10},
            {"step": "notice", "event": "stop", "result": "error", "reason": "never heard"},
            {"step": "command", "argv": ["virsh", "shutdown", guest.uuid], "seconds": 600.0},
            {
                "step": "command",
                "result": "failed",
                "reason": "exit status 3",
                "output": "no domain",
            },
            {"step": "notice", "event": "resume", "window": "RESUME_NOTICE", "seconds": 14},
            {"step": "notice", "event": "resume", "result": "error", "reason": "never heard"},
            {"step": "end", "outcome": "failed", "reason": "the command failed: exit status 3"},
        ]


async def test_action_waits_for_another_vote_and_says_so() -> None:
    async with serving(runs={"true": FakeRun()}) as (world, http, _api):
        guest = await world.heartbeating()
        guest.reply = stay_silent
        world.vote(guest, Event.PAUSE)
        await world.at(2)
        guest.reply = lambda asked: Reply(VoteResult.COMPLETE)
        act = {"action": "live-migrate", "command": ["true"]}
        response = await http.post(at(guest, "act"), json=act)
        about = {"step": "vote", "event": "live_migrate_begin"}
        assert lines_of(response)[:3] == [
            {**about, "waiting": "a vote on pause is open for another 8.0 s", "seconds": 8.0},
            {**about, "window": "VOTE", "seconds": 9},
            {**about, "result": "complete", "reason": ""},
        ]
        assert trio.current_time() == 10.0


async def test_action_on_an_instance_that_takes_no_part() -> None:
    async with serving(runs={"true": FakeRun()}) as (world, http, _api):
        guest = world.guest()
        guest.sends_init = False
        guest.appear()
        await world.at(2)
        world.after(3, guest.vanish)
        response = await http.post(at(guest, "act"), json={"action": "stop", "command": ["true"]})
        skipped = f"{guest.uuid} is not heartbeating: discovered"
        assert lines_of(response) == [
            {"step": "vote", "event": "stop", "skipped": skipped},
            {"step": "notice", "event": "stop", "skipped": skipped},
            {"step": "command", "argv": ["true"], "seconds": 600.0},
            {"step": "command", "result": "done", "reason": "", "output": ""},
            {"step": "down", "event": "stop", "seconds": 300.0},
            {"step": "down", "event": "stop", "result": "down", "reason": ""},
            {"step": "end", "outcome": "done", "reason": ""},
        ]


async def test_a_restart_that_takes_a_moment_more() -> None:
    """An init just before the end of RESTART: whether it is a leftover shows a moment later."""
    async with serving(runs={"true": FakeRun()}) as (world, http, _api):
        guest = await world.heartbeating(restart_secs=20)
        guest.answers_after_s = None
        world.after(19.9, guest.send_init)
        world.after(20.5, lambda: setattr(guest, "answers_after_s", 0.0))
        response = await http.post(at(guest, "act"), json={"action": "reboot", "command": ["true"]})
        restart = [line for line in lines_of(response) if line["step"] == "restart"]
        assert [line.get("window", line.get("result")) for line in restart] == [
            "RESTART",
            "RESTART",
            "back",
        ]


async def test_who_hangs_up_ends_no_action() -> None:
    async with serving(runs={"slow": FakeRun(delay_s=30)}) as (world, http, _api):
        guest = await world.heartbeating()
        body = {"action": "resize", "command": ["slow"]}
        async with stream(http, "POST", at(guest, "act"), json=body) as (_, lines):
            await anext(lines)
        await world.at(32)
        assert [moment.time_s for moment in world.processes.ended] == [31.0]
        assert world.processes.cancelled == []


# -- events ---------------------------------------------------------------------------------


def publish(world: HostWorld, count: int, first: int = 0) -> None:
    for number in range(first, first + count):
        reports = world.host.reports
        reports.publish(Report(reports.now(), ReportKind.STOPPED, ABSENT, f"number {number}"))


def reasons(text: str) -> list[str]:
    return [json.loads(line)["reason"] for line in text.splitlines() if line]


async def test_recent_events() -> None:
    async with serving() as (world, http, _api):
        publish(world, 1005)
        for query, expected in [
            ("", []),
            ("&recent=0", []),
            ("&recent=2", [1003, 1004]),
            ("&recent=99999", range(5, 1005)),
        ]:
            response = await http.get(f"/v1/events?follow=no{query}")
            assert reasons(response.text) == [f"number {n}" for n in expected]
            lines_of(response)


async def test_an_event_line() -> None:
    async with serving() as (world, http, _api):
        guest = await world.heartbeating()
        guest.reply = lambda asked: Reply(VoteResult.REJECT, "no \ud83d\ude00 \x7f")
        world.vote(guest)
        await world.settle()
        response = await http.get("/v1/events?recent=1&follow=no")
        assert lines_of(response) == [
            {
                "time": "2026-01-01T00:00:01.000+00:00",
                "kind": "vote",
                "uuid": guest.uuid,
                "name": "vm",
                "event": "stop",
                "result": "reject",
                "reason": world.host.reports.recent[-1].reason,
            }
        ]


async def test_followed_events_begin_with_recent_ones() -> None:
    async with serving() as (world, http, _api):
        publish(world, 3)
        async with stream(http, "GET", "/v1/events?recent=2") as (_, lines):
            assert reasons(await anext(lines)) == ["number 1"]
            publish(world, 2, first=3)
            assert [reasons(await anext(lines)) for _ in range(3)] == [
                ["number 2"],
                ["number 3"],
                ["number 4"],
            ]


async def test_a_quiet_stream_says_every_15_s_that_it_is_alive() -> None:
    async with serving() as (world, http, _api), stream(http, "GET", "/v1/events") as (_, lines):
        assert [await anext(lines) for _ in range(2)] == ["", ""]
        assert trio.current_time() == 31.0
        publish(world, 1)
        assert reasons(await anext(lines)) == ["number 0"]
        assert await anext(lines) == ""
        assert trio.current_time() == 46.0


async def test_a_follower_that_reads_too_slowly_is_told() -> None:
    async with serving() as (world, http, _api):
        async with stream(http, "GET", "/v1/events") as (_, lines):
            await world.settle()
            publish(world, FOLLOWER_QUEUE + 2)  # one of them is in its hands
            heard = [json.loads(line) async for line in lines if line]
        assert [line["reason"] for line in heard[:-1]] == [
            f"number {n}" for n in range(FOLLOWER_QUEUE + 1)
        ]
        assert heard[-1] == {"kind": "lost", "reason": "too slow: some events were left out"}


async def test_followers_that_have_gone_are_forgotten() -> None:
    async with serving() as (world, http, _api):
        async with stream(http, "GET", "/v1/events"):
            await world.settle()
            assert len(world.host.reports._followers) == 1
        await world.settle()
        assert not world.host.reports._followers


async def test_head_of_a_stream_ends() -> None:
    async with serving() as (world, http, _api):
        response = await http.head("/v1/events")
        assert (response.status_code, response.content) == (200, b"")
        await world.settle()
        assert not world.host.reports._followers
        assert trio.current_time() == 1.0


async def read_to_the_end(http: httpx.AsyncClient, do: Callable[[], None]) -> None:
    async with stream(http, "GET", "/v1/events") as (_, lines):
        do()
        assert [line async for line in lines] == []


async def test_the_end_of_the_api_ends_streams() -> None:
    limits = HttpLimits(drain_s=1)
    async with serving(limits=limits) as (world, http, api):
        with pytest.raises(httpx.RemoteProtocolError):
            await read_to_the_end(http, api.scope.cancel)
        assert trio.current_time() == 2.0
        await world.settle()
        assert not world.host.reports._followers


# -- refusals -------------------------------------------------------------------------------

WORDS = ", ".join(EVENT_TABLE)
ACTIONS = ", ".join(ACTION_TABLE)

BODIES: list[tuple[bytes, str]] = [
    (b"", "the body is not JSON"),
    (b"{", "the body is not JSON"),
    (b"\xff", "the body is not JSON"),
    (b"[" * 50_000, "the body is not JSON"),
    (b"1" * 5000, "the body is not JSON"),
    (b"[]", "the body is not a JSON object"),
    (b'"stop"', "the body is not a JSON object"),
    (b"null", "the body is not a JSON object"),
]

ROUND_BODIES: list[tuple[bytes, str]] = [
    *BODIES,
    (b"{}", "body: event: is missing, and has no default"),
    (b'{"event": 1}', "body: event: must be a string, got 1"),
    (b'{"event": null}', "body: event: must be a string, got None"),
    (b'{"event": "stop", "x": 1}', "body: x: unknown key"),
    (b'{"evnt": "stop"}', None),  # type: ignore[list-item]
    (b'{"event": "explode"}', f"body.event: unknown word; expected one of {WORDS}"),
    (b'{"event": "unknown"}', f"body.event: unknown word; expected one of {WORDS}"),
    (b'{"event": "\\ud800"}', f"body.event: unknown word; expected one of {WORDS}"),
]

ACT_BODIES: list[tuple[bytes, str]] = [
    *BODIES,
    (b"{}", "body: action: is missing, and has no default"),
    (b'{"action": "stopp"}', f"body.action: unknown word; expected one of {ACTIONS}"),
    (b'{"action": "live_migrate"}', f"body.action: unknown word; expected one of {ACTIONS}"),
    (b'{"action": "stop", "force": 1}', "body: force: must be true or false, got 1"),
    (b'{"action": "stop", "command": "ls"}', 'body: command: must be a list of strings, got "ls"'),
    (b'{"action": "stop", "command": ["ls", 1]}', "body: command: item 2: must be a string, got 1"),
    (
        b'{"action": "stop", "command": [""]}',
        "body: command: item 1: must name a program, got nothing",
    ),
    (
        b'{"action": "stop", "command": ["ls", "{reason}"]}',
        "body: command: item 2: unknown placeholder {reason}, expected {uuid}; "
        "write {{reason}} for a literal {reason}",
    ),
    (
        b'{"action": "stop", "command": ["{uuid}"]}',
        "body: command: item 1: the program must not contain a placeholder, got {uuid}",
    ),
    (
        b'{"action": "stop", "command": ["ls", "a\\u0000"]}',
        'body: command: item 2: must not contain a NUL, got "a\\x00"',
    ),
]


@pytest.mark.parametrize("kind", ["vote", "notify"])
async def test_faulty_bodies_of_votes_and_notices(kind: str) -> None:
    async with serving() as (world, http, _api):
        guest = await world.heartbeating()
        for body, reason in ROUND_BODIES:
            status, said = refusal(await http.post(at(guest, kind), content=body))
            assert status == 400
            assert reason is None or said == reason
        assert [one for one in guest.messages if isinstance(one, ActionNotify)] == []


async def test_faulty_bodies_of_actions() -> None:
    async with serving(runs={"ls": FakeRun()}) as (world, http, _api):
        guest = await world.heartbeating()
        for body, reason in ACT_BODIES:
            assert refusal(await http.post(at(guest, "act"), content=body)) == (400, reason)
        assert [one for one in guest.messages if isinstance(one, ActionNotify)] == []
        assert world.host.actions == {}


async def test_what_has_happened_is_not_voted_on() -> None:
    async with serving() as (world, http, _api):
        guest = await world.heartbeating()
        for event, rule in EVENT_TABLE.items():
            if not rule.voted:
                response = await http.post(at(guest, "vote"), json={"event": event})
                assert refusal(response) == (
                    400,
                    f"{event} is not voted on: it has happened already",
                )


@pytest.mark.parametrize("uuid", [ABSENT, "x", "%2e%2e", "a%00b", "%ff"])
async def test_no_such_instance(uuid: str) -> None:
    async with serving() as (_, http, _api):
        answers = [
            await http.get(f"/v1/instances/{uuid}"),
            await http.post(f"/v1/instances/{uuid}/vote", json={"event": "stop"}),
            await http.post(f"/v1/instances/{uuid}/notify", json={"event": "stop"}),
            await http.post(f"/v1/instances/{uuid}/act", json={"action": "stop"}),
        ]
        shown = {"%2e%2e": "..", "a%00b": "a\0b", "%ff": "\ufffd"}.get(uuid, uuid)
        for answer in answers:
            assert refusal(answer) == (404, f"no instance {shown} on this host")


@pytest.mark.parametrize("path", ["/", "/v1", "/v1/instances", "/v2/status", "/v1/status/x"])
async def test_no_such_thing(path: str) -> None:
    async with serving() as (_, http, _api):
        assert refusal(await http.get(path)) == (404, "Not Found")


async def test_wrong_methods() -> None:
    async with serving() as (_, http, _api):
        for method, path, allowed in [
            ("POST", "/v1/status", {"GET", "HEAD"}),
            ("DELETE", f"/v1/instances/{ABSENT}", {"GET", "HEAD"}),
            ("PUT", "/v1/events", {"GET", "HEAD"}),
            ("GET", f"/v1/instances/{ABSENT}/vote", {"POST"}),
            ("GET", f"/v1/instances/{ABSENT}/notify", {"POST"}),
            ("GET", f"/v1/instances/{ABSENT}/act", {"POST"}),
        ]:
            response = await http.request(method, path)
            assert refusal(response) == (405, "Method Not Allowed")
            assert set(response.headers["allow"].split(", ")) == allowed


@pytest.mark.parametrize(
    ("query", "reason"),
    [
        ("recent=-1", "recent: not a number from 0 to 99999: '-1'"),
        ("recent=", "recent: not a number from 0 to 99999: ''"),
        ("recent=1e3", "recent: not a number from 0 to 99999: '1e3'"),
        ("recent=%D9%A3", "recent: not a number from 0 to 99999: '٣'"),
        ("recent=" + "1" * 50, f"recent: not a number from 0 to 99999: '{'1' * 40}'"),
        ("recent=%1b[31m", "recent: not a number from 0 to 99999: '\\x1b[31m'"),
        ("follow=", "follow: neither yes nor no: ''"),
        ("follow=1", "follow: neither yes nor no: '1'"),
    ],
)
async def test_faulty_queries(query: str, reason: str) -> None:
    async with serving() as (_, http, _api):
        assert refusal(await http.get(f"/v1/events?{query}")) == (400, reason)


async def test_two_rounds_on_one_instance() -> None:
    async with serving() as (world, http, _api):
        guest = await world.heartbeating()
        guest.reply = stay_silent
        world.notice(guest, Event.PAUSE)
        await world.at(3)
        for kind in ("vote", "notify"):
            response = await http.post(at(guest, kind), json={"event": "stop"})
            assert refusal(response) == (409, "a notice on pause is open for another 9.0 s")


async def test_an_instance_that_does_not_heartbeat() -> None:
    async with serving() as (world, http, _api):
        guest = await world.heartbeating()
        guest.send_exit("so long")
        await world.at(3)
        for kind in ("vote", "notify"):
            response = await http.post(at(guest, kind), json={"event": "stop"})
            assert refusal(response) == (
                409,
                f"{guest.uuid} is not heartbeating: guest exited: so long",
            )


async def test_an_action_without_a_command() -> None:
    async with serving() as (world, http, _api):
        guest = await world.heartbeating()
        for body in ({"action": "stop"}, {"action": "stop", "command": []}):
            assert refusal(await http.post(at(guest, "act"), json=body)) == (
                409,
                "no command for stop: give one after --, or set stop in [actions]",
            )


async def test_two_actions_on_one_instance() -> None:
    async with serving(runs={"slow": HANGS}) as (world, http, _api):
        guest, other = await world.all_heartbeating(2)
        body = {"action": "stop", "command": ["slow"]}
        async with stream(http, "POST", at(guest, "act"), json=body) as (_, lines):
            await anext(lines)
            assert refusal(await http.post(at(guest, "act"), json=body | {"action": "pause"})) == (
                409,
                f"stop is in progress on {guest.uuid}",
            )
            async with stream(http, "POST", at(other, "act"), json=body) as (_, others):
                assert json.loads(await anext(others))["step"] == "vote"


async def test_too_many_actions() -> None:
    async with serving(runs={"slow": HANGS}) as (world, http, _api):
        guests = await world.all_heartbeating(257)
        for guest in guests[:-1]:
            world.host.begin_action(guest.uuid, next(iter(ACTION_TABLE)), ("slow",), force=True)
        response = await http.post(
            at(guests[-1], "act"), json={"action": "stop", "command": ["slow"]}
        )
        assert refusal(response) == (409, "256 actions are in progress on this host, the maximum")


async def test_a_programming_error_is_told_as_one() -> None:
    async with serving() as (world, http, api):
        failures = world.host.mass_failures
        world.host.mass_failures = None  # type: ignore[assignment]
        answer = await http.get("/v1/status")
        assert refusal(answer) == (500, "internal error")
        await world.settle()
        assert [type(crash) for crash in api.crashes] == [AttributeError]
        api.crashes.clear()
        world.host.mass_failures = failures
        assert (await http.get("/v1/status")).status_code == 200


async def test_a_body_beyond_the_limit() -> None:
    async with serving() as (world, http, _api):
        guest = await world.heartbeating()
        body = {"action": "stop", "command": ["ls", "x" * 70_000]}
        assert refusal(await http.post(at(guest, "act"), json=body)) == (
            413,
            "the body is larger than 65536 bytes",
        )


async def test_the_longest_line_of_an_action_is_bounded() -> None:
    """`hbtrio ctl` takes longer ones than a request can bring about."""
    async with serving(runs={"ls": FakeRun()}) as (world, http, _api):
        guest = await world.heartbeating()
        body = {"action": "stop", "command": ["ls", *["{uuid}" * 600] * 15], "force": True}
        response = await http.post(at(guest, "act"), json=body)
        assert max(map(len, response.content.splitlines())) < LINE_BYTES
