"""A vote or notice on one instance, as its host conducts it: one at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import attrs
import trio

from hbtrio.fsm.ballot import Ballot, Outcome, as_reported
from hbtrio.nursery.time_guard import Source
from hbtrio.nursery.window_tasks import WindowTasks
from hbtrio.nursery.windows import Answer, BallotWindow, stay_silent
from hbtrio.policy.time_guard import OnTimeGuard
from hbtrio.wire.channel_messages import ActionResponse
from hbtrio.wire.vocabulary import Event, NotificationType, WindowKind

#: The one voter that a host knows.
_GUEST: Final = "guest"


class NotHeartbeating(Exception):
    """The instance takes no part: nothing is sent to it."""


class RoundOpen(Exception):
    """A vote or notice is open on this instance; deployed clients can't bear a second one."""


@attrs.define(eq=False)
class Round:
    """A vote or notice on an instance, from its opening to its one outcome."""

    event: Event
    notification: NotificationType
    invocation_id: int
    window: BallotWindow
    #: The agent's command that opened it, or "".
    command_id: str = ""
    done: trio.Event = attrs.field(factory=trio.Event)
    outcome: Outcome | None = None

    @property
    def is_vote(self) -> bool:
        """Whether it is a vote; else a notice."""
        return self.notification is NotificationType.REVOCABLE

    def open_text(self, now: float) -> str:
        """Why no other can be opened now."""
        left_s = self.window.remaining_s(now)
        kind = "vote" if self.is_vote else "notice"
        return f"a {kind} on {self.event} is open for another {left_s:.1f} s"


class RoundSlot:
    """The place of the one vote or notice that may be open on an instance.

    Args:
        tasks: runs the windows.
        guard: the process's on-time guard.
        source: reads what the instance may have sent.
        new_id: makes invocation ids.
        on_over: called once with each round that was opened, when it has its outcome.
    """

    def __init__(
        self,
        tasks: WindowTasks,
        guard: OnTimeGuard,
        source: Source,
        new_id: Callable[[], int],
        on_over: Callable[[Round], None],
    ) -> None:
        #: The round while one is open.
        self.current: Round | None = None
        self._tasks = tasks
        self._guard = guard
        self._source = source
        self._new_id = new_id
        self._on_over = on_over

    def open(
        self,
        event: Event,
        notification: NotificationType,
        kind: WindowKind,
        seconds: float,
        command_id: str,
    ) -> Round:
        """Opens a round; there must be none."""
        assert self.current is None
        ballot = Ballot(notification, [_GUEST])
        window = BallotWindow(kind, seconds, ballot, self._over, self._guard, [self._source])
        self.current = Round(event, notification, self._new_id(), window, command_id)
        self._tasks.hold(window, {_GUEST: stay_silent})
        return self.current

    def answer(self, response: ActionResponse) -> bool:
        """Takes the instance's answer; False if it is not to the round that is open."""
        # Only the id tells: a deployed client copies the other fields from its applications.
        if self.current is None or response.invocation_id != self.current.invocation_id:
            return False
        self.current.window.answer(_GUEST, Answer(response.vote_result, response.log_msg))
        return True

    def abort(self, reason: str) -> None:
        """Ends the round without its answer; harmless if there is none."""
        if self.current is not None:
            self.current.window.abort(reason)

    def _over(self, _: Outcome) -> None:
        current, self.current = self.current, None
        if current is None:
            return
        current.outcome = as_reported(current.window.ballot, current.window.seconds)
        self._on_over(current)
        current.done.set()
