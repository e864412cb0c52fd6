"""Keeps the agent's open votes and notices and their results."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Final

import attrs
import trio

from hbtrio.fsm.fleet_round import FleetRound
from hbtrio.nursery.time_guard import Source
from hbtrio.nursery.windows import Window
from hbtrio.policy.allowances import AGENT_LATE_S
from hbtrio.policy.time_guard import OnTimeGuard
from hbtrio.store.records import HistoryEntry, RoundRecord, RoundResult
from hbtrio.wire.link_messages import MAX_NAME, VIM, RoundCommand
from hbtrio.wire.vocabulary import Event

#: Open rounds in the whole fleet, at most.
_ROUNDS: Final = 10_000


class PendingResult:
    """The result of a round, which tasks can wait for."""

    def __init__(self) -> None:
        self._over = trio.Event()
        self._result: RoundResult | None = None

    async def wait(self) -> RoundResult:
        """Waits for the result and returns it."""
        await self._over.wait()
        assert self._result is not None
        return self._result

    def end(self, result: RoundResult) -> None:
        """Sets the result and wakes the waiting tasks."""
        self._result = result
        self._over.set()


@attrs.frozen
class OpenedRound:
    """The answer to a request for a vote or notice.

    Args:
        command_id: its id; "" if it was not opened.
        seconds: its window; 0 if it was not opened.
        outcome: its result; None if it was not opened.
        fault: why it was not opened.
    """

    command_id: str
    seconds: int
    outcome: PendingResult | None
    fault: str = ""


def no_part(fault: str) -> OpenedRound:
    """Makes the answer for an instance that takes no part, with the reason."""
    return OpenedRound("", 0, None, fault)


@attrs.define(eq=False)
class OpenRound:
    """An open round: its record, its state machine, and its pending result."""

    record: RoundRecord
    machine: FleetRound
    outcome: PendingResult = attrs.field(factory=PendingResult)
    #: Set once the host has opened it: at its end, a silent guest agrees.
    window: Window[RoundResult] | None = None
    #: Called with the result; must not block.
    on_end: Callable[[RoundResult], None] = lambda _: None

    def end(self, result: RoundResult) -> None:
        """Sets the result and closes the window."""
        self.on_end(result)
        self.outcome.end(result)
        if self.window is not None:
            self.window.close(result)

    async def is_silent(self, guard: OnTimeGuard, source: Source) -> bool:
        """Waits for the end of the round, or until silence counts as agreement.

        Args:
            guard: the process's on-time guard.
            source: reads what the host has sent.

        Returns:
            True if the window has ended without a result.
        """
        if self.machine.is_over:
            return False
        within_s = max(0.0, self.machine.agrees_at - trio.current_time())
        self.window = Window(within_s, guard, sources=[source], at_most_s=AGENT_LATE_S)
        try:
            await self.window.wait()
        except trio.TooSlowError:
            return not self.machine.is_over
        return False


class OpenRounds:
    """The open rounds of the fleet."""

    def __init__(self) -> None:
        self._rounds: dict[str, OpenRound] = {}
        self._ending: dict[str, OpenRound] = {}
        self._by_vim: set[tuple[str, Event, bool]] = set()

    def __len__(self) -> int:
        return len(self._rounds)

    def __iter__(self) -> Iterator[OpenRound]:
        """Iterates over a copy of the open rounds."""
        return iter(tuple(self._rounds.values()))

    def add(self, current: OpenRound) -> OpenRound:
        """Adds an open round and returns it."""
        self._rounds[current.record.command_id] = current
        if current.record.asked_by == VIM:
            self._by_vim.add(_subject(current.record))
        return current

    def get(self, command_id: str) -> OpenRound | None:
        """Returns the open round of this command, or None."""
        return self._rounds.get(command_id)

    def pop(self, command_id: str) -> OpenRound | None:
        """Removes and returns the open round of this command, or None."""
        current = self._rounds.pop(command_id, None)
        if current is not None and current.record.asked_by == VIM:
            self._by_vim.discard(_subject(current.record))
        return current

    def end(self, current: OpenRound) -> None:
        """Removes a round whose requester is told the agent's own outcome, which is stored next."""
        if self.pop(current.record.command_id) is not None:
            self._ending[current.record.command_id] = current

    def ending(self, command_id: str) -> OpenRound | None:
        """Returns the round of this command if it has an outcome that is not stored yet."""
        return self._ending.get(command_id)

    def ended(self, current: OpenRound) -> None:
        """Forgets a round whose outcome is stored."""
        self._ending.pop(current.record.command_id, None)

    def refusal_of(self, record: RoundRecord) -> str:
        """Returns why a round can't be opened now; "" if it can."""
        if len(self._rounds) >= _ROUNDS:
            return f"{len(self._rounds)} votes and notices are open in this fleet, the maximum"
        if record.asked_by == VIM and _subject(record) in self._by_vim:
            # The host would first wait for the open round. The VIM would take its verdict for that
            # of the second round, and the second verdict for that of its next step.
            return f"the VIM's {kind_of(record)} on {record.event} is open already"
        return ""


def _subject(record: RoundRecord) -> tuple[str, Event, bool]:
    return record.uuid, record.event, record.vote


def kind_of(record: RoundRecord) -> str:
    """Returns a round's kind as in the history."""
    return "vote" if record.vote else "notice"


def round_command(record: RoundRecord, deadline_s: float) -> RoundCommand:
    """Makes what the host is sent to open a round within ``deadline_s`` of its arrival."""
    return RoundCommand(
        record.command_id,
        record.uuid,
        record.event,
        record.vote,
        deadline_s,
        who=record.asked_by[:MAX_NAME],
    )


def history_of(record: RoundRecord, result: RoundResult, now: datetime) -> HistoryEntry:
    """Makes the history entry of a round that ended now."""
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
        command_id=record.command_id,
    )
