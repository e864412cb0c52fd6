"""`hbtrio ctl act --before` and `--cancel-planned` at a host, and the route they use."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from trio.testing import MockClock

from hbtrio.errors import ExitStatus
from hbtrio.wire.vocabulary import ActionName
from support.control_socket import Served, call, served
from support.ctl_cases import fault_of
from support.drain_cases import drained_host, heard, plan, rejects
from support.host_world import HostWorld, ScriptedGuest
from support.memory_store import MemoryStore, memory_store

pytestmark = pytest.mark.usefixtures("autojump_clock")

#: The wall clock of the tests begins with the year 2025.
BEGIN, END = "2025-01-01T00:10:00Z", "2025-01-01T00:20:00Z"
PLANNED = ("--not-before", BEGIN, "--before", END)

World = tuple[HostWorld, list[ScriptedGuest], Served]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[MemoryStore]:
    with memory_store(tmp_path) as made:
        yield made


@pytest.fixture
async def world(store: MemoryStore, autojump_clock: MockClock) -> AsyncIterator[World]:
    async with drained_host(store, 2) as (world, guests), served(world.host) as api:
        yield world, guests, api


async def test_planned_shown_listed_and_done(world: World) -> None:
    host, guests, api = world
    guests[0].reply = rejects()
    called = await call(api.path, "act", "vm-1", "live-migrate", *PLANNED, "--json")
    plan = json.loads(called.text)
    assert called.status == ExitStatus.DONE
    assert (plan["not_before"], plan["before"]) == (
        "2025-01-01T00:10:00+00:00",
        "2025-01-01T00:20:00+00:00",
    )
    assert [one["state"] for one in plan["instances"]] == ["waiting"]
    status = await call(api.path, "status")
    (line,) = (line for line in status.lines if "planned" in line)
    assert line.startswith("vm-1: live-migrate planned by operator uid ")
    shown = await call(api.path, "show", "vm-1")
    assert "Planned" in shown.text
    assert "Planned" not in (await call(api.path, "show", "vm-2")).text
    why = await call(api.path, "why", "vm-1", columns=200)
    assert "live-migrate is planned." in why.text
    listed = json.loads((await call(api.path, "drain", "--list", "--json")).text)
    assert [one["id"] for one in listed["drains"]] == [plan["id"]]
    # It is no drain that could be watched or cancelled as one.
    assert await fault_of(api.path, "drain", "--cancel") == (
        "no drain is in progress",
        ExitStatus.FAILED,
    )
    await host.sleep(700)
    assert "rejected: a backup runs" in (await call(api.path, "status")).text
    await host.sleep(600)
    assert heard(guests[0])[-1] == "notice live_migrate_end"
    assert "planned" not in (await call(api.path, "status")).text


async def test_beside_an_action_of_a_drain_a_plan_is_blocked_and_given_up_in_time(
    world: World,
) -> None:
    """It waited for the end of that action, and was then carried out minutes after its time."""
    host, guests, api = world
    guests[1].reply = rejects()
    host.host.drains.start(plan(action=ActionName.STOP), "uid 0")
    await host.sleep(10)
    planned = "--before", "2025-01-01T00:01:00Z"
    assert (await call(api.path, "act", "vm-1", "live-migrate", *planned)).status == 0
    await host.sleep(10)
    (line,) = [
        one for one in (await call(api.path, "status", columns=200)).lines if "planned" in one
    ]
    assert "blocked: stop is in progress" in line
    await host.sleep(50)
    assert "planned" not in (await call(api.path, "status")).text
    await host.sleep(400)
    assert "vote live_migrate_begin" not in heard(guests[0])


async def test_metrics_count_plans_that_wait_and_how_they_end(world: World) -> None:
    host, _, api = world

    async def counted() -> list[str]:
        async with api.client() as client:
            lines = (await client.get("/metrics")).text.splitlines()
        found = [line.removeprefix("hbtrio_host_planned_actions") for line in lines]
        return [line for line, whole in zip(found, lines, strict=True) if line != whole]

    ended = '_ended_total{{outcome="{}"}} {}'.format
    assert await counted() == [
        " 0.0",
        *(ended(state, 0.0) for state in ("done", "skipped", "failed", "cancelled")),
    ]
    await call(api.path, "act", "vm-1", "live-migrate", *PLANNED)
    await call(api.path, "act", "vm-2", "live-migrate", *PLANNED)
    assert (await counted())[0] == " 2.0"
    await call(api.path, "act", "vm-2", "--cancel-planned")
    await host.sleep(1300)
    assert await counted() == [
        " 0.0",
        ended("done", 1.0),
        ended("skipped", 0.0),
        ended("failed", 0.0),
        ended("cancelled", 1.0),
    ]


async def test_planned_for_people_and_cancelled(world: World) -> None:
    host, guests, api = world
    called = await call(api.path, "act", "vm-1", "stop", *PLANNED, "--", "halt", "{uuid}")
    assert called.lines[0].startswith("vm-1: stop is planned: asked from 2025-01-01 ")
    cancelled = await call(api.path, "act", "vm-1", "--cancel-planned")
    assert cancelled.lines == ["vm-1: the planned stop is cancelled"]
    await host.sleep(1300)
    assert (heard(guests[0]), host.processes.started) == ([], [])
    assert await fault_of(api.path, "act", "vm-1", "--cancel-planned") == (
        "no action is planned for vm-1",
        ExitStatus.FAILED,
    )
    again = await call(api.path, "act", "vm-1", "stop", "--before", "2025-01-01T02:00Z")
    assert again.status == ExitStatus.DONE


@pytest.mark.parametrize(
    ("words", "fault"),
    [
        (("stop", "--not-before", BEGIN), "--not-before: needs --before"),
        (PLANNED, "ACTION: which action is to be planned?"),
        (("stop", "--not-before", END, "--before", BEGIN), "--before: not after --not-before"),
        (("stop", *PLANNED, "--force"), "--force: not with --before"),
        (("stop", *PLANNED, "--take-over"), "--take-over: not with --before"),
        (("stop", *PLANNED, "--ignore-group"), "--ignore-group: not with --before"),
        (("stop", *PLANNED, "--retry-for", "5m"), "--retry-for: not with --before"),
        (("stop", *PLANNED, "--then", "force"), "--then: not with --before"),
        (("stop", "--cancel-planned"), "--cancel-planned: takes the instance alone"),
        (("--cancel-planned", *PLANNED), "--cancel-planned: takes the instance alone"),
        ((), "ACTION: which action?"),
        (("stop", "--before", "2024-12-31T00:00Z"), "before: must be to come"),
        (("stop", "--before", "2025-03-01T00:00Z"), "before: must be to come"),
        (("unpause", *PLANNED), "unpause takes no VM away"),
    ],
)
async def test_refused(world: World, words: tuple[str, ...], fault: str) -> None:
    assert fault in (await fault_of(world[2].path, "act", "vm-1", *words))[0]


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"before": "soon"}, "body.before: not a time with its offset: 'soon'"),
        ({"before": "2025-01-01T00:20:00"}, "body.before: not a time with its offset"),
        ({"not_before": "0001-01-01T00:00+23:00"}, "body.not_before: not a time"),
        ({"action": "dance"}, "body.action: unknown word"),
        ({"command": ["{x}"]}, "body: command"),
        ({"then": "force"}, "body: then"),
    ],
)
async def test_faulty_bodies(world: World, changes: dict[str, object], fault: str) -> None:
    _, guests, api = world
    body = {"action": "stop", "before": END} | changes
    async with api.client() as client:
        answer = await client.post(f"/v1/instances/{guests[0].uuid}/plan", json=body)
        assert (answer.status_code, fault in answer.text) == (400, True), answer.text


async def test_an_unknown_instance(world: World) -> None:
    async with world[2].client() as client:
        answer = await client.post(
            "/v1/instances/6a2f0000-0000-0000-0000-000000000000/plan",
            json={"action": "stop", "before": END},
        )
        assert answer.status_code == 404
