"""Remembers over restarts of a host which members of groups the VIM is about to take down.

Of a notice the instance's state tells the next run of the host. Of a vote that was accepted nothing
does: until the notice, another member's vote would be accepted, too.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import attrs
import trio

from hbtrio.nursery.host.memory import HostMemory
from hbtrio.store.host_records import HoldRecord
from hbtrio.wire.vocabulary import Event

#: The kind of the holds that remember it; each ends when its place lapses.
KIND: Final = "announced"


class AnnouncedPlaces:
    """The places that the VIM's events have.

    Args:
        memory: remembers them.
    """

    def __init__(self, memory: HostMemory) -> None:
        self._memory = memory
        self._stored: set[str] = set()
        #: Until when those of the run before have their places, on trio's clock.
        self._until: dict[str, float] = {}

    def remember(self, uuid: str, event: str, lapses_at: float) -> None:
        """Remembers that an event has an instance's place until it lapses, on trio's clock."""
        moment, left_s = self._memory.moment, lapses_at - trio.current_time()
        ends = attrs.evolve(moment, boot_s=moment.boot_s + left_s, epoch_s=moment.epoch_s + left_s)
        self._memory.hold(HoldRecord(KIND, uuid, event, moment.epoch_s, ends=ends))
        self._stored.add(uuid)
        self._until.pop(uuid, None)

    def forget(self, uuid: str) -> None:
        """Forgets the place of an instance, if it has one."""
        if uuid in self._stored:
            self._stored.discard(uuid)
            self._until.pop(uuid, None)
            self._memory.release(KIND, uuid)

    def recall(self, holds: Iterable[HoldRecord]) -> dict[str, Event]:
        """Returns the events that an earlier run of the host has left, by instance."""
        found = {}
        for hold in holds:
            if hold.kind != KIND:
                continue
            left_s = hold.left_s(self._memory.moment)
            self._stored.add(hold.uuid)
            if left_s > 0 and hold.why in set(Event):
                self._until[hold.uuid] = trio.current_time() + left_s
                found[hold.uuid] = Event(hold.why)
            else:
                self.forget(hold.uuid)
        return found

    def lapsed(self) -> tuple[str, ...]:
        """Forgets those of the run before whose time is over, and returns them."""
        now = trio.current_time()
        over = tuple(uuid for uuid, until in self._until.items() if until <= now)
        for uuid in over:
            self.forget(uuid)
        return over
