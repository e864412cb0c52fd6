"""Agents on one database that are killed or stopped at any moment, and taken over by the next one.

What each of them held is held, and no verdict is sent twice: not by the one that took over, and not
by the one that was stopped and goes on.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from collections import Counter
from contextlib import suppress
from datetime import UTC, datetime
from typing import Final

import pytest
import trio

from hbtrio.errors import ExitStatus, UserError
from hbtrio.fsm.delivery import OutboxKind
from hbtrio.store.faults import StoreFenced
from support import store_child
from support.postgres import Server
from support.store_cases import opened_at
from support.store_lives import Said, check

pytestmark = pytest.mark.processes

LIVES: Final = 16

#: Lines of one life before it is struck, at most; some hundred a second.
LINES: Final = 100

#: The lease of the lives, in seconds.
SHORT_S: Final = 0.6


class Life:
    """One agent's life.

    Args:
        url: its database.
        name: its name.
        said: what all lives together have said.
    """

    def __init__(self, url: str, name: str, said: Said) -> None:
        self._said = said
        self._process = subprocess.Popen(
            [sys.executable, store_child.__file__, url, name, str(SHORT_S)],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
        )
        assert self._process.stdout is not None
        self._out = self._process.stdout
        self._rest = b""

    def live(self, lines: int) -> None:
        """Reads so many lines, and "ready" before them."""
        found = self._receive()
        while found <= lines:
            found += self._receive()

    def _receive(self) -> int:
        """Waits for more lines; returns how many came, or raises EOFError."""
        if not (data := self._out.read(65536)):
            raise EOFError
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            self._said.receive(line.decode())
        return len(lines)

    def stop(self) -> None:
        """Stops it and reads what it has said until then."""
        self._process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self._process.pid, os.WSTOPPED)
        os.set_blocking(self._out.fileno(), False)
        if data := self._out.read(1 << 20):
            *lines, self._rest = (self._rest + data).split(b"\n")
            for line in lines:
                self._said.receive(line.decode())
        os.set_blocking(self._out.fileno(), True)

    def end(self, number: int) -> int:
        """Sends a signal and reads the rest until it has ended; the last line may be cut."""
        self._process.send_signal(number)
        with self._process, suppress(EOFError):
            while True:
                self._receive()
        return self._process.returncode


async def taken_over(url: str, said: Said) -> None:
    """Opens the store as soon as the lease of the one before is over, and checks what is there."""
    with trio.fail_after(60):
        while True:
            try:
                async with opened_at(url, lambda: datetime.now(UTC), "the next") as store:
                    await check(store, said)
                    return
            except UserError as error:
                if error.status is not ExitStatus.IN_USE:
                    raise
                await trio.sleep(0.05)
            except StoreFenced:
                # On a busy machine this process may renew its own lease too late: as an agent it
                # would end, and be started anew.
                continue


async def test_killed_or_stopped_at_any_moment(postgres: Server) -> None:
    url, dice, said = postgres.schema(), random.Random(20250302), Said()
    for number in range(LIVES):
        life = Life(url, f"boot-{number}", said)
        await trio.to_thread.run_sync(life.live, dice.randrange(LINES))
        if number % 2:
            status = await trio.to_thread.run_sync(life.end, signal.SIGKILL)
            assert status == -signal.SIGKILL
            await taken_over(url, said)
            continue
        life.stop()
        await taken_over(url, said)
        before = Counter(said.sent)
        # It ends by itself. It may have looked at its lease right before it was stopped.
        assert await trio.to_thread.run_sync(life.end, signal.SIGCONT) == 1
        assert (said.sent - before).total() <= 1
        await taken_over(url, said)
    by_kind = Counter(said.taken.values())
    assert min(by_kind[kind] for kind in OutboxKind) > LIVES
