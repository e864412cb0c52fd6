"""A measured process: what it prints, and one clear line if it fails."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import IO, Any

import trio

from bench.faults import BenchFailed
from support.guest_farm import module_environment


class Measured:
    """A running process that prints lines of JSON; made by :func:`open_measured`."""

    def __init__(self, name: str, process: trio.Process, stderr: IO[bytes]) -> None:
        assert process.stdout is not None
        self._name = name
        self._process = process
        self._stdout = process.stdout
        self._stderr = stderr
        self._unread = b""

    async def go(self) -> None:
        """Writes a line to it, for which it waits."""
        assert self._process.stdin is not None
        with suppress(trio.BrokenResourceError):  # how it ended is seen at its next line
            await self._process.stdin.send_all(b"\n")

    async def line(self) -> Any:
        """The next line that it prints.

        Raises:
            BenchFailed: it has ended instead.
        """
        while b"\n" not in self._unread:
            data = await self._stdout.receive_some()
            if not data:
                await self.end()
                raise BenchFailed(f"{self._name}: printed less than expected")
            self._unread += data
        line, _, self._unread = self._unread.partition(b"\n")
        return json.loads(line)

    async def end(self) -> None:
        """Waits until it ends.

        Raises:
            BenchFailed: it failed; the text ends with the last line of its standard error.
        """
        status = await self._process.wait()
        if status:
            self._stderr.seek(0)
            said = last_line(self._stderr.read().decode(errors="replace"))
            raise BenchFailed(f"{self._name} ended with {status}: {said}")


def last_line(text: str) -> str:
    """The last line that says something, without the frame of a group of exceptions."""
    lines = (line.strip(" |+-") for line in reversed(text.splitlines()))
    return next(filter(None, lines), "no message")


@asynccontextmanager
async def open_measured(
    name: str, command: Sequence[str], within_s: float
) -> AsyncIterator[Measured]:
    """Runs a command until the block and the process have ended; killed if the block fails.

    Args:
        name: in messages.
        command: the program and its arguments.
        within_s: how long all may take, in seconds.

    Raises:
        BenchFailed: the process failed, or took longer.
    """
    with tempfile.TemporaryFile() as stderr:
        process = await trio.lowlevel.open_process(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            env=module_environment(),
        )
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            with trio.move_on_after(within_s) as patience:
                measured = Measured(name, process, stderr)
                yield measured
                await measured.end()
            if patience.cancelled_caught:
                raise BenchFailed(f"{name} took longer than {within_s:g} s")
        finally:
            with trio.CancelScope(shield=True):
                if process.returncode is None:
                    process.kill()
                    await process.wait()
                await process.stdin.aclose()
                await process.stdout.aclose()


def module(name: str, *arguments: str) -> list[str]:
    """The command that runs a module of the tests."""
    return [sys.executable, "-m", name, *arguments]
