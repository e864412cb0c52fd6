"""One task that wakes up for all channels: a ring of 10 ms slots.

A task per channel with a sleep of its own costs three to eight times as much per heartbeat, most of
it in timers and in wake-ups for one channel each (measured; see docs/design.md, pacing). So beats
are kept on a grid, and a new channel's beats are put where others are already: with few VMs the
wake-ups dominate, not the beats.
"""

from __future__ import annotations

import heapq
import math
from typing import Final, NoReturn, Protocol

import trio

SLOT_S: Final = 0.01

#: How many share a slot by choice: enough to make wake-ups rare, few enough to stay well below a
#: millisecond or two of work.
SHARED: Final = 64


class Paced(Protocol):
    """Something with work to do at set times."""

    #: The slot it is in, or None; the pacer's own note.
    slot: int | None

    def on_time(self, now: float) -> float:
        """Does what is due and returns when there will be more, infinity for never.

        It must neither block nor raise: all channels share this task.
        """


class Pacer:
    """Calls :meth:`Paced.on_time` within one slot after the time asked for, never before it."""

    def __init__(self) -> None:
        self._slots: dict[int, dict[Paced, None]] = {}
        #: A heap of slots, those among them that everybody has left since.
        self._order: list[int] = []
        self._sleep = trio.CancelScope()
        #: The latest wake-up after its slot's time, in seconds, for status and metrics.
        self.worst_lateness_s = 0.0

    def schedule(self, paced: Paced, due: float) -> None:
        """Puts ``paced`` into the slot of ``due``, out of the one it was in.

        Args:
            paced: what to call.
            due: on trio's clock; infinity takes it out.
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
        # At once: the slot may be weeks away, for a tenant says when, and may say it often.
        entries = self._slots.get(slot)
        if entries is None:
            return  # its calls are being made
        entries.pop(paced, None)
        if not entries:
            del self._slots[slot]
            if len(self._order) > 2 * len(self._slots) + SHARED:
                self._order = list(self._slots)
                heapq.heapify(self._order)

    def shared_slot(self, after: float, until: float) -> float | None:
        """The time of the fullest slot with room in (after, until], or None if there is none."""
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
            # Only what is due by now, and nobody twice: where the work takes longer than a slot, or
            # a time lies in the past, there would be no end to it, and no reader would ever run.
            while self._order and self._order[0] * SLOT_S <= woken:
                slot = heapq.heappop(self._order)
                now = trio.current_time()
                self.worst_lateness_s = max(self.worst_lateness_s, now - slot * SLOT_S)
                for paced in self._slots.pop(slot, ()):
                    if paced.slot == slot:
                        paced.slot = None
                        self.schedule(paced, max(paced.on_time(now), next_slot_at))
            # What came due meanwhile waits for one pass of the readers.
            await trio.lowlevel.checkpoint()
