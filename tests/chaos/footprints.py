"""Observes what the daemons hold of the machine, and what they leave behind."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

import attrs
import trio

from hbtrio.simulate.observations import Leftover, Measured, Resource
from support.real_processes import descriptors, resident_mib

if TYPE_CHECKING:
    from chaos.fleet import ChaosFleet

#: How long after its start a process is warm, and how often it is looked at then, in seconds.
WARM_S: Final = 20.0

#: How many descriptors it may have more than when it was warm: for those who ask it, for what it
#: runs, and for links and channels that come again before the old ones are given up.
MORE_DESCRIPTORS: Final = 24

#: What each daemon has at least when it is warm. One that was started in a paused VM, or stopped
#: while Python started, has less after any time.
LEAST_DESCRIPTORS: Final = 16
LEAST_MIB: Final = 32.0

#: How much more memory it may have: Python's own, for what is done for the first time.
MORE_MIB: Final = 16.0


@attrs.frozen
class Footprint:
    """What a process holds."""

    descriptors: int
    mib: float

    @classmethod
    def of(cls, pid: int) -> Footprint:
        """Reads it.

        Raises:
            OSError: the process is gone.
        """
        return cls(descriptors(pid), resident_mib(pid))

    @property
    def bound(self) -> Footprint:
        """What a process may hold that has held this when it was warm."""
        return Footprint(
            max(self.descriptors, LEAST_DESCRIPTORS) + MORE_DESCRIPTORS,
            round(max(self.mib, LEAST_MIB) + MORE_MIB, 1),
        )


class Footprints:
    """Those of all daemons of a fleet.

    Args:
        fleet: has the daemons.
    """

    def __init__(self, fleet: ChaosFleet) -> None:
        self._fleet = fleet
        self._records = fleet.records
        self._since: dict[int, float] = {}
        self._warm: dict[int, Footprint] = {}

    async def watch(self) -> None:
        """Looks now and then, until cancelled."""
        while True:
            self.look()
            await trio.sleep(WARM_S / 4)

    def look(self) -> None:
        """Observes what each process that is warm holds, beside what it held at first."""
        now = self._fleet.now()
        for name, pid, _ in self._fleet.pids():
            since_s = self._since.setdefault(pid, now)
            if now - since_s >= WARM_S:
                try:
                    held = Footprint.of(pid)
                except (OSError, ValueError):
                    continue  # it ends just now
                most = self._warm.setdefault(pid, held).bound
                self._observe(name, "descriptors", held.descriptors, most.descriptors)
                self._observe(name, "MiB", round(held.mib, 1), most.mib)

    def _observe(self, name: str, what: str, value: float, bound: float) -> None:
        self._records.observe(Measured(self._fleet.now(), name, what, value, bound))

    def look_behind(self, directory: Path, over_s: float) -> None:
        """Observes the processes that are still there although all daemons ended at ``over_s``."""
        for pid in below(directory):
            name = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
            self._records.observe(
                Leftover(self._fleet.now(), "fleet", Resource.CHILD, f"{pid} {name}", over_s)
            )


def below(directory: Path) -> list[int]:
    """Returns the processes whose current directory is below."""
    found = []
    for pid in sorted(int(name) for name in os.listdir("/proc") if name.isdigit()):
        try:
            place = Path(os.readlink(f"/proc/{pid}/cwd"))
        except OSError:
            continue  # not ours, or it has just ended
        if place.is_relative_to(directory) and place != Path("/"):
            found.append(pid)
    return found
