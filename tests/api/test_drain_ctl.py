"""`hbtrio ctl drain` at a plain host, and the routes it uses."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from hbtrio.cli.ctl.drain import _BAR
from hbtrio.cli.ctl.screen import CLEAR
from hbtrio.errors import ExitStatus
from hbtrio.wire.operator.drain import LONGEST_RETRY_S, MOST_AT_ONCE
from support.control_socket import Ctl, Served, call, served
from support.ctl_cases import fault_of
from support.drain_cases import drained_host, plan, rejects
from support.host_world import HostWorld, ScriptedGuest, stay_silent
from support.memory_store import MemoryStore, memory_store

pytestmark = pytest.mark.usefixtures("autojump_clock")

MIGRATE = ("drain", "--action", "live-migrate")

World = tuple[HostWorld, list[ScriptedGuest], Served]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[MemoryStore]:
    with memory_store(tmp_path) as made:
        yield made


@pytest.fixture
async def world(store: MemoryStore, autojump_clock: MockClock) -> AsyncIterator[World]:
    async with drained_host(store, 3) as (world, guests), served(world.host) as api:
        yield world, guests, api


def without_id(called: Ctl) -> list[str]:
    head, *lines = called.lines
    assert head.endswith(": live-migrate of 3 instances, at most 1 at once")
    return lines


async def test_elsewhere_than_on_a_terminal_each_change_is_a_line(world: World) -> None:
    _, guests, api = world
    guests[1].reply = rejects("primary")
    called = await call(api.path, *MIGRATE, "--on-reject", "skip", "compute-0")
    assert called.status == ExitStatus.INCOMPLETE == 10
    lines = without_id(called)
    assert "vm-2: asked before: reject: primary" in lines
    assert lines[-2:] == [
        "drain: incomplete: 2 done, 1 skipped",
        "  vm-2 on compute-0: skipped (rejected: primary)",
    ]
    # Who is slow sees the last state only; a command takes a while.
    for state in ("acting", "done"):
        assert f"vm-1 on compute-0: {state}" in lines


async def test_on_a_terminal_there_is_a_bar(world: World) -> None:
    called = await call(world[2].path, *MIGRATE, terminal=True)
    assert called.status == ExitStatus.DONE
    assert "[########----------------] 1 of 3: " in called.text
    assert called.lines[-1].endswith("drain: drained: 3 done")


async def test_on_a_narrow_terminal_the_bar_makes_room(world: World) -> None:
    _, guests, api = world
    guests[2].reply = rejects("primary")
    called = await call(
        api.path, *MIGRATE, "--on-reject", "skip", "--parallel", "2", terminal=True, columns=50
    )
    drawn = [one.partition(CLEAR)[0] for one in called.text.split("\r") if " of 3: " in one]
    assert all(one.startswith("[") and one[-1] != "…" and len(one) < 50 for one in drawn), drawn
    assert min(one.index("]") for one in drawn) < _BAR + 1
    assert drawn[-1].endswith("] 3 of 3: 1 skipped, 2 done")
    called = await call(api.path, *MIGRATE, "--on-reject", "skip", terminal=True, columns=34)
    drawn = [one.partition(CLEAR)[0] for one in called.text.split("\r") if " of 3: " in one]
    assert drawn[-1] == "3 of 3: 1 skipped, 2 done"


async def test_as_json_it_is_one_object_in_each_line(world: World) -> None:
    called = await call(world[2].path, *MIGRATE, "--json")
    assert called.status == ExitStatus.DONE
    first, *changes, last = [json.loads(line) for line in called.lines]
    assert (first["step"], first["total"], last) == (
        "drain",
        3,
        {"step": "end", "outcome": "drained"},
    )
    assert [one["uuid"] for one in changes if one["state"] == "done"] == [
        guest.uuid for guest in world[1]
    ]
    assert all(one["step"] == "instance" for one in changes)


async def test_a_dry_run_shows_the_order_and_the_answers(world: World, tmp_path: Path) -> None:
    host, guests, api = world
    guests[0].reply = rejects("primary")
    order = tmp_path / "order"
    order.write_text("# the database last\nvm-3\n\nvm-2  # the web\n")
    called = await call(api.path, *MIGRATE, "--dry-run", "--order", str(order))
    assert called.status == ExitStatus.DONE
    assert without_id(called) == [
        "vm-1: asked before: reject: primary",
        "dry run: nothing was done; 1 of 3 would reject",
        "  1. vm-3 on compute-0: accept",
        "  2. vm-2 on compute-0: accept",
        "  3. vm-1 on compute-0: reject: primary",
    ]
    as_json = await call(api.path, *MIGRATE, "--dry-run", "--json")
    states = {json.loads(line).get("state", "") for line in as_json.lines}
    assert states == {"", "waiting"}
    await call(api.path, "hold", "vm-2", "--for", "1h", "--reason", "a dump")
    called = await call(api.path, *MIGRATE, "--dry-run")
    assert "dry run: nothing was done; 1 of 3 would reject, 1 not asked" in without_id(called)
    assert host.processes.started == []
    order.write_text("vm-3\nvm-9\n")
    fault = await fault_of(api.path, *MIGRATE, "--order", str(order))
    assert fault == (f"{order}:2: no instance vm-9 on this host", ExitStatus.USAGE)
    missing = await fault_of(api.path, *MIGRATE, "--order", str(tmp_path / "none"))
    assert missing[0].endswith("none: no such file or directory")


async def test_one_that_was_left_goes_on_and_can_be_watched_again_and_cancelled(
    world: World,
) -> None:
    host, guests, api = world
    guests[0].reply = stay_silent
    left = Ctl()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(left.run, api.path, *MIGRATE)
        await host.sleep(25)
        nursery.cancel_scope.cancel()
    again = Ctl()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(again.run, api.path, "drain", "--resume")
        await host.sleep(1)
        fault = await fault_of(api.path, *MIGRATE)
        assert fault[0].startswith("compute-0 is being drained since ")
        assert fault[1] == ExitStatus.FAILED
        shown = await call(api.path, "drain", "--list", "--json")
        (one,) = json.loads(shown.text)["drains"]
        assert (one["phase"], one["hosts"], one["counts"]) == (
            "running",
            ["compute-0"],
            {"waiting": 2, "told": 1},
        )
        cancelled = await call(api.path, "drain", "--cancel")
        assert cancelled.lines == [f"drain {one['id']}: cancelled; what has begun comes to its end"]
    assert again.status == ExitStatus.ABORTED == 11
    assert again.lines[-4].startswith("drain: cancelled: cancelled by operator")
    assert (await fault_of(api.path, "drain", "--cancel"))[0] == "no drain is in progress"
    listed = await call(api.path, "drain", "--list")
    assert "cancelled" in listed.text
    once_more = await call(api.path, "drain", "--resume")
    assert once_more.status == ExitStatus.ABORTED


async def test_faults_of_the_request(world: World) -> None:
    _, _, api = world
    assert await fault_of(api.path, "drain") == (
        "--action: which action is done on each instance? One of stop, reboot, pause, suspend, "
        "resize, live-migrate, cold-migrate",
        ExitStatus.USAGE,
    )
    assert (await fault_of(api.path, *MIGRATE, "compute-9"))[0].startswith("this is compute-0")
    async with api.client() as client:
        for body, words in (
            ({"action": "live-migrate", "parallel": 0}, "parallel"),
            ({"action": "live-migrate", "parallel": MOST_AT_ONCE + 1}, "parallel"),
            ({"action": "live-migrate", "retry_for_s": LONGEST_RETRY_S + 1}, "retry_for_s"),
            ({"action": "live-migrate", "on_reject": "cry"}, "on_reject"),
            ({"action": "live-migrate", "retry_for_s": -1}, "retry_for_s"),
            ({"action": "fly"}, "action"),
        ):
            reply = await client.post("/v1/drains", json=body)
            assert reply.status_code == 400
            assert words in reply.json()["reason"]
        widest = {"parallel": MOST_AT_ONCE, "retry_for_s": LONGEST_RETRY_S, "dry_run": True}
        reply = await client.post("/v1/drains", json={"action": "live-migrate"} | widest)
        assert reply.status_code == 200
        for path in ("/v1/drains/d0", "/v1/drains/d0/progress"):
            assert (await client.get(path)).status_code == 404
        assert (await client.post("/v1/drains/d0/cancel")).status_code == 404


async def test_metrics_while_a_drain_is_in_progress(world: World) -> None:
    host, guests, api = world
    guests[0].reply = rejects()
    async with api.client() as client:
        assert "drain" not in (await client.get("/metrics")).text
        host.host.drains.start(plan(), "uid 0")
        await host.sleep(20)
        lines = (await client.get("/metrics")).text.splitlines()
    assert 'hbtrio_host_drain_instances{state="done"} 2.0' in lines
    assert 'hbtrio_host_drain_instances{state="rejected"} 1.0' in lines
    (stuck,) = [line for line in lines if line.startswith("hbtrio_host_drain_stuck_seconds ")]
    assert 0 < float(stuck.split()[1]) < 20


async def test_the_status_has_a_line_of_a_drain_in_progress_alone(world: World) -> None:
    host, guests, api = world
    guests[1].reply = rejects("primary")
    assert "drain of" not in (await call(api.path, "status")).text
    run = host.host.drains.start(plan(), "operator uid 7")
    await host.sleep(20)
    called = await call(api.path, "status")
    (line,) = [one for one in called.lines if one.startswith("drain of")]
    what = "drain of compute-0: live-migrate, 2 of 3 ended: 1 rejected, 2 done"
    assert line.startswith(f"{what}; by operator uid 7 since 2025-01-01 00:00:0")
    narrow = (await call(api.path, "status", terminal=True, columns=60)).lines
    (line,) = [one for one in narrow if one.startswith("drain of")]
    assert len(line) <= 60
    assert what[:55] in line
    (shown,) = json.loads((await call(api.path, "status", "--json")).text)["drains"]
    assert (shown["id"], shown["counts"]) == (run.record.id, {"rejected": 1, "done": 2})
    assert (shown["instances"], shown["appeared"]) == ([], [])
    await call(api.path, "drain", "--cancel")
    await host.sleep(1)
    assert "drain of" not in (await call(api.path, "status")).text
