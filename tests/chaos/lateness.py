"""Measures how late the machine lets processes run, so that a bound can be as much later, no more.

A canary sleeps for a moment again and again, and notes how late it was woken. Of each daemon the
kernel counts how long it was ready to run and waited for a processor (``/proc/PID/schedstat``); a
process that is stopped is not ready. So a stop or a fault of a daemon is never taken for lateness.
"""

from __future__ import annotations

import bisect
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import attrs
import trio

from chaos.records import Records
from hbtrio.simulate.observations import Began, Condition, Over

#: The canary's sleep, and how often the daemons' waits are read, in seconds.
NAP_S: Final = 0.05
LOOK_S: Final = 0.25

#: What is noted at least, in seconds.
LEAST_S: Final = 0.005

#: A guest that has waited for this share of a look is starved: nobody can expect its answer.
STARVED: Final = 0.5

#: An answer passes a guest, a host, the agent and the VIM; each may be as late as was measured.
HOPS: Final = 4

#: For how long before something happened a lateness may have delayed it, in seconds: as long as a
#: vote lasts.
BEFORE_S: Final = 15.0


@attrs.frozen
class Late:
    """Somebody ran so much later than it could have, in seconds."""

    at_s: float
    who: str
    late_s: float


class Lateness:
    """What was measured in a run."""

    def __init__(self) -> None:
        self.measured: list[Late] = []

    def note(self, late: Late) -> None:
        """Takes in a measurement; times must not go back."""
        if late.late_s >= LEAST_S:
            self.measured.append(late)

    def around(self, at_s: float) -> float:
        """Returns how late something at this time may have been, in seconds."""
        first = bisect.bisect_left(self.measured, at_s - BEFORE_S, key=lambda late: late.at_s)
        last = bisect.bisect_right(self.measured, at_s + NAP_S, key=lambda late: late.at_s)
        return HOPS * max((late.late_s for late in self.measured[first:last]), default=0.0)

    @property
    def worst_s(self) -> float:
        """The largest lateness, in seconds."""
        return max((late.late_s for late in self.measured), default=0.0)

    def share_above(self, late_s: float) -> float:
        """The share of the canary's naps that ended that late."""
        naps = [late.late_s for late in self.measured if late.who == CANARY]
        return sum(nap >= late_s for nap in naps) / max(1, self.naps)

    naps = 0


CANARY: Final = "canary"


async def run_canary(lateness: Lateness, now: Callable[[], float]) -> None:
    """Measures this process until cancelled."""
    while True:
        due_s = trio.current_time() + NAP_S
        await trio.sleep_until(due_s)
        lateness.naps += 1
        lateness.note(Late(now(), CANARY, trio.current_time() - due_s))


async def watch_waits(
    lateness: Lateness, records: Records, pids: Callable[[], Iterator[tuple[str, int, bool]]]
) -> None:
    """Measures the daemons until cancelled, and observes which guests are starved.

    Args:
        lateness: takes in what is measured.
        records: has the time.
        pids: returns the name and process of each daemon, and whether it is a guest's.
    """
    before: dict[int, int] = {}
    starved: set[str] = set()
    while True:
        since_s = records.clock.now()
        await trio.sleep(LOOK_S)
        now = records.clock.now()
        waits: dict[int, int] = {}
        starving: set[str] = set()
        for name, pid, is_guest in pids():
            wait_ns = waited_ns(pid)
            waits[pid] = wait_ns
            late_s = (wait_ns - before.get(pid, wait_ns)) / 1e9
            lateness.note(Late(now, name, late_s))
            if is_guest and late_s >= STARVED * LOOK_S:
                starving.add(name)
        before = waits
        for name in sorted(starving - starved):
            records.observe(Began(since_s, Condition.STARVED, name))
        for name in sorted(starved - starving):
            records.observe(Over(now, Condition.STARVED, name))
        starved = starving


def waited_ns(pid: int) -> int:
    """Returns for how long a process has been ready and waited; 0 if it is gone."""
    try:
        return int(Path(f"/proc/{pid}/schedstat").read_text().split()[1])
    except OSError:
        return 0
