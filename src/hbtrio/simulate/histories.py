"""Observes a fleet by the histories that its daemons keep on their disks.

Each decision of a daemon is in its history once it counts: what is not there was never decided.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from hbtrio.simulate.disk import Disk
from hbtrio.simulate.observations import (
    AGENT,
    Decided,
    Observation,
    Recorded,
    Reported,
)

#: Finds the request of an instance's vote (True) or notice on an event; "" if there was none.
FindRequest = Callable[[str, str, bool], str]

_ROWS = (
    "SELECT id, kind, uuid, event, result, reason, who, command_id FROM history WHERE id > ?"
    " ORDER BY id"
)


class HistoryReader:
    """Observes what is new in one daemon's history, after each commit.

    Args:
        disk: has the history.
        process: the daemon: a host's name, or ``AGENT``.
        names: the instances' names by uuid.
        find: finds requests.
        observe: called with each observation.
        now: the time.
    """

    def __init__(
        self,
        disk: Disk,
        process: str,
        names: Mapping[str, str],
        find: FindRequest,
        observe: Callable[[Observation], None],
        now: Callable[[], float],
    ) -> None:
        self._disk = disk
        self._process = process
        self._names = names
        self._find = find
        self._observe = observe
        self._now = now
        self._last = 0
        disk.on_commit = self.read

    def read(self) -> None:
        """Observes the new rows."""
        for row in self._disk.db.execute(_ROWS, (self._last,)).fetchall():
            self._last = row[0]
            self._see(*row[1:])

    def restart(self) -> None:
        """Goes on after a power cut, which may have taken rows away."""
        (last,) = self._disk.db.execute("SELECT coalesce(max(id), 0) FROM history").fetchone()
        self._last = last

    def _see(
        self, kind: str, uuid: str, event: str, result: str, reason: str, who: str, command: str
    ) -> None:
        name = self._names.get(uuid, uuid)
        now = self._now()
        if kind in ("vote", "notice"):
            request = self._find(uuid, event, kind == "vote")
            if request and not reason.startswith("refused: "):
                self._observe(Decided(now, self._process, request, result))
                if self._process == AGENT:
                    self._observe(Recorded(now, request, result))
        elif self._process != AGENT:
            cause = reason.partition(":")[0] if kind == "not-acted" else ""
            self._observe(Reported(now, self._process, name, kind, cause))
