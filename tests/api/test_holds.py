"""Holds through the API of a plain host, and `hbtrio ctl hold`, `unhold`, `status` and `act`."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from hbtrio.cli.ctl.orders import faults_words
from hbtrio.config.host import BrakeSettings, CorrectiveCommands
from hbtrio.errors import ExitStatus
from hbtrio.nursery.host.memory import NO_DIRECTORY, HostMemory
from support.agent_api_cases import ME
from support.control_socket import Served, call, served
from support.ctl_cases import fault_of
from support.fake_processes import FakeRun
from support.fleet_world import fleet_world
from support.host_world import HostWorld, ScriptedGuest, host_world, uuid_of
from support.memory_store import MemoryStore, memory_store

pytestmark = pytest.mark.usefixtures("autojump_clock")

WORDS = ("--for", "1m", "--reason", "disk swap")
UNTIL = "2026-01-01T00:01:02+00:00"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[MemoryStore]:
    with memory_store(tmp_path) as made:
        yield made


@asynccontextmanager
async def world_and_api(
    memory: HostMemory | None = None,
) -> AsyncIterator[tuple[HostWorld, Served]]:
    async with (
        host_world(
            corrective_commands=CorrectiveCommands(reboot=("reset", "{uuid}")),
            brake=BrakeSettings(share=1.0),
            runs={"reset": FakeRun(delay_s=20.0), "true": FakeRun()},
            memory=memory,
        ) as world,
        served(world.host) as api,
    ):
        yield world, api


def falls_silent(guest: ScriptedGuest) -> None:
    guest.answers_after_s, guest.sends_init = None, False


async def test_a_hold_is_set_shown_first_and_ended(store: MemoryStore) -> None:
    async with world_and_api(store.memory()) as (world, api):
        await world.heartbeating(name="db-1")
        await world.heartbeating(name="web-1")
        await world.at(2)
        held = await call(api.path, "hold", "web-1", *WORDS)
        assert (held.lines, held.status) == (
            ["web-1: on hold until 2026-01-01 00:01:02+00:00: disk swap"],
            ExitStatus.DONE,
        )
        status = (await call(api.path, "status")).lines
        shown = f"on hold until 2026-01-01 00:01:02+00:00 by {ME}: disk swap"
        assert status[1] == f"web-1: {shown}"
        rows = status[status.index("") + 2 :]
        assert [row.split()[1] for row in rows] == ["web-1", "db-1"]
        assert "until 2026-01-01 00:01:02+00:00: disk swap" in rows[0]
        assert (await call(api.path, "show", "web-1")).lines[1].split(None, 1)[1] == shown
        first = (await call(api.path, "why", "web-1")).lines[0]
        assert first == f"It is {shown}. It is watched, and nothing is done to it."
        over = await call(api.path, "unhold", "web-1")
        assert over.lines == ["web-1: no longer on hold"]
        assert "on hold" not in (await call(api.path, "status")).text
        history = await call(api.path, "history", "--kind", "hold", "--kind", "hold-over", "--json")
        found = [json.loads(line) for line in history.lines]
        assert [(one["kind"], one["who"], one["reason"]) for one in found] == [
            ("hold", ME, f"on hold until {UNTIL} by {ME}: disk swap"),
            ("hold-over", ME, f"{ME} has ended it: disk swap"),
        ]


async def test_all_of_a_host_and_only_those_that_are_on_hold() -> None:
    async with world_and_api() as (world, api):
        await world.all_heartbeating(3)
        await call(api.path, "hold", uuid_of(1), *WORDS)
        held = await call(api.path, "hold", "--host", "compute-0", *WORDS)
        assert len(held.lines) == 3
        assert (await call(api.path, "unhold", uuid_of(2))).status == ExitStatus.DONE
        assert len((await call(api.path, "unhold", "--host", "compute-0")).lines) == 2
        assert await fault_of(api.path, "unhold", "--host", "compute-0") == (
            "no instance on hold on compute-0",
            ExitStatus.FAILED,
        )


async def test_a_fault_of_the_order_itself_is_one_line() -> None:
    async with world_and_api() as (world, api):
        await world.all_heartbeating(3)
        words = ("hold", "--host", "compute-0", "--for", "8d", "--reason", "x")
        fault, status = await fault_of(api.path, *words)
        assert (fault.splitlines(), status) == (
            [
                "a hold is for 1 s to 7 days, so that a forgotten one ends; set it again before "
                "its end for longer"
            ],
            ExitStatus.FAILED,
        )


@pytest.mark.parametrize(
    ("faults", "total", "lines"),
    [
        ({"disk full": ["a", "b"]}, 2, ["disk full"]),
        ({"disk full": ["a", "b"]}, 3, ["a, b: disk full"]),
        ({"x": ["a", "b", "c"], "y": ["d"]}, 4, ["a, b, c: x", "d: y"]),
        ({"x": ["a", "b", "c", "d", "e"]}, 9, ["a, b, c, 2 more: x"]),
    ],
)
def test_the_same_fault_of_several_is_one_line(
    faults: dict[str, list[str]], total: int, lines: list[str]
) -> None:
    assert faults_words(faults, total).splitlines() == lines


async def test_without_a_state_directory_it_says_so() -> None:
    async with world_and_api() as (world, api):
        await world.heartbeating()
        [line] = (await call(api.path, "hold", "vm", *WORDS)).lines
        assert line.endswith(f"; NOT STORED: {NO_DIRECTORY}: a restart of the daemon undoes it")


async def test_the_answer_names_a_command_that_runs_already() -> None:
    async with world_and_api() as (world, api):
        guest = await world.heartbeating()
        falls_silent(guest)
        while not world.processes.started:
            await world.sleep(0.1)
        reply = json.loads((await call(api.path, "hold", "vm", *WORDS, "--json")).text)
        assert reply["running"] == "a corrective command (reboot)"


@pytest.mark.parametrize(
    ("words", "said", "status"),
    [
        (("hold", *WORDS), "NAME, --host or --group: say which instances", ExitStatus.USAGE),
        (("hold", "nobody", *WORDS), "no instance nobody here", ExitStatus.FAILED),
        (
            ("hold", "--host", "compute-1", *WORDS),
            "--host: this is compute-0; its agent knows others (--url)",
            ExitStatus.USAGE,
        ),
        (
            ("hold", "vm", "--for", "1h", "--reason", " "),
            "a hold needs a reason, one line of at most 200 characters",
            ExitStatus.FAILED,
        ),
        (
            ("hold", "vm", "--for", "8d", "--reason", "x"),
            "a hold is for 1 s to 7 days, so that a forgotten one ends; set it again before its "
            "end for longer",
            ExitStatus.FAILED,
        ),
        (("unhold", "vm"), f"{uuid_of(1)} is not on hold", ExitStatus.FAILED),
    ],
)
async def test_what_is_refused(words: tuple[str, ...], said: str, status: ExitStatus) -> None:
    async with world_and_api() as (world, api):
        await world.heartbeating()
        assert await fault_of(api.path, *words) == (said, status)
        assert list(world.host.holds) == []


async def test_of_several_each_that_fails_has_its_line() -> None:
    async with world_and_api() as (world, api):
        await world.heartbeating(name="a-1")
        await world.heartbeating(name="a-2")
        await call(api.path, "hold", "a-2", *WORDS)
        fault, status = await fault_of(api.path, "unhold", "a-1", "a-2")
        assert (fault, status) == (f"a-1: {uuid_of(1)} is not on hold", ExitStatus.FAILED)
        assert list(world.host.holds) == []


async def test_act_is_refused_and_recorded_unless_the_hold_is_ignored(store: MemoryStore) -> None:
    async with world_and_api(store.memory()) as (world, api):
        await world.heartbeating()
        await world.at(2)
        await call(api.path, "hold", "vm", *WORDS)
        act = ("act", "vm", "live-migrate")
        why = f"on hold until {UNTIL} by {ME}: disk swap; --ignore-hold acts all the same"
        assert await fault_of(api.path, *act, "--", "true") == (why, ExitStatus.FAILED)
        done = await call(api.path, *act, "--ignore-hold", "--", "true")
        assert done.status == ExitStatus.DONE
        history = await call(api.path, "history", "--kind", "action", "--json")
        reasons = [json.loads(line)["reason"] for line in history.lines]
        assert reasons[:2] == [
            f"live-migrate: refused: {why}",
            "live-migrate: asked, on hold or not",
        ]


@pytest.mark.parametrize(
    ("body", "status", "reason"),
    [
        ({"seconds": 60}, 400, "body: reason: is missing, and has no default"),
        ({"seconds": "1h", "reason": "x"}, 400, "body: seconds: "),
        ([], 400, "the body is not a JSON object"),
        ({"seconds": 0.5, "reason": "x"}, 409, "a hold is for 1 s to 7 days"),
    ],
)
async def test_faulty_bodies(body: object, status: int, reason: str) -> None:
    async with world_and_api() as (world, api):
        await world.heartbeating()
        async with api.client() as http:
            answer = await http.post(f"/v1/instances/{uuid_of(1)}/hold", json=body)
        assert answer.status_code == status
        assert answer.json()["reason"].startswith(reason)


async def test_one_that_the_host_does_not_know() -> None:
    async with world_and_api() as (_, api), api.client() as http:
        body = {"seconds": 60, "reason": "x"}
        answer = await http.post(f"/v1/instances/{uuid_of(9)}/hold", json=body)
        assert answer.status_code == 404


async def test_one_that_comes_too_late_changes_nothing() -> None:
    async with world_and_api() as (world, api):
        await world.heartbeating()
        headers = {"hbtrio-begin-by": "0.5 boot-1"}
        async with api.client() as http:
            for what, body in (("hold", {"seconds": 60, "reason": "x"}), ("unhold", {})):
                path = f"/v1/instances/{uuid_of(1)}/{what}"
                answer = await http.post(path, json=body, headers=headers)
                assert answer.status_code == 409
                assert answer.json()["reason"].startswith("expired")
        assert list(world.host.holds) == []


async def test_metrics_count_holds_and_say_when_one_of_a_failed_instance_ends() -> None:
    async with world_and_api() as (world, api):
        guest = await world.heartbeating()
        await world.heartbeating()
        await world.at(2)
        await call(api.path, "hold", "--host", "compute-0", *WORDS)
        async with api.client() as http:
            ends = "hbtrio_host_hold_of_failed_ends_timestamp_seconds"
            before = (await http.get("/metrics")).text
            assert "hbtrio_host_instances_on_hold 2.0\n" in before
            assert f"\n{ends} 0.0\n" in before
            falls_silent(guest)
            await world.at(10)
            after = (await http.get("/metrics")).text
        assert 'hbtrio_host_instances_not_acted_upon{cause="hold"} 1.0\n' in after
        assert f"\n{ends} {1767225662:.10g}".replace("1767225662", "1.767225662e+09") in after


# -- at an agent ------------------------------------------------------------------------------


async def test_at_an_agent_for_the_instances_of_a_host(tmp_path: Path) -> None:
    async with fleet_world(tmp_path) as world:
        await world.host.heartbeating(name="db-1")
        await world.host.heartbeating(name="web-1")
        await world.host.settle()
        path = world.api.path
        held = await call(path, "hold", "--host", "compute-0", *WORDS)
        assert [line.split(":")[0] for line in held.lines] == ["db-1", "web-1"]
        status = (await call(path, "status")).lines
        assert [line.split(": ")[0] for line in status[1:3]] == ["db-1", "web-1"]
        assert f" by {ME}: disk swap" in status[1]
        shown = (await call(path, "show", "web-1")).text
        assert f" by {ME}: disk swap" in shown
        assert (await call(path, "why", "web-1")).lines[0].startswith("It is on hold until ")
        fault, exit_status = await fault_of(path, "act", "web-1", "live-migrate", "--", "true")
        assert exit_status == ExitStatus.FAILED
        assert fault.endswith("disk swap; --ignore-hold acts all the same")
        async with world.api.client() as http:
            assert "hbtrio_agent_instances_on_hold 2.0\n" in (await http.get("/metrics")).text
        assert (await call(path, "unhold", "web-1")).lines == ["web-1: no longer on hold"]
        assert await fault_of(path, "unhold", "web-1") == (
            f"{uuid_of(2)} is not on hold",
            ExitStatus.FAILED,
        )


async def test_an_agent_whose_store_fails_says_so(tmp_path: Path) -> None:
    async with fleet_world(tmp_path) as world:
        await world.host.heartbeating(name="web-1")
        await world.host.settle()
        world.api.worker.fault = "disk full"
        assert await fault_of(world.api.path, "hold", "web-1", *WORDS) == (
            "store: disk full",
            ExitStatus.FAILED,
        )
        world.api.worker.fault = ""
