"""The guest's side of the channel: the handshake, the challenges and the way back (PROTOCOL.md).

The session is a pure machine: it is told what happened and when, and returns effects for its task
to carry out. It asks for time through :attr:`GuestSession.deadline`; the task sleeps until then and
calls :meth:`GuestSession.expired`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from enum import StrEnum
from typing import Final

import attrs

from hbtrio.fsm.table import Table
from hbtrio.wire.channel_messages import (
    ActionNotify,
    ActionResponse,
    Challenge,
    Exit,
    Init,
    InitAck,
    Message,
)
from hbtrio.wire.vocabulary import CorrectiveAction, VoteResult

#: The guest waits this long after its start, so that a host that has just connected listens.
RELEASE_S: Final = 1.0

#: What the guest adds to each window it advertises, for the answer's way to the host.
PROPAGATION_S: Final = 1


class SessionState(StrEnum):
    """What the guest knows of its host. The values stand in the log line operators grep for."""

    INITIAL = "initial"  # started, or shut down: nothing is said
    ENABLING = "enabling"  # the channel is up, init is being sent
    ENABLED = "enabled"  # the host acknowledged and is challenging us
    DISABLED = "disabled"  # the channel is down


class SessionEvent(StrEnum):
    """What can happen to a session; the values are the words of the deployed client's log."""

    RELEASE = "release"
    INIT_ACK = "init-ack"
    INIT_RETRY = "init-retry"
    CHALLENGE = "challenge"
    CHALLENGE_TIMEOUT = "challenge-timeout"
    ACTION = "action"
    RELOAD = "reload"
    CHANNEL_UP = "channel-up"
    CHANNEL_DOWN = "channel-down"
    SHUTDOWN = "shutdown"


_S, _E = SessionState, SessionEvent

SESSION_TABLE: Table[SessionState, SessionEvent] = Table(
    "guest session",
    _S.INITIAL,
    {
        _S.INITIAL: {
            _E.RELEASE: _S.ENABLING,
            _E.INIT_ACK: _S.INITIAL,
            _E.CHALLENGE: _S.INITIAL,
            _E.ACTION: _S.INITIAL,
            _E.RELOAD: _S.INITIAL,
            _E.CHANNEL_UP: _S.ENABLING,
            _E.CHANNEL_DOWN: _S.DISABLED,
            _E.SHUTDOWN: _S.INITIAL,
        },
        _S.ENABLING: {
            _E.INIT_ACK: _S.ENABLED,
            _E.INIT_RETRY: _S.ENABLING,
            _E.CHALLENGE: _S.ENABLING,
            _E.ACTION: _S.ENABLING,
            _E.RELOAD: _S.ENABLING,
            _E.CHANNEL_UP: _S.ENABLING,
            _E.CHANNEL_DOWN: _S.DISABLED,
            _E.SHUTDOWN: _S.INITIAL,
        },
        _S.ENABLED: {
            _E.INIT_ACK: _S.ENABLED,
            _E.CHALLENGE: _S.ENABLED,
            _E.CHALLENGE_TIMEOUT: _S.ENABLING,
            _E.ACTION: _S.ENABLED,
            _E.RELOAD: _S.ENABLING,
            _E.CHANNEL_UP: _S.ENABLING,
            _E.CHANNEL_DOWN: _S.DISABLED,
            _E.SHUTDOWN: _S.INITIAL,
        },
        _S.DISABLED: {
            _E.INIT_ACK: _S.DISABLED,
            _E.CHALLENGE: _S.DISABLED,
            _E.ACTION: _S.DISABLED,
            _E.RELOAD: _S.DISABLED,
            _E.CHANNEL_UP: _S.ENABLING,
            _E.CHANNEL_DOWN: _S.DISABLED,
            _E.SHUTDOWN: _S.INITIAL,
        },
    },
    {
        _S.INITIAL: frozenset({_E.INIT_RETRY, _E.CHALLENGE_TIMEOUT}),
        _S.ENABLING: frozenset({_E.RELEASE, _E.CHALLENGE_TIMEOUT}),
        _S.ENABLED: frozenset({_E.RELEASE, _E.INIT_RETRY}),
        _S.DISABLED: frozenset({_E.RELEASE, _E.INIT_RETRY, _E.CHALLENGE_TIMEOUT}),
    },
    SessionEvent,
)


