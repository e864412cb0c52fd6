"""A vote or notice as it is asked for and waited for, in the agent."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Final

import attrs
import trio

from hbtrio.nursery.windows import Window
from hbtrio.store.records import HistoryEntry, RoundRecord, RoundResult
from hbtrio.wire.link_messages import Instance
from hbtrio.wire.vocabulary import Event, WindowKind

#: Who asks through the VIM's API; only these rounds have a verdict for the VIM.
VIM: Final = "vim"


class PendingResult:
    """How a round ends, for whoever waits for it."""

    def __init__(self) -> None:
        self._over = trio.Event()
        self._result: RoundResult | None = None

    @property
    def is_over(self) -> bool:
        """Whether it has ended."""
        return self._result is not None

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
        ending: how it ends; None if it was not opened.
        fault: why it was not.
    """

    command_id: str
    seconds: int
    ending: PendingResult | None
    fault: str = ""


def no_part(fault: str) -> OpenedRound:
    """The instance takes no part, and why."""
    return OpenedRound("", 0, None, fault)


@attrs.define(eq=False)
class OpenRound:
    """A round under way."""

    record: RoundRecord
    #: The host said that it has opened it.
    taken: bool = False
    #: The reply to whoever asked is written.
    replied: bool = False
    #: The host has told its outcome, which is on its way to the store.
    reported: bool = False
    #: When its window is over, on trio's clock; None: a former process has asked, by its own.
    deadline: float | None = None
    ending: PendingResult = attrs.field(factory=PendingResult)
    #: Once the host has opened it: at its end the guest's silence is agreement.
    window: Window[RoundResult] | None = None

    def end(self, result: RoundResult) -> None:
        """It has ended so."""
        self.ending.end(result)
        if self.window is not None:
            self.window.close(result)


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

    def is_asked(self, record: RoundRecord) -> bool:
        """Whether it is the VIM's, who has asked just that already and has no answer yet."""
        return record.asked_by == VIM and _subject(record) in self._by_vim


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


def window_s(live: Instance, kind: WindowKind) -> int:
    """The window of a kind that an instance has advertised, in seconds."""
    match kind:
        case WindowKind.VOTE:
            return live.vote_s
        case WindowKind.SHUTDOWN_NOTICE:
            return live.shutdown_notice_s
        case WindowKind.SUSPEND_NOTICE:
            return live.suspend_notice_s
        case WindowKind.RESUME_NOTICE:
            return live.resume_notice_s
        case WindowKind.RESTART:
            return live.restart_s
