"""Drives the guest's session machine: passes in events and carries out its effects."""

from __future__ import annotations

import logging
import math
from typing import Final, NoReturn

import trio

from hbtrio.fsm import guest_session as fsm
from hbtrio.fsm.guest_session import GuestSession, SessionSettings
from hbtrio.fsm.guest_session_table import SessionState
from hbtrio.log.subject import fields
from hbtrio.nursery.guest.health import GuestHealth
from hbtrio.nursery.guest.outbox import Outbox
from hbtrio.nursery.guest.rounds import GuestRounds
from hbtrio.nursery.time_guard import TAKE_IN_S, sleep_until_on_time
from hbtrio.policy.time_guard import OnTimeGuard
from hbtrio.policy.voter_news import VoterNews
from hbtrio.wire.channel_messages import Message
from hbtrio.wire.vocabulary import Event

_log = logging.getLogger("hbtrio.guest")

#: Unanswered inits after which a warning is logged.
_UNANSWERED_INITS: Final = 3


class SessionDriver:
    """Runs the session machine and its timer.

    Args:
        session: the session machine.
        outbox: sends the messages.
        health: answers challenges.
        rounds: answers votes and notices.
        guard: the process's on-time guard.
    """

    def __init__(
        self,
        session: GuestSession,
        outbox: Outbox,
        health: GuestHealth,
        rounds: GuestRounds,
        guard: OnTimeGuard,
    ) -> None:
        self.session = session
        #: Whether the farewell was queued; nothing may be sent after it.
        self.stopped = False
        self._outbox = outbox
        self._health = health
        self._rounds = rounds
        self._guard = guard
        self._voter_news = VoterNews()
        self._sleep = trio.CancelScope()
        #: When run() wakes up at the latest.
        self._wakes_at = math.inf
        self._heard_at = -math.inf
        self._unanswered_inits = 0

    async def run(self) -> NoReturn:
        """Notifies the session of each deadline that has passed, until cancelled."""
        while True:
            state, self._wakes_at = self.session.state, self.session.deadline
            with trio.CancelScope() as self._sleep:
                if state is SessionState.ENABLED:
                    # A late guest only reads: the session waits for its whole time again.
                    await sleep_until_on_time(
                        self._wakes_at,
                        self._guard,
                        at_most_s=TAKE_IN_S,
                        sources=[self._take_in],
                        unless=self._is_later,
                    )
                else:  # it is time to send an init
                    await trio.sleep_until(self._wakes_at)
                    await trio.lowlevel.checkpoint()  # first what has arrived
            now = trio.current_time()
            if now >= self.session.deadline and self.session.state is state:
                if state is SessionState.ENABLING:
                    self._count_unanswered_init()
                self._apply(self.session.expired(now, late=self._guard.is_late(now)))

    def channel_up(self) -> None:
        """Handles a channel that is now connected."""
        self._apply(self.session.channel_up(trio.current_time()))

    def channel_down(self) -> None:
        """Handles a channel that is no longer connected; drops all queued messages."""
        if not self.stopped:
            self._apply(self.session.channel_down(trio.current_time()))
        # Queued messages, including answers just aborted, were meant for that connection only.
        self._outbox.clear()

    def received(self, message: Message) -> None:
        """Handles a message from the host."""
        self._heard_at = trio.current_time()
        self._apply(self.session.received(message, trio.current_time()))

    def reject_withdrawn(self, event: Event, name: str) -> None:
        """Tells the host that a voter would not reject an event any more."""
        self._apply(self.session.reject_withdrawn(event, name))

    def reload(self, settings: SessionSettings) -> None:
        """Applies a reloaded configuration."""
        self._apply(self.session.reload(settings, trio.current_time()))

    def stop(self) -> None:
        """Sends the farewell to the host; ends the session."""
        self.stopped = True
        self._apply(self.session.shutdown(trio.current_time()))

    def _is_later(self) -> bool:
        """Returns whether the session's deadline has been put off, as by each challenge."""
        return self.session.deadline > trio.current_time()

    def _take_in(self) -> bool:
        """Returns whether messages came since the deadline or the last call: more may wait."""
        heard_at, self._heard_at = self._heard_at, -math.inf
        return heard_at >= self._wakes_at

    def _count_unanswered_init(self) -> None:
        self._unanswered_inits += 1
        if self._unanswered_inits == _UNANSWERED_INITS:  # logged once, until the session is enabled
            _log.warning(
                "no host has acknowledged %d inits: no host is connected, or another process holds "
                "the channel",
                _UNANSWERED_INITS,
            )

    def _apply(self, effects: list[fsm.Effect]) -> None:
        for effect in effects:
            match effect:
                case fsm.SendToHost(message):
                    self._outbox.put(message)
                case fsm.AnswerChallenge(number, named):
                    applications = self._rounds.voters.health()
                    now = trio.current_time()
                    self._outbox.put(self._health.answer(number, applications, now, named=named))
                case fsm.ReportVoters(anew):
                    known, now = self._rounds.voters.known, trio.current_time()
                    for state in self._voter_news.next(known, now, anew=anew):
                        self._outbox.put(state)
                case fsm.StartAction(notify, named, more_time):
                    self._rounds.open(notify, named=named, more_time=more_time)
                case fsm.TakeTime(granted):
                    self._rounds.time_granted(granted)
                case fsm.TimeRefused(reason):
                    self._rounds.time_refused(reason)
                case fsm.AbortAction(reason):
                    self._rounds.abort(reason)
                case fsm.SessionStateChanged(old, new, event):
                    self._sleep.cancel()  # it depends on the state
                    if new is SessionState.ENABLED:
                        self._unanswered_inits = 0
                    text = "heartbeat state change from %s to %s, event=%s."
                    _log.info(text, old, new, event, extra=fields("state-change"))
        # A later deadline, which each challenge sets, is found when the sleep ends.
        if self.session.deadline < self._wakes_at:
            self._sleep.cancel()
