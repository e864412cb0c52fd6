"""Observes what daemons record in the histories on their disks.

Each decision of the agent is in its history once it counts: what is not there was never decided.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from hbtrio.simulate.askers import Said, asks_agent
from hbtrio.simulate.disk import Disk
from hbtrio.simulate.observations import Decided, Recorded
from hbtrio.simulate.places import SPREAD, Stage

#: Finds the request of a vote or notice of which a daemon says how it ended; "" if there was none.
FindRequest = Callable[[Said], str]

#: How the name of a drain begins, which asks all before it begins; nobody waits for the answers.
DRAIN: Final = "drain "

#: How the reason of a vote begins whose reject does not stand (``[veto]``).
OVERRIDDEN: Final = "overridden after "

_ROWS: Final = """
    SELECT id, time, kind, uuid, event, result, reason, who, command_id
    FROM history WHERE id > ? ORDER BY id
"""


class HistoryReader:
    """Observes what is new in the history, after each commit.

    Args:
        stage: what all parts use.
        disk: has the history.
        find: finds requests.
        decides: the process whose decisions for those who ask it are observed here too; "" if they
            are elsewhere.
    """

    def __init__(self, stage: Stage, disk: Disk, find: FindRequest, *, decides: str = "") -> None:
        self._stage = stage
        self._disk = disk
        self._find = find
        self._decides = decides
        self._last = 0
        disk.on_commit = self.read

    def read(self) -> None:
        """Observes the new rows."""
        for row in self._disk.db.execute(_ROWS, (self._last,)).fetchall():
            number, time_s, kind, uuid, event, result, reason, who, command_id = row
            self._last = number
            is_round = kind in ("vote", "notice") and not reason.startswith("refused: ")
            if not is_round or who.startswith(DRAIN):
                continue
            if request := self._find(Said(uuid, event, kind == "vote", time_s, who, command_id)):
                now, overridden = self._stage.timeline.now, reason.startswith(OVERRIDDEN)
                if self._decides and asks_agent(who):
                    decided = Decided(now, self._decides, request, result, overridden)
                    self._stage.observe(decided)
                by_group = reason.startswith(f"group {SPREAD}: ")
                self._stage.observe(Recorded(now, request, result, overridden, by_group))

    def restart(self) -> None:
        """Goes on after a power cut, which may have taken rows away."""
        (self._last,) = self._disk.db.execute("SELECT coalesce(max(id), 0) FROM history").fetchone()
