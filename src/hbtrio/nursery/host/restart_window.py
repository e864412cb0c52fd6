"""Runs the RESTART window of one instance, which may be silent in it and is expected back.

Time in which this host did not run is no part of the window, which goes on by as much.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

import trio

from hbtrio.fsm.ballot import Ballot, Outcome
from hbtrio.nursery.time_guard import Source
from hbtrio.nursery.window_tasks import WindowTasks
from hbtrio.nursery.windows import Answer, BallotWindow, stay_silent
from hbtrio.policy.time_guard import TICK_S, OnTimeGuard
from hbtrio.wire.vocabulary import NotificationType, VoteResult, WindowKind

_log = logging.getLogger("hbtrio.channel")

#: The only voter of the window.
_INSTANCE: Final = "instance"


class RestartWindow:
    """Opens RESTART windows, one at a time, each a task of its own.

    Args:
        uuid: the instance, for the log.
        tasks: runs the windows.
        guard: the process's on-time guard.
        source: reads what the instance has sent.
        on_expired: called when a window has expired.
    """

    __slots__ = (
        "_guard",
        "_on_expired",
        "_source",
        "_tasks",
        "_until_s",
        "_uuid",
        "closed",
        "why",
        "window",
    )

    def __init__(
        self,
        uuid: str,
        tasks: WindowTasks,
        guard: OnTimeGuard,
        source: Source,
        on_expired: Callable[[], None],
    ) -> None:
        self._uuid = uuid
        self._tasks = tasks
        self._guard = guard
        self._source = source
        self._on_expired = on_expired
        #: The open window, or None.
        self.window: BallotWindow | None = None
        #: Why the window opened last was opened, for people.
        self.why = ""
        #: Set when the window opened last has closed; there is none before the first.
        self.closed: trio.Event
        #: When it is over, by :meth:`_ran_s`.
        self._until_s = 0.0

    def open(self, seconds: float, why: str) -> None:
        """Opens a window; it replaces one that is open.

        Args:
            seconds: how long the instance may take to return.
            why: why it is opened, for people.
        """
        if self.window is not None:
            self.window.abort("the instance is being restarted again")
        self._until_s = self._ran_s() + seconds
        self._open(seconds, why)

    def _open(self, seconds: float, why: str) -> None:
        self.why = why
        ballot = Ballot(NotificationType.IRREVOCABLE, [_INSTANCE])
        window = BallotWindow(
            WindowKind.RESTART,
            seconds,
            ballot,
            self._over,
            self._guard,
            [self._source],
            self._uuid,
        )
        self.window = window
        self.closed = trio.Event()
        self._tasks.hold(window, {_INSTANCE: stay_silent})

    def close(self) -> None:
        """Closes the window: the instance is back, or is no longer expected."""
        if self.window is not None:
            self.window.answer(_INSTANCE, Answer(VoteResult.COMPLETE))

    def release(self) -> None:
        """Lets go of its owner, which has ended; no window may be opened after it."""
        del self._source, self._on_expired

    def _ran_s(self) -> float:
        """Returns the time without that in which this host did not run."""
        now = trio.current_time()
        return now - self._guard.stalled_s(now)

    def _over(self, outcome: Outcome) -> None:
        self.window = None
        over = self.closed
        if outcome.result is VoteResult.TIMEOUT:
            left_s = self._until_s - self._ran_s()
            if left_s < TICK_S:
                self._on_expired()
            else:
                # The instance may have stood still with this host.
                text = "%s: RESTART goes on for %.1f s, as this host did not run for so long"
                _log.info(text, self._uuid, left_s)
                self._open(left_s, f"this host did not run for {left_s:.1f} s")
        over.set()
