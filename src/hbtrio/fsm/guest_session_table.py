"""The states and events of the guest's session, and the table of what follows from them."""

from __future__ import annotations

from enum import StrEnum

from hbtrio.fsm.table import Table


class SessionState(StrEnum):
    """The state of the session. The values appear in a log line that operators grep for."""

    INITIAL = "initial"  # just started, or shut down: nothing is sent
    ENABLING = "enabling"  # the channel is up; init is sent until the host acknowledges
    ENABLED = "enabled"  # the host acknowledged init and sends challenges
    DISABLED = "disabled"  # the channel is down


class SessionEvent(StrEnum):
    """The events of a session; the values are those of the deployed client's log."""

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
