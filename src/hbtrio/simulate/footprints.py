"""Observes what the daemons hold: tasks, descriptors and children, and what outlives its end.

What a daemon holds must follow from how many VMs and peers there are, and not from how long it has
run or how much has gone wrong: each vote, link and command takes something and gives it back.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Final

import attrs
import trio

from hbtrio.simulate.connection import End
from hbtrio.simulate.disk import Disk
from hbtrio.simulate.observations import Leftover, Measured, Resource
from hbtrio.simulate.places import Stage
from hbtrio.simulate.process import Process

#: How often is looked, in seconds.
LOOK_S: Final = 30.0

#: What a daemon may hold: for itself, and for each VM of the fleet. About twice what fleets of 4
#: and of 20 VMs hold: each may have votes, an action and connections that are being given up.
TASKS: Final = (56, 8)
HELD: Final = (12, 3)
OF_A_NAME: Final = (16, 2)
OPEN: Final = (8, 4)

#: What the agent's store has to bring to an end; what is over is kept there for a while.
_OPEN: Final = """\
SELECT (SELECT count(*) FROM rounds WHERE answered_at IS NULL)
     + (SELECT count(*) FROM outbox WHERE done_at IS NULL)
"""


@attrs.frozen
class Looked:
    """A daemon that is looked at.

    Args:
        name: of whom.
        process: returns its process, or None.
        store: its disk, if it has an agent's store.
    """

    name: str
    process: Callable[[], Process | None]
    store: Disk | None = None


class Footprints:
    """Those of the daemons of a fleet.

    Args:
        stage: what all parts use.
        looked: the daemons.
        vms: how many VMs the fleet has.
    """

    def __init__(self, stage: Stage, looked: Iterable[Looked], vms: int) -> None:
        self._stage = stage
        self._looked = list(looked)
        self._vms = vms
        #: The ends whose peers were gone when it was last looked.
        self._lonely: frozenset[End] = frozenset()

    def look(self) -> None:
        """Observes what each daemon holds that runs, and what it still holds of peers long gone."""
        lonely: set[End] = set()
        now = self._stage.timeline.now
        for one in self._looked:
            process = one.process()
            if process is None or not process.alive:
                continue
            tasks = process.call(tasks_by_name)
            self._measured(one.name, "tasks", tasks.total(), TASKS)
            self._measured(one.name, "descriptors and children", len(process.held), HELD)
            if one.store is not None:
                [(number,)] = one.store.db.execute(_OPEN)
                self._measured(one.name, "open rounds and deliveries", number, OPEN)
            if process.frozen:
                continue
            ends = [held for held in process.held if isinstance(held, End) and held.peer_gone]
            lonely.update(ends)
            for end in ends:
                if end in self._lonely:
                    left = Leftover(now, one.name, Resource.DESCRIPTOR, end.name, now - LOOK_S)
                    self._stage.observe(left)
        self._lonely = frozenset(lonely)

    def look_again(self) -> None:
        """Observes which tasks outlive what they were for, when nothing is in progress any more."""
        now = self._stage.timeline.now
        for one in self._looked:
            process = one.process()
            if process is not None and process.alive:
                for task, number in process.call(tasks_by_name).items():
                    if number > _most(OF_A_NAME, self._vms):
                        what = f"{task}, {number} times"
                        self._stage.observe(Leftover(now, one.name, Resource.TASK, what, now))

    def _measured(self, name: str, what: str, value: int, bound: tuple[int, int]) -> None:
        most = _most(bound, self._vms)
        self._stage.observe(Measured(self._stage.timeline.now, name, what, value, most))


def leftovers(name: str, process: Process, now_s: float) -> Iterator[Leftover]:
    """Yields what a process that has just ended by itself had not given back.

    Args:
        name: of the daemon.
        process: its process.
        now_s: the time of the run, in seconds.
    """
    for held in process.left:
        if held.resource is not None:
            what = type(held).__name__.strip("_")
            yield Leftover(now_s, name, held.resource, what, now_s)


def tasks_by_name() -> Counter[str]:
    """Counts the tasks of the present run of trio."""
    root = trio.lowlevel.current_root_task()
    return Counter() if root is None else Counter(_below(root))


def _below(task: trio.lowlevel.Task) -> Iterator[str]:
    yield task.name
    for nursery in task.child_nurseries:
        for child in nursery.child_tasks:
            yield from _below(child)


def _most(bound: tuple[int, int], vms: int) -> int:
    return bound[0] + bound[1] * vms
