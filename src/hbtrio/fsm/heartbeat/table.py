"""The states of one instance's heartbeat on the host, and the transitions between them.

Whether the socket is connected is not part of the state (``Heartbeat.connected``): a VM that is
paused, migrating or rebooting may lose its connection and get it back without a change of state.
"""

from __future__ import annotations

from enum import Enum

from hbtrio.fsm.heartbeat.outage import Sign
from hbtrio.fsm.table import Decision, Table


class HeartbeatState(Enum):
    """What the host knows of an instance."""

    # Enum hashes a member's name, in Python, and a beat looks up members four times.
    __hash__ = object.__hash__

    WAITING = "waiting"  # no guest was heartbeating; a loss is impossible
    HEARTBEATING = "heartbeating"  # challenges are answered; silence is a loss
    PROVISIONAL = "provisional"  # heartbeating, but the VM may still be, or become, frozen
    SUSPENDED = "suspended"  # an event is in progress that stops the VM from answering
    UNWATCHED = "unwatched"  # returned, is silent again, and the event should be over
    UNHEARD = "unheard"  # its VM runs, and no guest has said init in time
    RETURNING = "returning"  # the event is over; challenged, but silence does not count yet
    RESTARTING = "restarting"  # goes down, and is expected back within the RESTART window
    LOST = "lost"  # silent for too long; reported once
    PAUSED = "paused"  # libvirt says that its vCPUs stand still: silence does not count
    STOPPED = "stopped"  # libvirt says that it was ended on request
    ABSENT = "absent"  # its guest has exited, or is only remembered, and has not come back
    GONE = "gone"  # the socket was removed; final

    @property
    def shown(self) -> str:
        """The state in APIs and logs, in the words of an operator."""
        state = self
        if self is HeartbeatState.PROVISIONAL:
            state = HeartbeatState.HEARTBEATING
        elif self is HeartbeatState.UNHEARD:
            state = HeartbeatState.UNWATCHED
        return str(state.value)


class HeartbeatEvent(Enum):
    """What can happen to the heartbeat of an instance."""

    __hash__ = object.__hash__

    CONNECTED = "connected"
    CLOSED = "connection closed"
    INIT = "init received"
    ANSWERED = "challenge answered"
    CAME_BACK = "challenge answered after silence: a provisional return"
    PROVEN = "challenge answered, a final return"
    MISSED = "challenge missed"
    FELL_SILENT = "too many challenges missed in a row"
    LEFT = "exit received"
    STOPS = "notice over: it stops"
    FREEZES = "notice over: it freezes or moves"
    RESTARTS = "notice over: it restarts"
    RETURNS = "end notice sent, or enabled by the VIM"
    CALLED_OFF = "the event in progress did not happen"
    UNWATCHED = "still silent at the call-off time"
    RESTART_EXPIRED = "RESTART window closed"
    STAYS_AWAY = "restart over, without a guest before it"
    STAYS_ABSENT = "not back in time: its guest had exited, or nobody knows that its VM runs"
    STAYS_UNHEARD = "no init in time, and its VM runs"
    PAUSED = "libvirt: paused"
    RESUMED = "libvirt: runs again"
    RESUMES_RESTART = "libvirt: runs again within RESTART"
    RESUMES_STOP = "libvirt: runs again, its stop is announced"
    NO_GUEST = "libvirt: runs, and no guest is known"
    RESET = "libvirt: reset or rebooted"
    ENDED = "libvirt: ended on request"
    FAILED = "libvirt: failed or panicked"
    REMOVED = "socket removed"


_S, _E = HeartbeatState, HeartbeatEvent

#: The same in every state: these come from outside and outrank the event in progress.
_NOTICES = {
    _E.STOPS: _S.SUSPENDED,
    _E.FREEZES: _S.SUSPENDED,
    _E.RESTARTS: _S.RESTARTING,
    _E.REMOVED: _S.GONE,
}

