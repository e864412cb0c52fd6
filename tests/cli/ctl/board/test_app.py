"""The board as it runs: what it asks the daemon for while an instance is shown in detail."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from hbtrio.cli.ctl.board.app import BoardApp
from hbtrio.cli.ctl.board.terminal import Terminal
from hbtrio.cli.ctl.board.view import Line
from hbtrio.client.address import Address
from hbtrio.client.client import CtlClient
from support.ctl_cases import serving
from support.fleet_world import fleet_world
from support.host_world import HostWorld
from support.voters import ORDERS, SCRIPT, voter_state

pytestmark = pytest.mark.usefixtures("autojump_clock")


class Keyboard(Terminal):
    """A terminal in memory."""

    def __init__(self) -> None:
        self._send, self._keys = trio.open_memory_channel[bytes](10)
        self.lines: list[str] = []

    @property
    def size(self) -> tuple[int, int]:
        return 100, 40

    async def read(self) -> bytes:
        return await self._keys.receive()

    async def draw(self, lines: list[Line]) -> None:
        await trio.lowlevel.checkpoint()
        self.lines = ["".join(text for text, _ in line).rstrip() for line in lines]

    async def press(self, key: str) -> list[str]:
        """Presses a key, and returns what is shown a second later."""
        await self._send.send(key.encode())
        await trio.sleep(1)
        return self.lines


@asynccontextmanager
async def board_at(path: str) -> AsyncIterator[Keyboard]:
    async with (
        CtlClient(Address.parse(f"unix:{path}")) as client,
        trio.open_nursery() as nursery,
    ):
        keyboard = Keyboard()
        nursery.start_soon(BoardApp(client, keyboard).run)
        await trio.sleep(2)
        yield keyboard
        nursery.cancel_scope.cancel()


async def with_voters(world: HostWorld) -> None:
    guest = await world.heartbeating(name="web-1")
    guest.report_voters(ORDERS, SCRIPT)
    await world.settle()


def voter_names(lines: list[str]) -> list[str]:
    names = [line.strip().removeprefix("voters").split(":")[0].strip() for line in lines]
    return [name for name in names if name in ("orders", "handler", "late")]


async def test_the_voters_come_with_the_detail_and_go_with_it() -> None:
    async with serving() as (world, api):
        await with_voters(world)
        async with board_at(api.path) as keyboard:
            assert voter_names(keyboard.lines) == []
            assert voter_names(await keyboard.press("\r")) == ["orders", "handler"]
            assert voter_names(await keyboard.press("q")) == []


async def test_the_voters_follow_what_the_guest_reports() -> None:
    async with serving() as (world, api):
        guest = await world.heartbeating(name="web-1")
        async with board_at(api.path) as keyboard:
            lines = await keyboard.press("\r")
            assert any("unknown: its guest does not report them" in line for line in lines)
            guest.report_voters(voter_state(name="late"))
            await trio.sleep(5)
            assert voter_names(keyboard.lines) == ["late"]


async def test_the_voters_at_an_agent(tmp_path: Path) -> None:
    async with fleet_world(tmp_path) as world:
        await with_voters(world.host)
        async with board_at(world.api.path) as keyboard:
            assert voter_names(await keyboard.press("\r")) == ["orders", "handler"]


async def test_the_voters_stay_while_the_daemon_is_away() -> None:
    async with serving() as (world, api):
        await with_voters(world)
        async with board_at(api.path) as keyboard:
            assert voter_names(await keyboard.press("\r")) == ["orders", "handler"]
            api.scope.cancel()
            await trio.sleep(10)
            assert keyboard.lines[0].startswith("AWAY")
            assert voter_names(keyboard.lines) == ["orders", "handler"]


async def test_the_daemon_is_not_asked_while_no_detail_is_shown(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[float] = []
    instance = CtlClient.instance

    async def counted(self: CtlClient, uuid: str) -> object:
        asked.append(trio.current_time())
        return await instance(self, uuid)

    monkeypatch.setattr(CtlClient, "instance", counted)
    async with serving() as (world, api):
        await with_voters(world)
        async with board_at(api.path) as keyboard:
            await trio.sleep(60)
            assert asked == []
            await keyboard.press("\r")
            await trio.sleep(60)
            # Once for each report of the instance, which comes every 3 s.
            assert 15 <= len(asked) <= 25
