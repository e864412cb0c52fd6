"""Makes observations of what real daemons say: events of hosts, and histories."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, Final

from chaos.records import Records
from hbtrio.simulate.histories import DRAIN
from hbtrio.simulate.observations import AGENT, Decided, Recorded, Reported
from hbtrio.simulate.truth import SILENT_KINDS

#: Finds the request of an instance's vote (True) or notice on an event at a time; "" if there was
#: none.
FindRequest = Callable[[str, str, bool, float], str]

#: By how much later than the host decides its operator may learn that it has asked, in seconds.
LEARNS_S: Final = 1.0

#: How the names begin for whom a host asks without that anybody waits for the verdict.
UNWAITED: Final = (DRAIN, "plan ")

_ROUNDS: Final = """\
SELECT time, kept_at, kind, uuid, event, result, command_id, who FROM history
WHERE kind IN ('vote', 'notice') AND reason NOT LIKE 'refused: %' ORDER BY id
"""


class Sayings:
    """Understands what daemons say.

    Args:
        records: takes in what it means.
        names: the instances' names by uuid.
        find: finds the last request until a time.
        commands: the requests by the ids that the agent has given them.
    """

    def __init__(
        self,
        records: Records,
        names: Mapping[str, str],
        find: FindRequest,
        commands: Mapping[str, str],
    ) -> None:
        self._records = records
        self._names = names
        self._find = find
        self._commands = commands
        #: The requests of which a decision is known.
        self._concluded: set[str] = set()
        #: Pairs of instance and host of which the host has last said that it heartbeats.
        self.heartbeating: set[tuple[str, str]] = set()

    def event(self, host: str, event: Mapping[str, Any]) -> None:
        """Takes in a line of a host's events file."""
        at_s = self._records.clock.at_iso(event["time"])
        kind, uuid = event["kind"], event["uuid"]
        if kind in ("vote", "notice"):
            # Who has asked for any other is in the history only: it may have been a drain.
            if request := self._commands.get(event.get("command_id", "")):
                self._records.observe(Decided(at_s, host, request, event["result"]))
        else:
            name = self._names.get(uuid, uuid)
            if kind == "heartbeating":
                self.heartbeating.add((name, host))
            elif kind in SILENT_KINDS:
                self.heartbeating.discard((name, host))
            self._records.observe(Reported(at_s, host, name, kind, event.get("cause", "")))

    def history(self, store: Path, *, decides: str = "") -> None:
        """Takes in the votes and notices of a history, after its daemon has ended.

        Args:
            store: the database.
            decides: the process whose decisions these are, too; "" if they are elsewhere.
        """
        with closing(sqlite3.connect(f"file:{store}?mode=ro", uri=True)) as db:
            rows = db.execute(_ROUNDS).fetchall()
        clock = self._records.clock
        for decided_at, kept_at, kind, uuid, event, result, command_id, who in rows:
            if not who and decides == AGENT:
                continue  # of an action that it has had performed: it asked for no vote
            at_s = clock.at(decided_at)
            request = self._request(command_id, uuid, event, kind, at_s)
            if request and not who.startswith(UNWAITED):
                if decides:
                    self._records.observe(Decided(at_s, decides, request, result))
                self._records.observe(Recorded(clock.at(kept_at), request, result))

    def _request(self, command_id: str, uuid: str, event: str, kind: str, at_s: float) -> str:
        if command_id in self._commands:
            return self._commands[command_id]
        is_vote = kind == "vote"
        request = self._find(uuid, event, is_vote, at_s)
        if not request or request in self._concluded:
            request = self._find(uuid, event, is_vote, at_s + LEARNS_S)
        self._concluded.add(request)
        return request
