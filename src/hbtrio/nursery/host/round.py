"""A vote or notice on one instance, as its host conducts it."""

from __future__ import annotations

import attrs
import trio

from hbtrio.fsm.ballot import Outcome
from hbtrio.nursery.windows import BallotWindow
from hbtrio.wire.vocabulary import Event, NotificationType


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
