"""``hbtrio ctl vote --all``: asks many instances whether an event may happen, and does nothing."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Final

import attrs
import msgspec
import trio

from hbtrio.cli.ctl.ranking import Selection, place_of, shown_name
from hbtrio.cli.ctl.screen import Screen
from hbtrio.cli.ctl.table import column, counted, uuid_length, write_table
from hbtrio.cli.ctl.watch import MARGIN_S
from hbtrio.client.client import CtlClient
from hbtrio.errors import ExitStatus, UserError
from hbtrio.wire.operator import (
    FleetInstanceLine,
    FleetStatus,
    InstanceLine,
    ProgressLine,
    VoteRequest,
)

#: Instances that are asked at once: the vote of each may take minutes.
PARALLEL: Final = 16

#: The reason of a vote that nobody answered, which counts as consent.
_UNANSWERED: Final = "no answer within "

#: The answers, objections first, with their colours.
ANSWERS: Final = {
    "rejected": "bad",
    "not asked": "warn",
    "failed": "warn",
    "no answer": "warn",
    "accepted": "good",
}


@attrs.define
class Row:
    """What one instance answered.

    Args:
        instance: as the status has it.
        answer: a key of ``ANSWERS``.
        reason: why; "" if none was given.
        voter: who gave it, if it objects and that is known.
    """

    instance: InstanceLine | FleetInstanceLine
    answer: str = "not asked"
    reason: str = ""
    voter: str = ""

    def as_json(self) -> dict[str, str]:
        """The row as an object of JSON."""
        one = self.instance
        names = {"uuid": one.uuid, "name": shown_name(one)}
        host = {"hostname": one.hostname} if isinstance(one, FleetInstanceLine) else {}
        words = {"answer": self.answer, "reason": self.reason, "voter": self.voter}
        return names | host | words


class Survey:
    """One question to many instances.

    Args:
        client: of the host or agent.
        screen: where to show it.
        event: which event may happen.
    """

    def __init__(self, client: CtlClient, screen: Screen, event: str) -> None:
        self._client = client
        self._screen = screen
        self._event = event
        self._limit = trio.CapacityLimiter(PARALLEL)
        self._done = 0

    async def ask(self, instances: Sequence[InstanceLine | FleetInstanceLine]) -> list[Row]:
        """Asks all, and returns their answers, objections first.

        Raises:
            UserError: the daemon can't be reached.
        """
        rows = [Row(one) for one in instances]
        try:
            async with trio.open_nursery() as nursery:
                for row in rows:
                    nursery.start_soon(self._ask, row, len(rows))
        finally:
            self._screen.settle()
        answers = list(ANSWERS)
        return sorted(rows, key=lambda row: (answers.index(row.answer), place_of(row.instance)[1:]))

    async def _ask(self, row: Row, total: int) -> None:
        async with self._limit:
            try:
                await self._vote(row)
                if row.answer == "rejected" and not row.voter:
                    row.voter = await self._voter(row.instance.uuid, row.reason)
            except UserError as fault:
                if fault.status is not ExitStatus.FAILED:
                    raise
                row.reason = str(fault)
        self._done += 1
        if self._screen.terminal:
            self._screen.redraw(f"asked {self._done} of {total}")

    async def _vote(self, row: Row) -> None:
        path = f"/v1/instances/{row.instance.uuid}/vote"
        body, within_s = VoteRequest(event=self._event), MARGIN_S
        async with self._client.lines("POST", path, body) as lines:
            while (line := await lines.next(ProgressLine, within_s)) is not None:
                if line.result:
                    self._take(row, line.result, line.reason or "")
                    return
                within_s = MARGIN_S + (line.seconds or 0.0)
            raise lines.lost("the daemon ended it without an outcome")

    @staticmethod
    def _take(row: Row, result: str, reason: str) -> None:
        row.reason = reason
        match result:
            case "reject":
                row.answer = "rejected"
                if reason.startswith(("group ", "groups: ")):
                    row.voter = reason.partition(":")[0]
            case "timeout":
                row.answer = "no answer"
            case "error":
                row.answer = "failed"
            case _ if reason.startswith(_UNANSWERED):
                row.answer = "no answer"
            case _:
                row.answer = "accepted"

    async def _voter(self, uuid: str, reason: str) -> str:
        """Who in the guest has rejected for this reason; "" if that is not known.

        A guest reports its voters and their answers some seconds later, if at all: the answers
        that are known now may be older. The reason begins with the name of an application.
        """
        voters = (await self._client.instance(uuid)).voters or ()
        named = [voter.name for voter in voters if reason.startswith(f"{voter.name}: ")]
        alike = [
            voter.name
            for voter in voters
            if voter.last is not None
            and (voter.last.kind, voter.last.event) == ("vote", self._event)
            and voter.last.answer == "reject"
            and reason.startswith(voter.last.reason)
        ]
        return ", ".join(named[:1] or alike)


async def survey(client: CtlClient, screen: Screen, options: argparse.Namespace) -> int:
    """Asks all instances that the command line selects, and shows their answers.

    Raises:
        UserError: the daemon can't be asked, or nothing is selected.
    """
    status = await client.any_status()
    selection = Selection(host=options.host or "", group=options.group or "").within(status)
    instances: Sequence[InstanceLine | FleetInstanceLine]
    if isinstance(status, FleetStatus):
        instances = selection.of_instances(status.instances)
    else:
        watched = [one for one in status.instances if one.policy is None or one.policy.watch]
        instances = selection.of_instances(watched)
    rows = await Survey(client, screen, options.event).ask(instances)
    if options.json:
        for row in rows:
            screen.json(msgspec.to_builtins(row.as_json()))
    else:
        _write(screen, rows, options.event)
    rejected = any(row.answer == "rejected" for row in rows)
    return ExitStatus.REJECTED if rejected else ExitStatus.DONE


def _write(screen: Screen, rows: Sequence[Row], event: str) -> None:
    if rows:
        uuids = [row.instance.uuid for row in rows]
        length = uuid_length(uuids, screen.columns)
        names = [shown_name(row.instance) or "-" for row in rows]
        columns = [
            column("UUID", [uuid[:length] for uuid in uuids]),
            attrs.evolve(column("NAME", names), flexible=True),
        ]
        if isinstance(rows[0].instance, FleetInstanceLine):
            hosts = [getattr(row.instance, "hostname", "") for row in rows]
            columns.append(attrs.evolve(column("HOST", hosts), flexible=True))
        columns += [
            column("ANSWER", [row.answer for row in rows], ANSWERS),
            attrs.evolve(column("VOTER", [row.voter or "-" for row in rows]), flexible=True),
            attrs.evolve(column("REASON", [row.reason for row in rows]), flexible=True),
        ]
        write_table(screen, columns)
        screen.line()
    found = [sum(row.answer == answer for row in rows) for answer in ANSWERS]
    words = [f"{count} {answer}" for count, answer in zip(found, ANSWERS, strict=True) if count]
    asked = counted(len(rows), "instance")
    screen.line(f"vote on {event}: {asked}{': ' if words else ''}{', '.join(words)}")