#: What libvirt reports is the same in every state, too, but for the states in which it is no news.
_DOMAIN = {
    _E.PAUSED: _S.PAUSED,
    _E.NO_GUEST: _S.WAITING,
    _E.RESET: _S.RESTARTING,
    _E.ENDED: _S.STOPPED,
    _E.FAILED: _S.LOST,
}


def _row(state: HeartbeatState, **steps: HeartbeatState) -> dict[HeartbeatEvent, HeartbeatState]:
    """A row: what comes from outside, the events in ``steps``, and no change for the harmless."""
    row = dict.fromkeys(_HARMLESS, state) | _NOTICES
    domain = {event: after for event, after in _DOMAIN.items() if event not in _NO_NEWS[state]}
    return row | domain | {HeartbeatEvent[name]: after for name, after in steps.items()}


#: What changes nothing unless a row says otherwise.
_HARMLESS = (_E.CLOSED, _E.INIT, _E.MISSED, _E.LEFT, _E.CALLED_OFF, _E.RETURNS)

#: Ends of a restart, what only follows a freeze, and ends of a pause: illegal elsewhere.
_ONLY_RESTARTING = frozenset({_E.RESTART_EXPIRED, _E.STAYS_AWAY, _E.STAYS_ABSENT})
_ONLY_FREEZING = frozenset({_E.CAME_BACK, _E.UNWATCHED})
_ONLY_PAUSED = frozenset({_E.RESUMES_RESTART, _E.RESUMES_STOP})
_NO_EVENT = _ONLY_RESTARTING | _ONLY_FREEZING | {_E.RESUMED}

#: No guest may be there, or may have been there when the VM was paused.
_WITHOUT_GUEST = frozenset({_S.WAITING, _S.PAUSED})

#: Reports of libvirt that say nothing new, or come too late: whoever is heartbeating answers on a
#: connection to the present QEMU process, and what has ended can't be reset.
_NO_NEWS = {
    _S.WAITING: {_E.NO_GUEST},
    _S.HEARTBEATING: {_E.NO_GUEST},
    _S.PROVISIONAL: {_E.NO_GUEST},
    _S.SUSPENDED: set[HeartbeatEvent](),
    _S.UNWATCHED: {_E.NO_GUEST},
    _S.UNHEARD: {_E.RESET, _E.FAILED},
    _S.RETURNING: set[HeartbeatEvent](),
    _S.RESTARTING: {_E.RESET},
    _S.LOST: {_E.FAILED},
    _S.PAUSED: {_E.PAUSED, _E.RESET},
    _S.STOPPED: {_E.ENDED, _E.RESET},
    _S.ABSENT: {_E.RESET, _E.FAILED},
}

