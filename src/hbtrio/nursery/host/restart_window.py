"""The RESTART window of one instance, which may be silent in it and is expected back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import trio

from hbtrio.fsm.ballot import Ballot, Outcome
from hbtrio.nursery.time_guard import Source
from hbtrio.nursery.window_tasks import WindowTasks
from hbtrio.nursery.windows import Answer, BallotWindow, stay_silent
from hbtrio.policy.time_guard import OnTimeGuard
from hbtrio.wire.vocabulary import NotificationType, VoteResult, WindowKind

#: The only one that is waited for.
_INSTANCE: Final = "instance"


class RestartWindow:
    """One window at a time, each a task of its own.

    Args:
        tasks: runs the windows.
        guard: the process's on-time guard.
        source: reads what the instance may have sent.
        on_expired: told when a window has run out.
    """

    def __init__(
        self,
        tasks: WindowTasks,
        guard: OnTimeGuard,
        source: Source,
        on_expired: Callable[[], None],
    ) -> None:
        self._tasks = tasks
        self._guard = guard
        self._source = source
        self._on_expired = on_expired
        #: The window while one is open.
        self.window: BallotWindow | None = None
        #: Set when the window that was opened last is closed.
        self.closed = trio.Event()

    def open(self, seconds: float) -> None:
        """Opens a window; one that is open is given up for it.

        Args:
            seconds: how long the instance may take.
        """
        if self.window is not None:
            self.window.abort("it is being restarted again")
        ballot = Ballot(NotificationType.IRREVOCABLE, [_INSTANCE])
        window = BallotWindow(
            WindowKind.RESTART, seconds, ballot, self._over, self._guard, [self._source]
        )
        self.window = window
        self.closed = trio.Event()
        self._tasks.hold(window, {_INSTANCE: stay_silent})

    def close(self) -> None:
        """The instance is back, or is not expected any more."""
        if self.window is not None:
            self.window.answer(_INSTANCE, Answer(VoteResult.COMPLETE))

    def _over(self, outcome: Outcome) -> None:
        self.window = None
        over = self.closed
        if outcome.result is VoteResult.TIMEOUT:
            self._on_expired()
        over.set()
