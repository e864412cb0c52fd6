"""Commands that do what a test says, on the fake clock."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from enum import Enum

import attrs
import trio

from hbtrio.system.runner import ProcessNotStarted, ProcessResult
from hbtrio.system.side_pipe import SidePipe


@attrs.frozen
class FakeRun:
    """What one command does: after a delay it ends, unless it hangs or cannot be started."""

    exit_code: int = 0
    stdout: bytes = b""
    stderr: bytes = b""
    delay_s: float = 0.0
    #: Ended by this signal instead of the exit code.
    signal: int | None = None
    #: Why it cannot be started.
    fault: str | None = None
    #: What it writes to its side pipe, and when.
    aside: tuple[tuple[float, bytes], ...] = ()
    #: How long it takes to die when it is cancelled.
    dies_in_s: float = 0.0


#: A command that ends only by being cancelled.
HANGS = FakeRun(delay_s=math.inf)


class End(Enum):
    """What became of a command."""

    DONE = "done"
    FAILED = "failed"
    CUT_OFF = "cut off"


@attrs.frozen
class Moment:
    """Something that happened to a command, and when."""

    time_s: float
    argv: tuple[str, ...]


class FakeProcesses:
    """A ProcessRunner without processes.

    Args:
        runs: what a command does, by ``argv[0]`` or by a function of ``argv``. One that is not
        listed
            does not exist.
    """

    reaper_restarts = 0

    def __init__(self, runs: Mapping[str, FakeRun] | Callable[[Sequence[str]], FakeRun]) -> None:
        self._runs = runs
        self.started: list[Moment] = []
        self.ended: list[Moment] = []
        self.cancelled: list[Moment] = []
        #: Called with each command as it starts, and with what became of it as it ends.
        self.on_start: Callable[[Sequence[str]], None] = _ignore
        self.on_end: Callable[[Sequence[str], End], None] = _ignore

    async def run(
        self,
        argv: Sequence[str],
        *,
        max_output: int = 4096,
        env: Mapping[str, str] | None = None,
        on_output: Callable[[bytes], None] | None = None,
        side: SidePipe | None = None,
    ) -> ProcessResult:
        await trio.lowlevel.checkpoint()
        run = self._runs(argv) if callable(self._runs) else self._runs.get(argv[0])
        if run is None:
            run = FakeRun(fault="No such file or directory")
        if run.fault is not None:
            raise ProcessNotStarted(argv[0], run.fault)
        self.started.append(self._now(argv))
        self.on_start(argv)
        try:
            began = trio.current_time()
            for at, data in run.aside:
                await trio.sleep_until(began + at)
                if side is not None:
                    side.on_data(data)
            await trio.sleep_until(began + run.delay_s)
        except trio.Cancelled:
            self.cancelled.append(self._now(argv))
            with trio.CancelScope(shield=True):
                await trio.sleep(run.dies_in_s)
            self.on_end(argv, End.CUT_OFF)
            raise
        self.ended.append(self._now(argv))
        self.on_end(argv, End.FAILED if run.signal or run.exit_code else End.DONE)
        if on_output is not None:
            on_output(run.stdout)
        return ProcessResult(
            exit_code=run.exit_code if run.signal is None else None,
            signal=run.signal,
            stdout=run.stdout[:max_output],
            stderr=run.stderr[:max_output],
            truncated=max(len(run.stdout), len(run.stderr)) > max_output,
        )

    def _now(self, argv: Sequence[str]) -> Moment:
        return Moment(trio.current_time(), tuple(argv))


def _ignore(*_: object) -> None:
    """Nobody wants to know."""