HEARTBEAT_TABLE: Table[HeartbeatState, HeartbeatEvent] = Table(
    "heartbeat",
    _S.WAITING,
    {
        _S.WAITING: _row(
            _S.WAITING,
            CONNECTED=_S.WAITING,
            PROVEN=_S.HEARTBEATING,
            RETURNS=_S.RETURNING,
            STAYS_ABSENT=_S.ABSENT,
            STAYS_UNHEARD=_S.UNHEARD,
        ),
        # CONNECTED is illegal here: only a connected instance is heartbeating.
        _S.HEARTBEATING: _row(
            _S.HEARTBEATING,
            ANSWERED=_S.HEARTBEATING,
            CLOSED=_S.WAITING,
            LEFT=_S.WAITING,
            FELL_SILENT=_S.LOST,
        ),
        # Silence is not a loss here, because the VM is expected to freeze.
        _S.PROVISIONAL: _row(
            _S.PROVISIONAL,
            ANSWERED=_S.PROVISIONAL,
            PROVEN=_S.HEARTBEATING,
            CLOSED=_S.SUSPENDED,
            LEFT=_S.WAITING,
            FELL_SILENT=_S.SUSPENDED,
            UNWATCHED=_S.UNWATCHED,
            RETURNS=_S.HEARTBEATING,
            CALLED_OFF=_S.HEARTBEATING,
        ),
        _S.SUSPENDED: _row(
            _S.SUSPENDED,
            CONNECTED=_S.SUSPENDED,
            ANSWERED=_S.SUSPENDED,
            CAME_BACK=_S.PROVISIONAL,
            PROVEN=_S.HEARTBEATING,
            LEFT=_S.WAITING,
            UNWATCHED=_S.UNWATCHED,
            RETURNS=_S.RETURNING,
            CALLED_OFF=_S.RETURNING,
            RESUMED=_S.RETURNING,
        ),
        # A closed socket changes nothing: the alarm lasts until an answer or an end notice.
        _S.UNWATCHED: _row(
            _S.UNWATCHED,
            CONNECTED=_S.UNWATCHED,
            PROVEN=_S.HEARTBEATING,
            LEFT=_S.WAITING,
            RETURNS=_S.RETURNING,
            CALLED_OFF=_S.RETURNING,
            RESUMED=_S.RETURNING,
        ),
        # A closed socket changes nothing: the host reconnects to silent ones now and then.
        _S.UNHEARD: _row(
            _S.UNHEARD,
            CONNECTED=_S.UNHEARD,
            PROVEN=_S.HEARTBEATING,
            RETURNS=_S.RETURNING,
        ),
        _S.RETURNING: _row(
            _S.RETURNING,
            CONNECTED=_S.RETURNING,
            PROVEN=_S.HEARTBEATING,
            LEFT=_S.WAITING,
            RESTART_EXPIRED=_S.LOST,
            STAYS_AWAY=_S.WAITING,
            STAYS_ABSENT=_S.ABSENT,
        ),
        # An exit and a closed socket belong to going down, and an end notice may come too early:
        # only an answered init, or the end of the window, ends it.
        _S.RESTARTING: _row(
            _S.RESTARTING,
            CONNECTED=_S.RESTARTING,
            ANSWERED=_S.RESTARTING,
            PROVEN=_S.HEARTBEATING,
            CALLED_OFF=_S.RETURNING,
            RESTART_EXPIRED=_S.LOST,
            STAYS_AWAY=_S.WAITING,
            STAYS_ABSENT=_S.ABSENT,
        ),
        # It may have no connection, if its RESTART window closed meanwhile.
        _S.LOST: _row(
            _S.LOST,
            CONNECTED=_S.LOST,
            PROVEN=_S.HEARTBEATING,
            CLOSED=_S.WAITING,
            LEFT=_S.WAITING,
            RETURNS=_S.RETURNING,
        ),
        # What the guest says has waited, or libvirt's next answer is on its way. If libvirt is
        # silent, an answered init ends the state.
        _S.PAUSED: _row(
            _S.PAUSED,
            CONNECTED=_S.PAUSED,
            PROVEN=_S.HEARTBEATING,
            RESUMED=_S.RETURNING,
            RESUMES_RESTART=_S.RESTARTING,
            RESUMES_STOP=_S.SUSPENDED,
            STAYS_ABSENT=_S.ABSENT,
            STAYS_UNHEARD=_S.UNHEARD,
        ),
        # A saved one that is restored goes on where it was.
        _S.STOPPED: _row(
            _S.STOPPED,
            CONNECTED=_S.STOPPED,
            PROVEN=_S.HEARTBEATING,
            RESUMED=_S.RETURNING,
        ),
        _S.ABSENT: _row(
            _S.ABSENT,
            CONNECTED=_S.ABSENT,
            PROVEN=_S.HEARTBEATING,
            RETURNS=_S.RETURNING,
        ),
        _S.GONE: {},
    },
    {
        state: illegal
        | _NO_NEWS[state]
        | (frozenset() if state is _S.PAUSED else _ONLY_PAUSED)
        | (frozenset() if state in _WITHOUT_GUEST else {_E.STAYS_UNHEARD})
        for state, illegal in {
            # Only a guest that has sent ``init`` is challenged here, and its answer is PROVEN.
            _S.WAITING: (_NO_EVENT - {_E.STAYS_ABSENT}) | {_E.ANSWERED, _E.FELL_SILENT},
            _S.UNHEARD: _NO_EVENT | {_E.ANSWERED, _E.FELL_SILENT},
            _S.HEARTBEATING: _NO_EVENT | {_E.CONNECTED, _E.PROVEN},
            _S.PROVISIONAL: _ONLY_RESTARTING | {_E.CONNECTED, _E.CAME_BACK, _E.RESUMED},
            _S.SUSPENDED: _ONLY_RESTARTING | {_E.FELL_SILENT},
            # Every answer is PROVEN here.
            _S.UNWATCHED: _ONLY_RESTARTING | _ONLY_FREEZING | {_E.ANSWERED, _E.FELL_SILENT},
            _S.RETURNING: _ONLY_FREEZING | {_E.RESUMED, _E.ANSWERED, _E.FELL_SILENT},
            _S.RESTARTING: _ONLY_FREEZING | {_E.RESUMED, _E.FELL_SILENT},
            _S.LOST: _NO_EVENT | {_E.ANSWERED, _E.FELL_SILENT},
            _S.PAUSED: (_ONLY_RESTARTING | _ONLY_FREEZING | {_E.ANSWERED, _E.FELL_SILENT})
            - {_E.STAYS_ABSENT},
            _S.STOPPED: _ONLY_RESTARTING | _ONLY_FREEZING | {_E.ANSWERED, _E.FELL_SILENT},
            _S.ABSENT: _NO_EVENT | {_E.ANSWERED, _E.FELL_SILENT},
        }.items()
    }
    | {_S.GONE: frozenset(HeartbeatEvent)},
    HeartbeatEvent,
)

