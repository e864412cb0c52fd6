"""What a host reports: one record per thing that an operator or orchestrator must know."""

from __future__ import annotations

import json
import logging
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from enum import StrEnum
from typing import Any, Final

import attrs
import trio

from hbtrio.wire.vocabulary import CorrectiveAction, Event, VoteResult

_log = logging.getLogger("hbtrio.reports")

#: What a status or a late subscriber can still see.
RECENT: Final = 1000

#: How far a follower may fall behind by default.
FOLLOWER_QUEUE: Final = 1000


class ReportKind(StrEnum):
    """What a report is about."""

    HEARTBEATING = "heartbeating"
    STOPPED = "stopped"
    LOSS = "loss"
    UNHEALTHY = "unhealthy"
    VOTE = "vote"
    NOTICE = "notice"
    RESTART_EXPIRED = "restart-expired"


@attrs.frozen
class Report:
    """One report.

    Args:
        time: wall-clock time with its zone.
        kind: what it is about.
        uuid: the instance.
        reason: one line for a person; may hold a tenant's words.
        event: for a vote or notice, its event.
        result: for a vote or notice, how it ended.
        corrective_action: for loss and ill health, what the guest asked for.
    """

    time: datetime
    kind: ReportKind
    uuid: str
    reason: str
    event: Event | None = None
    result: VoteResult | None = None
    corrective_action: CorrectiveAction | None = None
    #: For a vote or notice that an agent commanded, the id of its command.
    command_id: str = ""

    def as_dict(self) -> dict[str, Any]:
        """The report as JSON members; those that do not apply are left out."""
        members = attrs.asdict(self, filter=lambda _, value: value not in (None, ""))
        members["reason"] = self.reason
        return members | {"time": self.time.isoformat(timespec="milliseconds")}

    def as_line(self) -> str:
        """The report as one line of JSON, without its newline."""
        return json.dumps(self.as_dict(), ensure_ascii=False)


class Reports:
    """Takes reports and hands them to the log and to every follower.

    Args:
        now: the wall clock with its zone; handed in for simulations.
    """

    def __init__(self, now: Callable[[], datetime]) -> None:
        self.now = now
        self.recent: deque[Report] = deque(maxlen=RECENT)
        self._followers: set[trio.MemorySendChannel[Report]] = set()
        self._listeners: list[Callable[[Report], None]] = []

    def listen(self, listener: Callable[[Report], None]) -> None:
        """Calls ``listener`` with every report, in the task that makes it: it must not block."""
        self._listeners.append(listener)

    def publish(self, report: Report) -> None:
        """Records one report. It never blocks: a follower that does not read is cut off."""
        self.recent.append(report)
        words = " ".join(word for word in (report.kind, report.event, report.result) if word)
        _log.info("%s %s: %s", report.uuid, words, report.reason)
        for listener in self._listeners:
            listener(report)
        for follower in tuple(self._followers):
            try:
                follower.send_nowait(report)
            except (trio.WouldBlock, trio.BrokenResourceError):
                self._followers.discard(follower)
                follower.close()

    @contextmanager
    def follow(self, queue: int = FOLLOWER_QUEUE) -> Iterator[trio.MemoryReceiveChannel[Report]]:
        """Every report from now on.

        Args:
            queue: how many may wait to be read; with one more the channel ends, so that a reader
                knows that it missed some instead of guessing.
        """
        send, receive = trio.open_memory_channel[Report](queue)
        self._followers.add(send)
        try:
            yield receive
        finally:
            self._followers.discard(send)
            send.close()
            receive.close()
