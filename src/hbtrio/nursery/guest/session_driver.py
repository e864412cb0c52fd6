"""Drives the guest's session: hands the machine what happens, and carries out what it says."""

from __future__ import annotations

import logging
from typing import Final, NoReturn

import trio

from hbtrio.fsm import guest_session as fsm
from hbtrio.fsm.guest_session import GuestSession, SessionSettings, SessionState
from hbtrio.nursery.guest.health import GuestHealth
from hbtrio.nursery.guest.outbox import Outbox
from hbtrio.nursery.guest.rounds import GuestRounds
from hbtrio.policy.time_guard import OnTimeGuard
from hbtrio.wire.channel_messages import Message

_log = logging.getLogger("hbtrio.guest")

#: Inits that a host may leave unanswered before the log has a word about it.
_UNHEARD_INITS: Final = 3


class SessionDriver:
    """The session with its timer.

    Args:
        session: the machine.
        outbox: takes what is to be sent.
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
        #: Whether the host was sent the farewell, which nothing may follow.
        self.stopped = False
        self._outbox = outbox
        self._health = health
        self._rounds = rounds
        self._guard = guard
        self._timer = trio.CancelScope()
        self._unheard_inits = 0

    async def run(self) -> NoReturn:
        """Tells the session when its deadlines have passed, until cancelled."""
        while True:
            with trio.CancelScope(deadline=self.session.deadline) as self._timer:
                await trio.sleep_forever()
            # Tasks woken together run in any order: what has arrived by now is read first.
            await trio.lowlevel.checkpoint()
            now = trio.current_time()
            if now >= self.session.deadline:
                if self.session.state is SessionState.ENABLING:
                    self._count_unheard_init()
                self._apply(self.session.expired(now, late=self._guard.is_late(now)))

    def channel_up(self) -> None:
        """The channel is connected."""
        self._apply(self.session.channel_up(trio.current_time()))

    def channel_down(self) -> None:
        """The channel is not connected any more; what was to be sent on it is dropped."""
        if not self.stopped:
            self._apply(self.session.channel_down(trio.current_time()))
        # What was meant for that host, the answers just aborted too, is of no use to the next.
        self._outbox.clear()

    def received(self, message: Message) -> None:
        """The host has sent this."""
        self._apply(self.session.received(message, trio.current_time()))

    def reload(self, settings: SessionSettings) -> None:
        """The configuration was read again."""
        self._apply(self.session.reload(settings, trio.current_time()))

    def stop(self) -> None:
        """Says farewell to the host; from then on the session is over."""
        self.stopped = True
        self._apply(self.session.shutdown(trio.current_time()))

    def _count_unheard_init(self) -> None:
        self._unheard_inits += 1
        if self._unheard_inits == _UNHEARD_INITS:  # logged once, until a host is heard again
            _log.warning(
                "no host has acknowledged %d inits: none is there, or another process holds the "
                "channel",
                _UNHEARD_INITS,
            )

    def _apply(self, effects: list[fsm.Effect]) -> None:
        for effect in effects:
            match effect:
                case fsm.SendToHost(message):
                    self._outbox.put(message)
                case fsm.AnswerChallenge(number):
                    applications = self._rounds.voters.health()
                    now = trio.current_time()
                    self._outbox.put(self._health.answer(number, applications, now))
                case fsm.StartAction(notify):
                    self._rounds.open(notify)
                case fsm.AbortAction(reason):
                    self._rounds.abort(reason)
                case fsm.SessionStateChanged(old, new, event):
                    if new is SessionState.ENABLED:
                        self._unheard_inits = 0
                    _log.info("heartbeat state change from %s to %s, event=%s.", old, new, event)
        self._timer.deadline = self.session.deadline