@attrs.frozen
class SessionSettings:
    """What the guest advertises and waits for; durations as in guest_heartbeat.conf."""

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
        """How long the guest waits for a challenge before it sends ``init`` again."""
        return max(2 * self.hb_interval_ms, self.hb_min_timeout_ms) / 1000

    def init(self, invocation_id: int) -> Init:
        """The ``init`` that advertises these settings."""
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


@attrs.frozen
class SendToHost:
    """Send this message on the channel; if it is down the message is lost, which is fine."""

    message: Message


@attrs.frozen
class AnswerChallenge:
    """Answer this challenge with the health of this moment."""

    number: int


@attrs.frozen
class StartAction:
    """Open the window of this vote or notice; an action in progress is superseded."""

    notify: ActionNotify


@attrs.frozen
class AbortAction:
    """Nobody waits for the answer of the action in progress any more: end its handlers."""

    why: str


@attrs.frozen
class SessionStateChanged:
    """Write the line that operators grep for."""

    old: SessionState
    new: SessionState
    event: SessionEvent


Effect = SendToHost | AnswerChallenge | StartAction | AbortAction | SessionStateChanged


class GuestSession:
    """The guest's session with whatever host is at the other end of the channel.

    Args:
        settings: what to advertise and how long to wait.
        new_id: makes ids in 0..2^31-1; handed in so that a simulation can seed it.
        now: the time of the start, in seconds of the caller's monotonic clock.
    """

    def __init__(self, settings: SessionSettings, *, new_id: Callable[[], int], now: float) -> None:
        self.state = SESSION_TABLE.initial
        #: When :meth:`expired` wants to be called; infinity when nothing is being waited for.
        self.deadline = now + RELEASE_S
        self._settings = settings
        self._new_id = new_id
        self._init_ids: tuple[int, ...] = ()

    def channel_up(self, now: float) -> list[Effect]:
        """The channel can carry bytes: it was opened, or the host connected."""
        return self._step(SessionEvent.CHANNEL_UP, now)

    def channel_down(self, now: float) -> list[Effect]:
        """The channel can't carry bytes: it failed to open, broke, or the host went away."""
        effects = self._step(SessionEvent.CHANNEL_DOWN, now)
        return [*effects, AbortAction("the channel is down")]

    def received(self, message: Message, now: float) -> list[Effect]:
        """A message of the host; those a host never sends are ignored."""
        match message:
            case InitAck(invocation_id=acknowledged):
                # Only the last two ids count: an older ack is a leftover of another session.
                if acknowledged not in self._init_ids:
                    return []
                return self._step(SessionEvent.INIT_ACK, now)
            case ActionNotify():
                return [*self._step(SessionEvent.ACTION, now), self._action(message)]
            case Challenge(heartbeat_challenge=number):
                effects = self._step(SessionEvent.CHALLENGE, now)
                if self.state is SessionState.ENABLED:
                    self.deadline = now + self._settings.challenge_timeout_s
                    effects.append(AnswerChallenge(number))
                return effects
            case _:
                return []

    def expired(self, now: float, *, late: bool) -> list[Effect]:
        """The deadline has passed.

        Args:
            now: the time, at or after :attr:`deadline`.
            late: whether this process is not being scheduled on time. A challenge timeout is then
                ignored and armed again: the challenges may be waiting to be read.
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
        """The configuration was read again: advertise it with a fresh ``init``."""
        self._settings = settings
        return self._step(SessionEvent.RELOAD, now)

    def shutdown(self, now: float) -> list[Effect]:
        """The daemon stops: from enabled the host is told, so that it does not report a loss."""
        farewell = self.state is SessionState.ENABLED
        effects = self._step(SessionEvent.SHUTDOWN, now)
        self.deadline = math.inf
        if farewell:
            effects.insert(0, SendToHost(Exit("Exiting...")))
        # An action under way is answered before the farewell: the host stops listening then.
        return [AbortAction("the daemon is stopping"), *effects]

    def _action(self, notify: ActionNotify) -> Effect:
        if self.state is SessionState.ENABLED:
            return StartAction(notify)
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


#: Events that send a fresh ``init`` even when the session was enabling already.
_SENDS_INIT: Final = frozenset(
    {SessionEvent.INIT_RETRY, SessionEvent.RELOAD, SessionEvent.CHANNEL_UP}
)
