"""The tree of live tasks: what it shows, that it is bounded, and that it makes way for others."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import trio
import trio.testing
from rich.cells import cell_len

from hbtrio.api.task_tree import ALIKE, task_tree
from hbtrio.errors import ExitStatus
from hbtrio.wire.operator import TaskLine, TaskTree
from support.control_socket import call
from support.ctl_cases import serving
from support.fleet_world import fleet_world
from support.host_world import stay_silent

pytestmark = pytest.mark.usefixtures("autojump_clock")


async def sleeper() -> None:
    await trio.sleep_forever()


async def hurried() -> None:
    with trio.move_on_after(100), trio.move_on_after(7.5):
        await trio.sleep_forever()


async def parent(depth: int) -> None:
    if depth:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(parent, depth - 1)
    await trio.sleep_forever()


def named(tree: TaskTree, function: str) -> list[TaskLine]:
    return [line for line in tree.lines if line.name.endswith(f".{function}")]


async def test_a_few_of_each_name_are_shown_and_the_rest_counted() -> None:
    async with trio.open_nursery() as nursery:
        for _ in range(ALIKE + 20):
            nursery.start_soon(sleeper)
        for _ in range(ALIKE):
            nursery.start_soon(hurried)
        await trio.testing.wait_all_tasks_blocked()
        tree = await task_tree()
        *tasks, more = named(tree, "sleeper")
        assert [one.kind for one in tasks] == ["task"] * ALIKE
        assert (more.kind, more.count) == ("more", 20)
        assert [one.kind for one in named(tree, "hurried")] == ["task"] * ALIKE
        place = tree.lines.index(tasks[0])
        above = [line for line in tree.lines[:place] if line.depth < tasks[0].depth]
        assert (above[-1].kind, above[-1].count) == ("nursery", 2 * ALIKE + 20)
        nursery.cancel_scope.cancel()


async def test_the_first_end_of_a_tasks_own_scopes_is_shown() -> None:
    # It comes from a private part of trio: a version without that shows no times, and fails here.
    async with trio.open_nursery() as nursery:
        nursery.cancel_scope.deadline = trio.current_time() + 3
        nursery.start_soon(hurried)
        nursery.start_soon(sleeper)
        await trio.testing.wait_all_tasks_blocked()
        tree = await task_tree()
        assert [one.remaining_s for one in named(tree, "hurried")] == [7.5]
        assert [one.remaining_s for one in named(tree, "sleeper")] == [None]
        nursery.cancel_scope.cancel()


async def test_it_is_bounded_in_depth(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hbtrio.api.task_tree.LINES", 100)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(parent, 100)
        await trio.testing.wait_all_tasks_blocked()
        tree = await task_tree()
        assert len(tree.lines) == 101
        assert (tree.lines[-1].kind, tree.lines[-1].name) == ("more", "")
        nursery.cancel_scope.cancel()


async def test_others_run_between_its_slices() -> None:
    turns = 0

    async def beat() -> None:
        nonlocal turns
        while True:
            turns += 1
            await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        for _ in range(15_000):
            nursery.start_soon(sleeper)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(beat)
        await trio.lowlevel.checkpoint()
        before = turns
        await task_tree()
        assert turns - before >= 15
        nursery.cancel_scope.cancel()


async def test_ctl_shows_the_tree_of_a_host() -> None:
    async with serving() as (world, api):
        guest, *_ = await world.all_heartbeating(ALIKE + 3)
        guest.reply = stay_silent
        world.vote(guest)
        await world.settle()
        called = await call(api.path, "tree")
        assert called.status == ExitStatus.DONE
        assert any(
            line.strip() == "… 3 more of channel_keeper.ChannelKeeper._keep"
            for line in called.lines
        )
        assert any("waits in pacer.Pacer.run:" in line for line in called.lines)
        for columns in (60, 80, 120):
            shown = await call(api.path, "tree", terminal=True, columns=columns)
            assert max(map(cell_len, shown.lines)) <= columns
        lines = [json.loads(line) for line in (await call(api.path, "tree", "--json")).lines]
        assert {"depth", "kind", "name", "waits", "remaining_s", "count"} == lines[0].keys()
        assert [line["depth"] for line in lines[:3]] == [0, 1, 2]


async def test_ctl_shows_the_tree_of_an_agent(tmp_path: Path) -> None:
    async with fleet_world(tmp_path) as world:
        called = await call(world.api.path, "tree")
        assert any("waits in link_session.LinkSession." in line for line in called.lines)