#: What the answer to the last challenge means. In most states it is the first answer since an
#: ``init`` or an end notice, and so PROVEN.
_PROOF = dict.fromkeys(Sign, _E.PROVEN)

ANSWER_DECISION: Decision[HeartbeatState, Sign, HeartbeatEvent] = Decision(
    "what an answer means to the heartbeat",
    HEARTBEAT_TABLE,
    {
        _S.WAITING: _PROOF,
        _S.HEARTBEATING: dict.fromkeys(Sign, _E.ANSWERED),
        _S.PROVISIONAL: _PROOF | {Sign.GOES_ON: _E.ANSWERED, Sign.BACK: _E.ANSWERED},
        _S.SUSPENDED: _PROOF | {Sign.GOES_ON: _E.ANSWERED, Sign.BACK: _E.CAME_BACK},
        _S.UNWATCHED: _PROOF,
        _S.UNHEARD: _PROOF,
        _S.RETURNING: _PROOF,
        # A guest that goes down for a restart answers until it does.
        _S.RESTARTING: _PROOF | {Sign.GOES_ON: _E.ANSWERED},
        _S.LOST: _PROOF,
        _S.PAUSED: _PROOF,
        _S.STOPPED: _PROOF,
        _S.ABSENT: _PROOF,
    },
    Sign,
)

#: Challenges are answered.
HEARTBEATING = frozenset({_S.HEARTBEATING, _S.PROVISIONAL})

#: Challenges continue even if unanswered.
CHALLENGED = HEARTBEATING | {_S.RETURNING}

#: Challenges continue while they are answered.
PROBED = frozenset({_S.SUSPENDED, _S.UNWATCHED, _S.RESTARTING})

#: An event that freezes the VM may be in progress; an end notice matters only in these.
FREEZING = frozenset({_S.PROVISIONAL, _S.SUSPENDED, _S.UNWATCHED})

#: Votes and notices are sent to an instance only in these.
TAKING_PART = CHALLENGED | {_S.SUSPENDED, _S.RESTARTING}

#: Expected back within a RESTART window.
EXPECTED_BACK = frozenset({_S.RETURNING, _S.RESTARTING})

#: Their silence is expected, or is judged by other means than a reconnect.
PATIENT = HEARTBEATING | {_S.SUSPENDED, _S.PAUSED}
