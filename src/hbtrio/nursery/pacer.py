"""Wakes up for all channels in one task, on a grid of 10 ms slots.

One sleeping task per channel costs three to eight times as much per heartbeat, most of it in timers
and in wake-ups for a single channel (measured; see docs/design.md, pacing). So beats are kept on a
grid, and a new channel's beats are put into a slot that others use already: with few instances the
wake-ups cost more than the beats.
"""

from __future__ import annotations

import heapq
import math
from typing import Final, NoReturn, Protocol

import trio

from hbtrio.policy.histogram import Histogram

SLOT_S: Final = 0.01

#: Channels that :meth:`Pacer.shared_slot` puts into one slot: enough to make wake-ups rare, few
#: enough to keep the work of a slot below a millisecond or two.
SHARED: Final = 64


class Paced(Protocol):
    """Something with work to do at set times, such as a channel."""

    #: The slot it is in, or None. Written by the pacer only.
    slot: int | None

    def on_time(self, now: float) -> float:
        """Does what is due and returns the time of the next work, infinity for never.

        Must neither block nor raise: all channels share this task.
        """


class Pacer:
    """Calls :meth:`Paced.on_time` within one slot after the scheduled time, never before it."""

    def __init__(self) -> None:
        self._slots: dict[int, dict[Paced, None]] = {}
        #: A heap of slots, including slots that have become empty since.
        self._order: list[int] = []
        self._sleep = trio.CancelScope()
        #: The largest delay of a wake-up after its slot's time, in seconds, for status.
        self.worst_lateness_s = 0.0
        #: All of them, for metrics.
        self.lateness = Histogram()

    def schedule(self, paced: Paced, due: float) -> None:
        """Moves ``paced`` into the slot of ``due``.

        Args:
            paced: what to call.
            due: on trio's clock; infinity removes ``paced`` from the schedule.
        """
        slot = None if math.isinf(due) else math.ceil(due / SLOT_S - 1e-6)
        if slot == paced.slot:
            return
        if paced.slot is not None:
            self._leave(paced, paced.slot)
        paced.slot = slot
        if slot is None:
            return
        entries = self._slots.get(slot)
        if entries is None:
            self._slots[slot] = {paced: None}
            heapq.heappush(self._order, slot)
            self._sleep.deadline = min(self._sleep.deadline, slot * SLOT_S)
        else:
            entries[paced] = None

    def _leave(self, paced: Paced, slot: int) -> None:
        # Not left for the slot to clear up: a tenant sets the interval, so the slot may be weeks
        # away, and may set it often.
        entries = self._slots.get(slot)
        if entries is None:
            return  # run() is making this slot's calls
        entries.pop(paced, None)
        if not entries:
            del self._slots[slot]
            if len(self._order) > 2 * len(self._slots) + SHARED:
                self._order = list(self._slots)
                heapq.heapify(self._order)

    def shared_slot(self, after: float, until: float) -> float | None:
        """Returns the time of the fullest slot with room in (after, until], or None."""
        low, high = math.floor(after / SLOT_S) + 1, math.floor(until / SLOT_S)
        shared = [
            (len(entries), slot)
            for slot, entries in self._slots.items()
            if low <= slot <= high and len(entries) < SHARED
        ]
        return max(shared)[1] * SLOT_S if shared else None

    async def run(self) -> NoReturn:
        """Wakes up for each slot that has entries, until cancelled."""
        while True:
            with trio.CancelScope() as self._sleep:
                self._sleep.deadline = self._order[0] * SLOT_S if self._order else math.inf
                await trio.sleep_forever()
            woken = trio.current_time()
            next_slot_at = (math.floor(woken / SLOT_S + 1e-6) + 1) * SLOT_S
            # Only slots that are due by now, and no channel twice: if the work took longer than a
            # slot, or a due time lay in the past, this loop would never end and starve the readers.
            while self._order and self._order[0] * SLOT_S <= woken:
                slot = heapq.heappop(self._order)
                now = trio.current_time()
                late_s = now - slot * SLOT_S
                self.worst_lateness_s = max(self.worst_lateness_s, late_s)
                self.lateness.add(late_s)
                for paced in self._slots.pop(slot, ()):
                    if paced.slot == slot:
                        paced.slot = None
                        self.schedule(paced, max(paced.on_time(now), next_slot_at))
            if self._order and self._order[0] * SLOT_S <= trio.current_time():
                # Let the readers run once before the slots that came due meanwhile.
                await trio.lowlevel.checkpoint()
