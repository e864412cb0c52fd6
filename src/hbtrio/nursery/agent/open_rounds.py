"""A vote or notice as it is asked for and waited for, in the agent."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Final

import attrs
import trio

from hbtrio.fsm.fleet_round import FleetRound
from hbtrio.nursery.time_guard import Source
from hbtrio.nursery.windows import Window
from hbtrio.policy.time_guard import OnTimeGuard
from hbtrio.store.records import HistoryEntry, RoundRecord, RoundResult
from hbtrio.wire.vim import VerdictEvent, guest_response
from hbtrio.wire.vocabulary import Event, NotificationType

#: Who asks through the VIM's API; only these rounds have a verdict for the VIM.
VIM: Final = "vim"

#: For how long an agent that was not on time puts off the agreement of a silent guest, in seconds;
#: together with the reading of what has arrived it must leave most of the margin to the verdict.
_LATE_S: Final = 0.05

#: Rounds under way in the whole fleet.
_ROUNDS: Final = 10_000


class PendingResult:
    """How a round ends, for whoever waits for it."""

    def __init__(self) -> None:
        self._over = trio.Event()
        self._result: RoundResult | None = None

    async def wait(self) -> RoundResult:
        """Returns the result once there is one."""
        await self._over.wait()
        assert self._result is not None
        return self._result

    def end(self, result: RoundResult) -> None:
        """It has ended so."""
        self._result = result
        self._over.set()


@attrs.frozen
class OpenedRound:
    """What came of asking for a vote or notice.

    Args:
        command_id: its id.
        seconds: its window, 0 for none.
        outcome: how it ends; None if it was not opened.
        fault: why it was not.
    """

    command_id: str
    seconds: int
    outcome: PendingResult | None
    fault: str = ""


def no_part(fault: str) -> OpenedRound:
    """The instance takes no part, and why."""
    return OpenedRound("", 0, None, fault)


@attrs.define(eq=False)
class OpenRound:
    """A round under way: what was asked, what its machine knows of it, and whoever waits for it."""

    record: RoundRecord
    machine: FleetRound
    outcome: PendingResult = attrs.field(factory=PendingResult)
    #: Once the host has opened it: at its end the guest's silence is agreement.
    window: Window[RoundResult] | None = None

    def end(self, result: RoundResult) -> None:
        """It has ended so."""
        self.outcome.end(result)
        if self.window is not None:
            self.window.close(result)

    async def is_silent(self, guard: OnTimeGuard, source: Source) -> bool:
        """Returns once it has ended, or with True once silence is agreement.

        Args:
            guard: the process's on-time guard.
            source: takes in what its host has sent.
        """
        if self.machine.is_over:
            return False
        within_s = max(0.0, self.machine.agrees_at - trio.current_time())
        self.window = Window(within_s, guard, sources=[source], at_most_s=_LATE_S)
        try:
            await self.window.wait()
        except trio.TooSlowError:
            return not self.machine.is_over
        return False


class OpenRounds:
    """The rounds under way."""

    def __init__(self) -> None:
        self._rounds: dict[str, OpenRound] = {}
        self._by_vim: set[tuple[str, Event, bool]] = set()

    def __len__(self) -> int:
        return len(self._rounds)

    def __iter__(self) -> Iterator[OpenRound]:
        """Those that are under way now, whatever becomes of them meanwhile."""
        return iter(tuple(self._rounds.values()))

    def add(self, current: OpenRound) -> OpenRound:
        """It is under way; returns it."""
        self._rounds[current.record.command_id] = current
        if current.record.asked_by == VIM:
            self._by_vim.add(_subject(current.record))
        return current

    def get(self, command_id: str) -> OpenRound | None:
        """The round of this command, if it is under way."""
        return self._rounds.get(command_id)

    def pop(self, command_id: str) -> OpenRound | None:
        """The same; it is under way no longer."""
        current = self._rounds.pop(command_id, None)
        if current is not None and current.record.asked_by == VIM:
            self._by_vim.discard(_subject(current.record))
        return current

    def hindrance(self, record: RoundRecord) -> str:
        """Why a host is not even sent the command of a round; "" if nothing stands in its way."""
        if len(self._rounds) >= _ROUNDS:
            return f"{len(self._rounds)} votes and notices are open in this fleet"
        if record.asked_by == VIM and _subject(record) in self._by_vim:
            # The host would wait for the first one, whose verdict the VIM then takes for the second
            # one's, and the second one's for that of its next step.
            return f"the VIM's {kind_of(record)} on {record.event} is open already"
        return ""


def _subject(record: RoundRecord) -> tuple[str, Event, bool]:
    return record.uuid, record.event, record.vote


def kind_of(record: RoundRecord) -> str:
    """A round's kind, as the history has it."""
    return "vote" if record.vote else "notice"


def history_of(record: RoundRecord, result: RoundResult, now: datetime) -> HistoryEntry:
    """What the history says of a round that ended now."""
    return HistoryEntry(
        time=now,
        kind=kind_of(record),
        uuid=record.uuid,
        hostname=record.hostname,
        reason=result.reason,
        event=record.event,
        result=result.result,
        who=record.asked_by,
        asked_at=record.asked_at,
    )


def verdict_body(record: RoundRecord, result: RoundResult) -> str:
    """What the VIM is sent of a round that has ended, as JSON."""
    kind = NotificationType.REVOCABLE if record.vote else NotificationType.IRREVOCABLE
    response = guest_response(kind, result.result)
    return VerdictEvent(record.uuid, record.event, response, result.reason).body()
