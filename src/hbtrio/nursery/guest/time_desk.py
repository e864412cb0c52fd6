"""Asks the host for more time, for the voters of one vote or notice."""

from __future__ import annotations

import logging
from collections.abc import Callable
from itertools import count

from hbtrio.fsm.ballot import BallotState
from hbtrio.nursery.guest.outbox import Outbox
from hbtrio.nursery.windows import BallotWindow
from hbtrio.policy.more_time import AnswerVoter, AskHost, Effect, Grant, Lengthen, VoterTime
from hbtrio.wire.channel_messages import ActionNotify, MoreTime, TimeGranted

_log = logging.getLogger("hbtrio.guest")


class TimeDesk:
    """Takes the requests of the voters of one window, and lengthens it by what the host grants.

    :class:`~hbtrio.policy.more_time.VoterTime` decides. Once the window is closed, requests and
    answers have no effect, and nobody is answered.

    Args:
        notify: the vote or notice.
        window: its window.
        outbox: sends the requests.
        offered: whether the host takes them.
    """

    def __init__(
        self, notify: ActionNotify, window: BallotWindow, outbox: Outbox, *, offered: bool
    ) -> None:
        self._notify = notify
        self._window = window
        self._outbox = outbox
        self._time = VoterTime(offered=offered)
        self._keys = count()
        self._answers: dict[int, Callable[[Grant], None]] = {}

    def is_waiting(self) -> bool:
        """Whether the host's answer is on its way: a :data:`Source` of the window."""
        return self._time.awaits_host

    def ask(self, name: str, seconds: int, own_end: float, answer: Callable[[Grant], None]) -> None:
        """Takes a request of a voter.

        Args:
            name: the voter.
            seconds: what it asks for, any number.
            own_end: when its own time ends, on trio's clock.
            answer: called with what is granted, at once or later, unless the window closes first.
        """
        if self._is_open:
            key, end = next(self._keys), self._window.deadline
            self._answers[key] = answer
            self._apply(self._time.ask(key, name, seconds, min(own_end, end), end))

    def granted(self, message: TimeGranted) -> None:
        """Takes an answer of the host; one that is not for this window is ignored."""
        if self._is_open and message.invocation_id == self._notify.invocation_id:
            end = self._window.deadline
            self._apply(self._time.answered(message.request, message.seconds, message.log_msg, end))

    def refused(self, reason: str) -> None:
        """Takes that the host answers no such requests."""
        if self._is_open:
            self._apply(self._time.refused(reason))

    @property
    def _is_open(self) -> bool:
        return self._window.ballot.state is BallotState.OPEN

    def _apply(self, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case AskHost(number, seconds, name):
                    self._log("%s asks for %d s more", name, seconds)
                    ids = self._notify.invocation_id, number
                    self._outbox.put(MoreTime(*ids, seconds, name))
                case Lengthen(seconds):
                    self._window.extend(seconds)
                    self._log("the window is extended by %d s", seconds)
                case AnswerVoter(key, grant):
                    if grant.reason:
                        self._log("%g s granted: %s", grant.seconds, grant.reason)
                    self._answers.pop(key)(grant)

    def _log(self, text: str, *args: object) -> None:
        notify = self._notify
        _log.info(f"%s %s: {text}", notify.notification_type, notify.event_type, *args)
