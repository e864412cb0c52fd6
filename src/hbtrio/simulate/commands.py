"""Simulates the commands that a daemon runs: they take time, fail, hang or are not started."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import attrs
import trio

from hbtrio.simulate.observations import Resource
from hbtrio.simulate.process import Process, Waiters
from hbtrio.simulate.timeline import Entry, Timeline
from hbtrio.system.child import ProcessResult
from hbtrio.system.runner import ProcessNotStarted
from hbtrio.system.side_pipe import SidePipe


@attrs.frozen
class Script:
    """What a command does.

    Args:
        takes_s: how long it runs, in seconds; infinite if it hangs.
        exit_code: its status.
        output: its standard output.
        output_s: when it writes that, in seconds after its start; before its end.
        effect: what it does to the world; nothing if the command is ended before.
        effect_s: when it does that, in seconds after its start; before its end.
        fault: why it is not started; "" if it is.
        at_kill: called if the command is ended before its end.
    """

    takes_s: float
    exit_code: int = 0
    output: bytes = b""
    output_s: float = 0.0
    effect: Callable[[], object] | None = None
    effect_s: float = 0.0
    fault: str = ""
    at_kill: Callable[[], object] | None = None


#: Says what a command does, by its words and environment.
Model = Callable[[Sequence[str], Mapping[str, str] | None], Script]


class SimulatedCommands:
    """Implements :class:`~hbtrio.system.runner.ProcessRunner` for one process.

    Commands end with their process, as the reaper sees to it.

    Args:
        process: runs the commands.
        timeline: has their time.
        model: says what each of them does.
    """

    def __init__(self, process: Process, timeline: Timeline, model: Model) -> None:
        self.reaper_restarts = 0
        #: The commands that run now.
        self.running: dict[_Command, None] = {}
        self._process = process
        self._timeline = timeline
        self._model = model

    async def run(
        self,
        argv: Sequence[str],
        *,
        max_output: int = 4096,
        env: Mapping[str, str] | None = None,
        on_output: Callable[[bytes], None] | None = None,
        side: SidePipe | None = None,
    ) -> ProcessResult:
        """See :class:`~hbtrio.system.runner.ProcessRunner`."""
        await trio.lowlevel.checkpoint()
        if not self._process.effect():
            await trio.sleep_forever()
        script = self._model(argv, env)
        if script.fault:
            raise ProcessNotStarted(argv[0], script.fault)
        command = _Command(self._process, self._timeline, script)
        self.running[command] = None
        try:
            await command.finish(on_output)
        finally:
            # A cancelled command is gone when this returns; one of a dead process has gone with it.
            del self.running[command]
            command.end()
        kept = script.output[:max_output]
        return ProcessResult(script.exit_code, None, kept, b"", len(kept) < len(script.output))


class _Command:
    """A command that runs; what it does happens even while its process is frozen."""

    resource = Resource.CHILD

    def __init__(self, process: Process, timeline: Timeline, script: Script) -> None:
        self._process = process
        self._script = script
        self._waiters = Waiters(process)
        self._written = not script.output
        self._over = False
        self._entries: list[Entry] = []
        process.hold(self)
        if script.output:
            self._entries.append(timeline.after(script.output_s, self._write))
        if script.effect is not None:
            self._entries.append(timeline.after(script.effect_s, script.effect))
        if script.takes_s < math.inf:
            self._entries.append(timeline.after(script.takes_s, self._exit))

    async def finish(self, on_output: Callable[[bytes], None] | None) -> None:
        """Waits for its end; passes its output on as it is written."""
        passed = False
        while True:
            if self._written and not passed:
                passed = True
                if on_output is not None and self._script.output:
                    on_output(self._script.output)
            if self._over:
                return
            await self._waiters.wait()

    def end(self) -> None:
        """Ends it, if it still runs."""
        self._process.drop(self)
        self.released()

    def released(self) -> None:
        """Ends it, since its process is dead."""
        if not self._over and self._script.at_kill is not None:
            self._script.at_kill()
        self._over = True
        for entry in self._entries:
            entry.cancel()

    def _write(self) -> None:
        self._written = True
        self._waiters.wake()

    def _exit(self) -> None:
        self._written = self._over = True
        self._waiters.wake()
