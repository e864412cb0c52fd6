"""Keeps who owns each instance of a host, and lets others wait for it.

:mod:`hbtrio.fsm.ownership` decides.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

import trio

from hbtrio.fsm.ownership import Ownership
from hbtrio.nursery.time_guard import Source, sleep_until_on_time
from hbtrio.policy.time_guard import CALM_S, OnTimeGuard

#: Whom nobody owns; never changed.
_FREE: Final = Ownership()


class Owners:
    """The owners of a host's instances; one that nobody owns costs nothing.

    Args:
        nursery: runs a task for each action of an orchestrator, which may lapse.
        guard: the process's on-time guard.
        on_change: called with the uuid of each instance whose owner may be another one now.
    """

    def __init__(
        self, nursery: trio.Nursery, guard: OnTimeGuard, on_change: Callable[[str], None]
    ) -> None:
        self._nursery = nursery
        self._on_change = [on_change]
        self._guard = guard
        self._owned: dict[str, Ownership] = {}
        self._changed: dict[str, trio.Event] = {}
        self._lapsing: set[str] = set()
        #: Where an orchestrator's next step arrives.
        self._sources: list[Source] = []

    def on_change(self, listener: Callable[[str], None]) -> None:
        """Calls ``listener`` as the ``on_change`` of the class is called, after that."""
        self._on_change.append(listener)

    @contextmanager
    def reading(self, source: Source) -> Iterator[None]:
        """Reads ``source`` within the context, before an orchestrator's action lapses."""
        self._sources.append(source)
        try:
            yield
        finally:
            self._sources.remove(source)

    def of(self, uuid: str) -> Ownership:
        """Returns who owns an instance, to be read only."""
        return self._owned.get(uuid, _FREE)

    def words(self, uuid: str) -> str:
        """Returns who owns an instance, in words; empty for nobody."""
        ownership = self.of(uuid)
        return "" if ownership.free else ownership.words

    def command(self, uuid: str) -> str:
        """Returns the corrective command that runs for an instance, in words; empty for none."""
        ownership = self.of(uuid)
        return ownership.words if ownership.command_runs else ""

    # -- what happens -----------------------------------------------------------------------

    def vote_accepted(self, uuid: str, event: str) -> None:
        """Handles an orchestrator's vote that was accepted."""
        self._of(uuid).vote_accepted(event, trio.current_time())
        self._note(uuid)

    def noticed(self, uuid: str, event: str, called_off_at: float) -> None:
        """Handles an orchestrator's notice; see :meth:`Ownership.noticed`."""
        self._of(uuid).noticed(event, called_off_at)
        self._note(uuid)

    def end_noticed(self, uuid: str) -> None:
        """Handles an orchestrator's end notice."""
        self._of(uuid).end_noticed()
        self._note(uuid)

    def act_begins(self, uuid: str, action: str) -> None:
        """Handles the begin of an operator's action; see :meth:`Ownership.act_begins`."""
        self._of(uuid).act_begins(action)
        self._note(uuid)

    def act_ended(self, uuid: str) -> None:
        """Handles the end of an operator's action."""
        self._of(uuid).act_ended()
        self._note(uuid)

    def command_begins(self, uuid: str, action: str) -> None:
        """Handles the start of a corrective command."""
        self._of(uuid).command_begins(action)
        self._note(uuid)

    def command_ended(self, uuid: str) -> None:
        """Handles the end of a corrective command."""
        self._of(uuid).command_ended()
        self._note(uuid)

    # -- waiting ----------------------------------------------------------------------------

    async def until_free(self, uuid: str) -> None:
        """Waits until nobody owns an instance. A checkpoint."""
        await trio.lowlevel.checkpoint()
        while not self.of(uuid).free:
            await self._next_change(uuid)

    async def until_no_command(self, uuid: str) -> None:
        """Waits until no corrective command runs for an instance. A checkpoint."""
        await trio.lowlevel.checkpoint()
        while self.of(uuid).command_runs:
            await self._next_change(uuid)

    async def _next_change(self, uuid: str) -> None:
        await self._changed.setdefault(uuid, trio.Event()).wait()

    def _of(self, uuid: str) -> Ownership:
        return self._owned.setdefault(uuid, Ownership())

    def _note(self, uuid: str) -> None:
        ownership = self._owned[uuid]
        if ownership.free:
            del self._owned[uuid]
        elif not math.isinf(ownership.lapses_at) and uuid not in self._lapsing:
            self._lapsing.add(uuid)
            self._nursery.start_soon(self._lapse, uuid)
        for listener in self._on_change:
            listener(uuid)
        if (changed := self._changed.pop(uuid, None)) is not None:
            changed.set()

    async def _lapse(self, uuid: str) -> None:
        """Ends an action of which its orchestrator says no more; a later step puts that off."""
        try:
            while not math.isinf(at := self.of(uuid).lapses_at):
                # A step that has arrived and is not read yet owns the instance anew: in the agent's
                # link, which is a source, or at the control socket, whose tasks run meanwhile.
                await sleep_until_on_time(at, self._guard, at_most_s=CALM_S, sources=self._sources)
                if (ownership := self._owned.get(uuid)) is not None:
                    ownership.lapse(trio.current_time())
                    if math.isinf(ownership.lapses_at):
                        self._note(uuid)
        finally:
            self._lapsing.discard(uuid)
