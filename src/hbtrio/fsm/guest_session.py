"""Decides the guest's side of the channel: handshake, challenges and recovery (PROTOCOL.md).

The session is a pure machine: its methods take an event and its time, and return effects for a task
to carry out. The task sleeps until :attr:`GuestSession.deadline` and then calls
:meth:`GuestSession.expired`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

import msgspec

from hbtrio.fsm.guest_session_table import SESSION_TABLE, SessionEvent, SessionState
from hbtrio.policy.more_time import OFF
from hbtrio.wire.channel_messages import (
    ActionNotify,
    ActionResponse,
    Challenge,
    Exit,
    Extension,
    Init,
    InitAck,
    Message,
    MoreTime,
    Nack,
    RejectWithdrawn,
    TimeGranted,
    VoterState,
)
from hbtrio.wire.vocabulary import CorrectiveAction, Event, VoteResult

#: The guest's wait after its start, to give a host that has just connected time to listen.
RELEASE_S: Final = 1.0

#: Added to each advertised window, for the response's way to the host.
PROPAGATION_S: Final = 1


class SessionSettings(msgspec.Struct, frozen=True):
    """The values that the guest advertises and its timeouts, as in guest_heartbeat.conf."""

    name: str
    hb_interval_ms: int = 1000
    hb_init_retry_ms: int = 5000
    hb_min_timeout_ms: int = 5000
    vote_s: int = 10
    shutdown_notice_s: int = 10
    suspend_notice_s: int = 10
    resume_notice_s: int = 10
    restart_s: int = 120
    corrective_action: CorrectiveAction = CorrectiveAction.REBOOT

    @property
    def challenge_timeout_s(self) -> float:
        """Seconds without a challenge after which the guest sends ``init`` again."""
        return max(2 * self.hb_interval_ms, self.hb_min_timeout_ms) / 1000

    def init(self, invocation_id: int) -> Init:
        """Builds the ``init`` that advertises these settings."""
        return Init(
            invocation_id=invocation_id,
            name=self.name,
            heartbeat_interval_ms=self.hb_interval_ms,
            vote_secs=self.vote_s + PROPAGATION_S,
            shutdown_notice_secs=self.shutdown_notice_s + PROPAGATION_S,
            suspend_notice_secs=self.suspend_notice_s + PROPAGATION_S,
            resume_notice_secs=self.resume_notice_s + PROPAGATION_S,
            restart_secs=self.restart_s + PROPAGATION_S,
            corrective_action=self.corrective_action,
        )


class SendToHost(msgspec.Struct, frozen=True):
    """Send this message on the channel; drop the message if the channel is down."""

    message: Message


class AnswerChallenge(msgspec.Struct, frozen=True):
    """Answer this challenge with the current health.

    ``named``: the host takes reasons that name the application, see :class:`Extension`.
    """

    number: int
    named: bool = False


class ReportVoters(msgspec.Struct, frozen=True):
    """Report the voters, as far as that is due; ``anew``: the host knows none of them."""

    anew: bool


class StartAction(msgspec.Struct, frozen=True):
    """Open the window of this vote or notice; it supersedes an open one.

    ``named``: as for :class:`AnswerChallenge`; ``more_time``: whether the host grants more time.
    """

    notify: ActionNotify
    named: bool = False
    more_time: bool = False


class TakeTime(msgspec.Struct, frozen=True):
    """Lengthen the open window by what the host grants."""

    granted: TimeGranted


class TimeRefused(msgspec.Struct, frozen=True):
    """Tell voters that wait for more time that the host answers no such requests."""

    reason: str


class AbortAction(msgspec.Struct, frozen=True):
    """Abort the open vote or notice, if any, and cancel its handlers."""

    reason: str


class SessionStateChanged(msgspec.Struct, frozen=True):
    """Log the change of state, in the line that operators grep for."""

    old: SessionState
    new: SessionState
    event: SessionEvent


Effect = (
    SendToHost
    | AnswerChallenge
    | ReportVoters
    | StartAction
    | TakeTime
    | TimeRefused
    | AbortAction
    | SessionStateChanged
)


class GuestSession:
    """The guest's session with the host at the other end of the channel.

    Args:
        settings: the values to advertise and the timeouts.
        new_id: returns a new id, 0 to 2^31-1; an argument to let a simulation seed it.
        now: the time of the start, in seconds on the caller's monotonic clock.
    """

    def __init__(self, settings: SessionSettings, *, new_id: Callable[[], int], now: float) -> None:
        self.state = SESSION_TABLE.initial
        #: When to call :meth:`expired`; infinity if nothing is pending.
        self.deadline = now + RELEASE_S
        self._settings = settings
        self._new_id = new_id
        self._init_ids: tuple[int, ...] = ()
        self._extensions = 0
        self._reports_anew = False

    def channel_up(self, now: float) -> list[Effect]:
        """Handles a channel that was opened, or to which the host has connected."""
        return self._step(SessionEvent.CHANNEL_UP, now)

    def channel_down(self, now: float) -> list[Effect]:
        """Handles a channel that failed to open or broke, or whose host disconnected."""
        effects = self._step(SessionEvent.CHANNEL_DOWN, now)
        return [*effects, AbortAction("the channel is down")]

    def received(self, message: Message, now: float) -> list[Effect]:
        """Handles a message of the host; a message that only guests send is ignored."""
        match message:
            case InitAck(invocation_id=acknowledged, extensions=extensions):
                # Only the last two ids count: an older ack belongs to an earlier session.
                if acknowledged not in self._init_ids:
                    return []
                # Without a new ack the session is not enabled again, so no other host's bits count.
                self._extensions, self._reports_anew = extensions, True
                return self._step(SessionEvent.INIT_ACK, now)
            case ActionNotify():
                return [*self._step(SessionEvent.ACTION, now), self._action(message)]
            case Challenge(heartbeat_challenge=number):
                effects = self._step(SessionEvent.CHALLENGE, now)
                if self.state is SessionState.ENABLED:
                    self.deadline = now + self._settings.challenge_timeout_s
                    effects.append(AnswerChallenge(number, self._named))
                    if self._extensions & Extension.VOTERS:
                        effects.append(ReportVoters(self._reports_anew))
                        self._reports_anew = False
                return effects
            case TimeGranted():
                return [TakeTime(message)]
            # The VM has migrated to an older host of ours, which challenges before an init.
            case Nack(log_msg=text) if VoterState.TYPE in text:
                self._extensions &= ~Extension.VOTERS
                return []
            case Nack(log_msg=text) if RejectWithdrawn.TYPE in text:
                self._extensions &= ~Extension.WITHDRAWALS
                return []
            case Nack(log_msg=text) if MoreTime.TYPE in text:
                self._extensions &= ~Extension.MORE_TIME
                return [TimeRefused(OFF)]
            case _:
                return []

    def reject_withdrawn(self, event: Event, name: str) -> list[Effect]:
        """Handles that a voter would not reject an event any more; a host that is told may ask."""
        if self.state is SessionState.ENABLED and self._extensions & Extension.WITHDRAWALS:
            return [SendToHost(RejectWithdrawn(event, name))]
        return []

    def timeout_from(self, now: float) -> float:
        """Returns when a challenge may be missed at the earliest; a host may answer an init now."""
        if self.state is SessionState.DISABLED:
            return math.inf
        soonest = now + self._settings.challenge_timeout_s
        return self.deadline if self.state is SessionState.ENABLED else soonest

    def expired(self, now: float, *, late: bool) -> list[Effect]:
        """Handles the deadline and returns the effects.

        Args:
            now: the time, at or after :attr:`deadline`.
            late: whether this process is late. Challenges may then be waiting to be read, so a
                challenge timeout is ignored and starts again.
        """
        match self.state:
            case SessionState.INITIAL:
                return self._step(SessionEvent.RELEASE, now)
            case SessionState.ENABLING:
                return self._step(SessionEvent.INIT_RETRY, now)
            case SessionState.ENABLED if late:
                self.deadline = now + self._settings.challenge_timeout_s
                return []
            case SessionState.ENABLED:
                return self._step(SessionEvent.CHALLENGE_TIMEOUT, now)
            case SessionState.DISABLED:
                return []

    def reload(self, settings: SessionSettings, now: float) -> list[Effect]:
        """Takes a changed configuration and advertises it with a new ``init``."""
        self._settings = settings
        return self._step(SessionEvent.RELOAD, now)

    def shutdown(self, now: float) -> list[Effect]:
        """Ends the session. An enabled session sends ``exit``, or the host would report a loss."""
        sends_exit = self.state is SessionState.ENABLED
        effects = self._step(SessionEvent.SHUTDOWN, now)
        self.deadline = math.inf
        if sends_exit:
            effects.insert(0, SendToHost(Exit("Exiting...")))
        # The open vote or notice is answered before exit, because the host ignores later messages.
        return [AbortAction("the daemon is stopping"), *effects]

    @property
    def _named(self) -> bool:
        return bool(self._extensions & Extension.NAMED_REASONS)

    def _action(self, notify: ActionNotify) -> Effect:
        if self.state is SessionState.ENABLED:
            more_time = bool(self._extensions & Extension.MORE_TIME)
            return StartAction(notify, self._named, more_time)
        return SendToHost(
            ActionResponse(
                invocation_id=notify.invocation_id,
                event_type=notify.event_type,
                notification_type=notify.notification_type,
                vote_result=VoteResult.COMPLETE,
                log_msg="",
            )
        )

    def _step(self, event: SessionEvent, now: float) -> list[Effect]:
        old, new = self.state, SESSION_TABLE.after(self.state, event)
        effects: list[Effect] = []
        self.state = new
        if old is not new:
            effects.append(SessionStateChanged(old, new, event))
        if new is SessionState.DISABLED:
            self.deadline = math.inf
        elif new is SessionState.ENABLED and old is not new:
            self.deadline = now + self._settings.challenge_timeout_s
        elif new is SessionState.ENABLING and (old is not new or event in _SENDS_INIT):
            invocation_id = self._new_id()
            self._init_ids = (*self._init_ids[-1:], invocation_id)
            self.deadline = now + self._settings.hb_init_retry_ms / 1000
            effects.append(SendToHost(self._settings.init(invocation_id)))
        return effects


#: Events that send a new ``init`` even if the session is enabling already.
_SENDS_INIT: Final = frozenset(
    {SessionEvent.INIT_RETRY, SessionEvent.RELOAD, SessionEvent.CHANNEL_UP}
)
