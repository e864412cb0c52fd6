"""Keeps the one virtual clock of a simulation and everything that is going to happen on it."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable
from heapq import heapify, heappop, heappush
from typing import Final

#: What a step of a process costs at least, and by how much more, in seconds. If nothing took time,
#: everything would happen at the same instant, and few of the possible orders would be seen.
_PASS_S: Final = 10e-6
_PASS_RANGE_S: Final = 90e-6
_TASK_STEP_S: Final = 5e-6
_TASK_STEP_RANGE_S: Final = 45e-6
_WAKE_S: Final = 5e-6
_WAKE_RANGE_S: Final = 45e-6

#: How many entries are kept at least before the cancelled ones are removed.
_MANY: Final = 1000


class Entry:
    """Something that is going to happen; see :meth:`Timeline.at`."""

    __slots__ = ("action", "time")

    def __init__(self, time: float, action: Callable[[], object]) -> None:
        #: When, in seconds since the start of the simulation.
        self.time = time
        self.action: Callable[[], object] | None = action

    def cancel(self) -> None:
        """Makes it not happen; without effect if it has happened."""
        self.action = None


class Timeline:
    """Runs actions in the order of their times; those of one time in a seeded order.

    Args:
        seed: of all random streams; the same seed gives the same simulation.
    """

    def __init__(self, seed: int | str) -> None:
        self.seed = seed
        #: Seconds since the start of the simulation.
        self.now = 0.0
        #: Actions done so far.
        self.done = 0
        self._entries: list[tuple[float, float, int, Entry]] = []
        self._numbers = itertools.count()
        self._rank = self.random("order").random
        self._stopped = False
        #: Until when :meth:`run` runs.
        self._until = 0.0
        #: How many entries there may be before the cancelled ones are removed.
        self._most = _MANY

    @property
    def planned(self) -> int:
        """How many entries there are; at most half of them, or 1000, are cancelled ones."""
        return len(self._entries)

    def random(self, name: str) -> random.Random:
        """Makes the random stream of a component.

        Each component has its own, so that one that draws more leaves the others as they were.

        Args:
            name: of the component; the same name gives the same numbers again.
        """
        return random.Random(f"{self.seed}/{name}")

    def at(self, time: float, action: Callable[[], object]) -> Entry:
        """Plans an action.

        Args:
            time: in seconds since the start of the simulation; a past time is now.
            action: must not step a simulated process that is being stepped.

        Raises:
            ValueError: ``time`` is not a number.
        """
        if math.isnan(time):
            raise ValueError("not a time: nan")
        if time < self.now:  # max() takes as long as the rest
            time = self.now
        entries = self._entries
        if len(entries) >= self._most:
            self._remove_cancelled()
        entry = Entry(time, action)
        heappush(entries, (time, self._rank(), next(self._numbers), entry))
        return entry

    def _remove_cancelled(self) -> None:
        # In place, because run() holds the list.
        self._entries[:] = [each for each in self._entries if each[3].action is not None]
        heapify(self._entries)
        self._most = max(_MANY, 2 * len(self._entries))

    def after(self, delay_s: float, action: Callable[[], object]) -> Entry:
        """Plans an action ``delay_s`` seconds from now; see :meth:`at`."""
        return self.at(self.now + delay_s, action)

    def advance(self, time: float) -> bool:
        """Moves the clock on within an action, if nothing else happens until then.

        As if the rest of the action were planned by :meth:`at`, at a fraction of the cost.

        Args:
            time: in seconds since the start of the simulation, not before now.

        Returns:
            False if the action has to plan its rest instead: something else comes first, or at the
            same time, or :meth:`run` ends before.
        """
        entries = self._entries
        if time > self._until or self._stopped or (entries and entries[0][0] <= time):
            return False
        self.now = time
        self.done += 1
        return True

    def stop(self) -> None:
        """Makes :meth:`run` return after the current action."""
        self._stopped = True

    def run(self, until: float) -> None:
        """Runs everything that is due until a time, and sets the clock to it.

        Args:
            until: in seconds since the start of the simulation, inclusive.

        Exceptions of an action are raised; the rest can be run by another call. After
        :meth:`stop` the clock stays at the time of the last action.
        """
        self._stopped = False
        self._until = until
        entries = self._entries
        while entries and entries[0][0] <= until and not self._stopped:
            entry = heappop(entries)[3]
            action = entry.action
            if action is not None:
                entry.action = None
                self.now = entry.time
                self.done += 1
                action()
        if not self._stopped:
            self.now = max(self.now, until)


class Costs:
    """Draws how much time the steps of a process take, in seconds.

    Args:
        stream: the process's own random stream.
    """

    def __init__(self, stream: random.Random) -> None:
        self._draw = stream.random

    def pass_s(self) -> float:
        """Of a pass of the loop, 10 to 100 microseconds."""
        return _PASS_S + _PASS_RANGE_S * self._draw()

    def task_step_s(self) -> float:
        """Of a task step, 5 to 50 microseconds."""
        return _TASK_STEP_S + _TASK_STEP_RANGE_S * self._draw()

    def wake_s(self) -> float:
        """From an event of the kernel to the pass that handles it, 5 to 50 microseconds."""
        return _WAKE_S + _WAKE_RANGE_S * self._draw()
