"""`--json` on every command: JSON that a program can read, and nothing else."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import pytest

from hbtrio.cli import Parser
from hbtrio.cli.ctl import arguments as ctl
from hbtrio.errors import ExitStatus
from hbtrio.wire.vocabulary import VoteResult
from support.control_socket import call
from support.ctl_cases import ONE, serving
from support.fake_processes import FakeRun
from support.fleet_world import fleet_world
from support.host_world import Reply
from support.memory_store import memory_store

pytestmark = pytest.mark.usefixtures("autojump_clock")

#: That of `status --watch` is in test_live.py, that of `notify-all` in test_announcement.py.
_ELSEWHERE = {"watch", "notify-all"}

#: What is done at a host, with the keys of each line.
_AT_A_HOST: dict[str, tuple[tuple[str, ...], list[set[str]]]] = {
    "status": ((), [{"host", "instances"}]),
    "show": ((ONE,), [{"uuid", "next_loss", "events", "corrective_history"}]),
    "why": ((ONE,), [{"uuid", "now", "past", "next"}]),
    "wait": (
        (ONE, "--for", "healthy"),
        [{"uuid", "for", "reached", "state", "seconds"}],
    ),
    "groups": ((), [{"groups"}]),
    "events": ((), [{"kind", "uuid", "reason"}]),
    "hold": ((ONE, "--for", "1h", "--reason", "x"), [{"uuid", "hold", "stored", "running"}]),
    "history": ((), [{"kind", "uuid", "reason", "id"}]),
    "vote": ((ONE, "stop"), [{"step", "window", "seconds"}, {"step", "result", "reason"}]),
    "notify": ((ONE, "stop"), [{"step", "window", "seconds"}, {"step", "result", "reason"}]),
    # Its progress is in tests/api/test_drain_ctl.py.
    "drain": (("--list",), [{"drains"}]),
    "act": (
        (ONE, "live-migrate", "--", "true"),
        [{"step"}] * 4 + [{"step", "argv"}, {"step", "output"}] + [{"step"}] * 2 + [{"outcome"}],
    ),
}


def commands() -> dict[str, argparse.ArgumentParser]:
    parser = Parser(prog="hbtrio ctl")
    ctl.add_arguments(parser)
    [action] = [one for one in parser._actions if isinstance(one, argparse._SubParsersAction)]
    return dict(action.choices)


def test_every_command_has_it() -> None:
    for name, parser in commands().items():
        options = {option for action in parser._actions for option in action.option_strings}
        assert "--json" in options, name


def test_every_command_is_tried() -> None:
    tried = {*_AT_A_HOST, "tree", "unhold", "alarms", "brake", "forget"}
    assert tried == set(commands()) - _ELSEWHERE


def parsed(text: str) -> list[dict[str, Any]]:
    """The JSON texts in an output: one, or one on each line."""
    if text.startswith("{\n"):
        return [json.loads(text)]
    return [json.loads(line) for line in text.splitlines()]


@pytest.mark.parametrize("command", sorted(_AT_A_HOST))
@pytest.mark.parametrize("terminal", [False, True])
async def test_at_a_host(command: str, terminal: bool, tmp_path: Path) -> None:
    words, keys = _AT_A_HOST[command]
    with memory_store(tmp_path) as store:
        async with serving(memory=store.memory(), runs={"true": FakeRun()}) as (world, api):
            await world.heartbeating()
            await world.sleep(2)
            options, behind = words, words[len(words) :]
            if "--" in words:
                options, behind = words[: words.index("--")], words[words.index("--") :]
            called = await call(
                api.path, command, *options, "--json", *behind, terminal=terminal, columns=60
            )
            assert called.status == ExitStatus.DONE
            found = parsed(called.text)
            assert [wanted <= one.keys() for wanted, one in zip(keys, found, strict=True)] == (
                [True] * len(keys)
            )


async def test_a_rejected_vote_keeps_its_status_and_its_reason() -> None:
    async with serving() as (world, api):
        guest = await world.heartbeating()
        guest.reply = lambda _: Reply(VoteResult.REJECT, "a backup\x1b[2J")
        called = await call(api.path, "vote", ONE, "stop", "--json")
        assert called.status == ExitStatus.REJECTED
        assert called.text.isascii()
        assert parsed(called.text) == [
            {"step": "vote", "event": "stop", "window": "VOTE", "seconds": 9},
            {"step": "vote", "event": "stop", "result": "reject", "reason": "a backup [2J"},
        ]


async def test_the_brake_of_a_host(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving() as (world, api):
        world.host.corrective.brake.close()
        called = await call(api.path, "brake", "release", "--json")
        assert parsed(called.text) == [{"hostname": "compute-0"}]


async def test_at_an_agent(tmp_path: Path) -> None:
    async with fleet_world(tmp_path) as world:
        await world.host.heartbeating(name="web-1")
        await world.host.settle()
        for words in (("status",), ("show", "web-1"), ("why", "web-1"), ("tree",), ("history",)):
            assert parsed((await call(world.api.path, *words, "--json")).text), words
        await world.cut()
        await world.host.settle()
        called = await call(world.api.path, "forget", "compute-0", "--json")
        assert parsed(called.text) == [{"hostname": "compute-0", "instances": 1}]
