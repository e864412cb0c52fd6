"""Thousands of guests in a process of their own, for the benchmark and for tests of real hosts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Final, NoReturn

import attrs
import trio

from support.guest_farm_process import uuid_of

__all__ = [
    "TESTS",
    "Done",
    "FarmDied",
    "GuestFarm",
    "module_environment",
    "open_guest_farm",
    "uuid_of",
]

#: How long the farm may take for a command, in seconds; a thousand sockets take it a tenth of one.
_ANSWER_S: Final = 20.0

TESTS: Final = Path(__file__).resolve().parent.parent


def module_environment() -> dict[str, str]:
    """The environment in which ``python -m`` finds this package and the benchmark's."""
    return {**os.environ, "PYTHONPATH": str(TESTS)}


@attrs.frozen
class Done:
    """When the farm began and ended what it was asked for, on ``time.monotonic``.

    ``asked`` is when its guests were asked for votes and told notices, if that was wanted.
    """

    began: float
    ended: float
    asked: list[float] = attrs.field(factory=list)


class FarmDied(Exception):
    """A farm ended before it was told to."""


class GuestFarm:
    """A running farm; made by :func:`open_guest_farm`."""

    def __init__(self, process: trio.Process, first: int) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._process = process
        self._stdin = process.stdin
        self._stdout = process.stdout
        self._first = first
        self._stderr = b""
        self._reading = trio.Lock()

    @property
    def pid(self) -> int:
        """The id of its process."""
        return self._process.pid

    async def died(self) -> NoReturn:
        """Waits until it ends.

        Raises:
            FarmDied: it has; the text names its status and the last line of its standard error.
        """
        assert self._process.stderr is not None
        status = await self._process.wait()
        async with self._reading:
            self._stderr += b"".join([bytes(data) async for data in self._process.stderr])
        lines = self._stderr.splitlines()
        last = lines[-1].decode(errors="replace") if lines else "no message"
        raise FarmDied(f"the farm of the guests from {self._first} ended with {status}: {last}")

    async def listen(
        self, count: int, *, interval_ms: int = 1000, spread_s: float = 0.0, votes: bool = True
    ) -> Done:
        """Creates this many guests' channel sockets, one right after the other.

        Args:
            count: how many.
            interval_ms: the interval that they ask for.
            spread_s: all guests of the farm say their ``init`` one after the other, and take this
                long for it from when they are connected, instead of saying it at once.
            votes: whether these answer votes and notices; others let them time out, votes
                after 20 s.
        """
        return await self._do(listen=count, interval_ms=interval_ms, spread_s=spread_s, votes=votes)

    async def mute(self, indexes: Sequence[int]) -> Done:
        """These guests answer one more challenge and then fall silent, each in its own time.

        Args:
            indexes: their numbers, counted from the farm's first.
        """
        return await self._do(mute=list(indexes))

    async def asked(self) -> list[float]:
        """When its guests were asked for votes and told notices since this was last called.

        The times are ``time.monotonic``'s; of more than 100,000 the oldest are forgotten.
        """
        return (await self._do(asked=True)).asked

    async def _do(self, **command: object) -> Done:
        answer = b""
        with trio.fail_after(_ANSWER_S), suppress(trio.BrokenResourceError):
            await self._stdin.send_all(json.dumps(command).encode() + b"\n")
            while not answer.endswith(b"\n"):
                data = await self._stdout.receive_some()
                if not data:
                    break
                answer += data
        if not answer.endswith(b"\n"):
            await self.died()
        return Done(**json.loads(answer))


@asynccontextmanager
async def open_guest_farm(channel_dir: Path, first: int = 0) -> AsyncIterator[GuestFarm]:
    """A farm without guests yet; at the end they and their sockets are gone.

    Args:
        channel_dir: the directory of their channels.
        first: the number of its first guest; several farms may share a directory.
    """
    process = await trio.lowlevel.open_process(
        [sys.executable, "-m", "support.guest_farm_process", str(channel_dir), str(first)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=module_environment(),
    )
    try:
        yield GuestFarm(process, first)
    finally:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        with trio.CancelScope(shield=True):
            await process.stdin.aclose()
            with trio.move_on_after(5):
                await process.wait()
            if process.returncode is None:
                process.kill()
                await process.wait()
            await process.stdout.aclose()
            await process.stderr.aclose()
