"""A daemon of the fleet, a host's or the agent's, that is stopped, killed and started again."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from typing import Final

import trio

from chaos.freezer import Freezer
from chaos.records import Records
from hbtrio.errors import UserError
from hbtrio.lab.daemon import Daemon
from hbtrio.simulate.observations import Began, Condition, Over, ProcessStarted

#: How long it runs between two stops of a stutter, and how long those are, in seconds.
_RUNS_S: Final = (0.002, 0.05)
_STANDS_S: Final = (0.1, 1.0)


class Victim:
    """A daemon.

    Args:
        name: the name that it is observed by.
        records: takes in what happens to it.
        daemon: returns its process, or None.
        launch: starts it; returns when it serves.
        say: called with what is no observation.
    """

    def __init__(
        self,
        name: str,
        records: Records,
        *,
        daemon: Callable[[], Daemon | None],
        launch: Callable[[], Awaitable[object]],
        say: Callable[[str, str], None],
    ) -> None:
        self.name = name
        self._records = records
        self._daemon = daemon
        self._launch = launch
        self._say = say
        self._freezer = Freezer(records, name, daemon)
        #: One end and start at a time.
        self._life = trio.Lock()
        self._gone = trio.Event()
        self._down = False

    @property
    def daemon(self) -> Daemon | None:
        """Its process, or None."""
        daemon = self._daemon()
        return None if daemon is None or daemon.status is not None else daemon

    async def start(self) -> None:
        """Starts it and waits until it serves; on a very busy machine it gets more than one try."""
        while True:
            self._records.observe(ProcessStarted(self._records.clock.now(), self.name))
            self._gone = trio.Event()
            try:
                await self._launch()
                break
            except UserError as fault:
                self._say(self.name, f"start: {str(fault).splitlines()[0]}")
                daemon = self.daemon
                if daemon is not None:
                    await daemon.kill()
        if self._down:
            self._down = False
            self._records.observe(Over(self._records.clock.now(), Condition.DOWN, self.name))

    async def stop_for(self, seconds: float) -> None:
        """SIGSTOP, and SIGCONT some seconds later; over if it dies meanwhile."""
        if self.daemon is None:
            return
        gone = self._gone
        token = self._freezer.freeze(Condition.STOPPED)
        with trio.move_on_after(seconds):
            await gone.wait()
        self._freezer.thaw(token)

    async def stutter_for(self, seconds: float, draw: random.Random) -> None:
        """Is stopped again and again."""
        end = trio.current_time() + seconds
        while trio.current_time() < end and self.daemon is not None:
            await self.stop_for(min(draw.uniform(*_STANDS_S), end - trio.current_time()))
            await trio.sleep(draw.uniform(*_RUNS_S))

    async def kill_for(self, seconds: float) -> None:
        """SIGKILL, and a start some seconds later; nothing if it is ending or starting."""
        await self._end_for(seconds, by_kill=True)

    async def restart_for(self, seconds: float) -> None:
        """SIGTERM, and a start some seconds after its end; nothing if it is ending or starting."""
        await self._end_for(seconds, by_kill=False)

    async def _end_for(self, seconds: float, *, by_kill: bool) -> None:
        if self._life.locked():
            self._say(self.name, "is ending or starting already")
            return
        async with self._life:
            daemon = self.daemon
            if daemon is None:
                return
            self._down = True
            self._records.observe(Began(self._records.clock.now(), Condition.DOWN, self.name))
            if by_kill:
                await daemon.kill()
            else:
                self._say(self.name, f"has ended with status {await daemon.stop()}")
            self._gone.set()
            self._freezer.forget((Condition.STOPPED,))
            await trio.sleep(seconds)
            await self.start()
