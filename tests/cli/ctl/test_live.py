"""What `hbtrio ctl status --watch` shows and when: on a terminal, in a pipe, and as JSON."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest
import trio

from hbtrio.cli.ctl.commands import INTERRUPTED
from hbtrio.cli.ctl.feed import LONGEST_PAUSE_S
from hbtrio.cli.ctl.live import merged
from hbtrio.errors import ExitStatus
from hbtrio.http.server import HttpLimits
from hbtrio.wire.operator import FleetInstanceLine, HostLine, InstanceLine, Status
from support.control_socket import Ctl, Served
from support.ctl_cases import ONE, fault_of, publish, serving
from support.host_world import HostWorld
from support.time_zone import time_zone

pytestmark = pytest.mark.usefixtures("autojump_clock")

#: A picture begins with the host's line; on a terminal after the cursor was moved.
HEAD = re.compile(r"(?:\r\x1b\[\d+A)?(?:AWAY, [^\n]*\n)?compute-0: ")


@pytest.fixture(autouse=True)
def _in_utc() -> Iterator[None]:
    with time_zone("UTC"):
        yield


@pytest.fixture(autouse=True)
def _twelve_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LINES", "12")


@asynccontextmanager
async def watching(
    *words: str, guests: int = 1, terminal: bool = False
) -> AsyncIterator[tuple[HostWorld, Served, Ctl]]:
    async with serving() as (world, api), trio.open_nursery() as nursery:
        await world.all_heartbeating(guests, name="web")
        called = Ctl()

        async def run() -> None:
            await called.run(api.path, "status", "--watch", *words, terminal=terminal)

        nursery.start_soon(run)
        await trio.sleep(1)
        yield world, api, called
        nursery.cancel_scope.cancel()


async def test_a_picture_follows_an_event() -> None:
    async with watching("1000") as (world, _, called):
        (first,) = pictures(called)
        assert "heartbeating: init answered" in first
        await world.heartbeating(name="db")
        await trio.sleep(1)
        assert len(pictures(called)) == 2
        assert "db" in pictures(called)[1]
        await trio.sleep(900)
        assert len(pictures(called)) == 2


async def test_a_picture_comes_every_so_many_seconds() -> None:
    async with watching("7") as (_, _, called):
        await trio.sleep(29)
        assert len(pictures(called)) == 5


async def test_on_a_terminal_a_picture_replaces_the_one_before() -> None:
    async with watching("1000", terminal=True) as (world, _, called):
        publish(world, 1)
        await trio.sleep(1)
        lines = called.text.partition("\x1b[J")[0].count("\n")
        first, second, rest = called.text.split("\x1b[J")
        assert (lines, rest) == (7, "")
        assert second.startswith(f"\r\x1b[{lines}A")
        assert all(line.endswith("\x1b[K") for line in first.splitlines())
        assert first.splitlines()[-1].endswith("; Ctrl-C ends\x1b[K")


async def test_a_picture_is_no_higher_than_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    async with watching("1000", guests=20, terminal=True) as (world, _, called):
        lines = called.text.splitlines()
        # The last row is the cursor's.
        assert len([line for line in lines if line != "\x1b[J"]) == 11
        # A head of three lines, an empty one, that of the columns, four rows, and the last two.
        assert lines[-3].startswith("... 16 more rows; ")
        monkeypatch.setenv("LINES", "40")
        publish(world, 1)
        await trio.sleep(1)
        second = called.text.split("\x1b[J")[1]
        assert second.startswith("\x1b[H\x1b[2J")
        assert second.count("heartbeating") > 20


async def test_a_restart_of_the_daemon_is_survived() -> None:
    async with watching() as (world, api, called), trio.open_nursery() as nursery:
        api.scope.cancel()
        await trio.sleep(20)
        away = pictures(called)[-1]
        assert re.match(
            rf"AWAY, trying again; this is as of \d\d:\d\d:\d\d: unix:{api.path}: ", away
        )
        assert f"{ONE}" in away
        count = len(pictures(called))
        await trio.sleep(60)
        assert len(pictures(called)) == count  # no more than one picture says so
        api.scope = trio.CancelScope()
        await nursery.start(api.run, world.host, HttpLimits())
        await trio.sleep(LONGEST_PAUSE_S + 1)
        assert "AWAY" not in pictures(called)[-1]
        nursery.cancel_scope.cancel()


async def test_as_json_each_picture_is_a_line() -> None:
    async with watching("1000", "--json", "--state", "heartbeating", guests=2) as made:
        world, api, called = made
        publish(world, 1)
        await trio.sleep(1)
        first, second = map(json.loads, called.lines)
        assert [one["uuid"] for one in first["instances"]] == [
            one["uuid"] for one in second["instances"]
        ]
        assert first["host"]["heartbeating"] == second["host"]["heartbeating"] == 2
        assert second["instances"][0]["beats"] > first["instances"][0]["beats"]
        api.scope.cancel()
        await trio.sleep(5)
        assert list(json.loads(called.lines[-1])) == ["away"]


async def test_as_json_the_live_view_is_the_same() -> None:
    async with serving() as (world, api), trio.open_nursery() as nursery:
        await world.heartbeating()
        called = Ctl()
        nursery.start_soon(called.run, api.path, "watch", "--json")
        await trio.sleep(12)
        assert [len(json.loads(line)["instances"]) for line in called.lines] == [1, 1, 1]
        nursery.cancel_scope.cancel()


async def test_the_live_view_needs_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    async with serving() as (_, api):
        text, status = await fault_of(api.path, "watch")
    assert text.startswith("watch needs a terminal; ")
    assert status == ExitStatus.USAGE


async def test_an_instance_that_goes_away_may_come_back() -> None:
    async with serving() as (world, api), trio.open_nursery() as nursery:
        silent = world.guest()
        silent.sends_init = False
        silent.appear()
        await world.settle()
        called = Ctl()
        nursery.start_soon(called.run, api.path, "status", "--watch", "3", ONE)
        await trio.sleep(5)
        assert ONE in pictures(called)[-1]
        silent.vanish()
        await trio.sleep(5)
        assert pictures(called)[-1].endswith(f"no instance {ONE} here\n\n")
        silent.appear()
        await trio.sleep(5)
        assert "no instance" not in pictures(called)[-1]
        nursery.cancel_scope.cancel()


async def test_one_that_was_never_there_is_a_fault() -> None:
    async with serving() as (_, api):
        text, status = await fault_of(api.path, "status", "--watch", "3", "nobody")
        assert (text, status) == ("no instance nobody here", ExitStatus.FAILED)


async def test_ctrl_c_ends_it(capsys: pytest.CaptureFixture[str]) -> None:
    async with watching(terminal=True) as (_, _, called):
        signal.raise_signal(signal.SIGINT)
        await trio.sleep(1)
        assert called.status == INTERRUPTED
        assert called.text.endswith("\x1b[J")
        assert capsys.readouterr() == ("", "")


def test_the_newer_state_of_one() -> None:
    def line(uuid: str, state: str) -> InstanceLine:
        return InstanceLine(
            uuid=uuid,
            name="",
            state=state,
            why="",
            health="healthy",
            beats=0,
            missed=0,
            heartbeating=state == "heartbeating",
        )

    host = HostLine(hostname="h", version="1", started="", heartbeating=2)
    both = Status(host=host, instances=(line("a", "heartbeating"), line("b", "heartbeating")))
    newer = merged(both, line("b", "lost"))
    assert isinstance(newer, Status)
    assert [one.state for one in newer.instances] == ["heartbeating", "lost"]
    assert newer.host.heartbeating == 1
    of_agent = FleetInstanceLine(
        uuid="b",
        hostname="h",
        reporting=True,
        name="",
        state="lost",
        why="",
        heartbeating=False,
        health="unknown",
    )
    assert merged(both, of_agent) is both


def pictures(called: Ctl) -> list[str]:
    """What was written, cut at each beginning of a picture."""
    starts = [one.start() for one in HEAD.finditer(called.text)]
    return [
        called.text[start:end]
        for start, end in zip(starts, [*starts[1:], len(called.text)], strict=True)
    ]
