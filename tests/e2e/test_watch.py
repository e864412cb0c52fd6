"""`hbtrio ctl` on a real terminal, of a real host: the live view, and the pager."""

from __future__ import annotations

import os
import signal
import sys
import termios
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import attrs
import pytest
import trio

from hbtrio.errors import ExitStatus
from hbtrio.lab.scene import Scene, open_scene
from support.guest_farm import open_guest_farm, uuid_of
from support.real_processes import SOON_S, until

pytestmark = [pytest.mark.processes, pytest.mark.usefixtures("home")]

LEFT = "\x1b[?1049l"


@attrs.define
class OnTerminal:
    """A process on a terminal of its own, and what it has shown."""

    process: trio.Process
    master: int
    slave: int
    text: str = ""

    async def collect(self) -> None:
        # The slave is open here as well, so that the terminal has no end.
        while True:
            await trio.lowlevel.wait_readable(self.master)
            self.text += os.read(self.master, 65536).decode(errors="replace")

    async def sees(self, text: str) -> None:
        """Waits for a text, and forgets what was shown until then."""
        await until(lambda: text in self.text)
        self.text = self.text.partition(text)[2]

    def press(self, keys: str) -> None:
        os.write(self.master, keys.encode())


@asynccontextmanager
async def on_terminal(
    scene: Scene, *words: str, rows: int = 24, **environment: str
) -> AsyncIterator[OnTerminal]:
    master, slave = os.openpty()
    termios.tcsetwinsize(slave, (rows, 100))
    command = [sys.executable, "-m", "hbtrio", "ctl", "--url", scene.url, *words]
    # pytest's parallel workers have a size in their environment, which outranks the terminal's.
    inherited = {name: os.environ[name] for name in os.environ.keys() - {"LINES", "COLUMNS"}}
    process = await trio.lowlevel.open_process(
        command,
        stdin=slave,
        stdout=slave,
        stderr=slave,
        env=inherited | {"TERM": "xterm"} | environment,
        start_new_session=True,
    )
    made = OnTerminal(process, master, slave)
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(made.collect)
            yield made
            nursery.cancel_scope.cancel()
    finally:
        if process.returncode is None:
            process.kill()
            with trio.CancelScope(shield=True):
                await process.wait()
        os.close(master)
        os.close(slave)


async def ended(process: trio.Process) -> int:
    with trio.fail_after(SOON_S):
        return await process.wait()


async def test_the_live_view() -> None:
    async with open_scene() as scene, open_guest_farm(scene.channel_dir) as farm:
        host = await scene.start_host()
        await farm.listen(2)
        async with on_terminal(scene, "watch") as shown:
            before = termios.tcgetattr(shown.slave)
            await shown.sees("\x1b[?1049h")
            await shown.sees("2 of 2 heartbeating")
            await shown.sees("? help")
            shown.press("/guest-1\r\r")
            await shown.sees(uuid_of(1))
            shown.press("\x1b")
            await shown.sees("1 of 2, by worst, with guest-1")
            # Drawn again at the terminal's new size.
            termios.tcsetwinsize(shown.slave, (30, 60))
            os.kill(shown.process.pid, signal.SIGWINCH)
            await shown.sees("\x1b[30;1H")
            await host.kill()
            await shown.sees("AWAY, trying again")
            await scene.start_host()
            # The first line is the host's again, in bold.
            await shown.sees("\x1b[1;1H\x1b[1m")
            await shown.sees("2 of 2 heartbeating")
            os.kill(shown.process.pid, signal.SIGTERM)
            assert await ended(shown.process) == 128 + signal.SIGTERM
            await shown.sees(LEFT)
            assert termios.tcgetattr(shown.slave) == before
            assert shown.text == ""
        async with on_terminal(scene, "watch") as shown:
            await shown.sees("2 of 2 heartbeating")
            shown.press("q")
            assert await ended(shown.process) == ExitStatus.DONE
            await shown.sees(LEFT)
            assert shown.text == ""


async def test_what_is_longer_than_the_terminal_is_paged(home: Path) -> None:
    pager = home / "pager"
    pager.write_text("#!/bin/sh\nsed 's/^/paged: /'\nexit 3\n")
    pager.chmod(0o755)
    async with open_scene() as scene:
        await scene.start_host()
        async with on_terminal(scene, "status", rows=2, PAGER=str(pager)) as shown:
            await shown.sees("paged: ")
            assert await ended(shown.process) == ExitStatus.DONE
        async with on_terminal(scene, "status", "--no-pager", rows=2, PAGER=str(pager)) as shown:
            assert await ended(shown.process) == ExitStatus.DONE
            await shown.sees("0 of 0 heartbeating")
            assert "paged" not in shown.text
