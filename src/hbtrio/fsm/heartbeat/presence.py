"""The presence of a guest: whether it has sent ``init``, is proven, or has left.

An ``init`` alone proves nothing: it may have been left in the buffer of a VM that no longer exists,
and would end in a false loss. The proof is an answer to a challenge sent after it. Only a proven
guest can be lost.

A guest that was notified of a restart and sends ``exit`` goes down for it, and is expected back.
"""

from __future__ import annotations

from enum import Enum
from typing import Final

from hbtrio.fsm.table import Table


class Presence(Enum):
    """The presence of the guest of an instance."""

    __hash__ = object.__hash__

    NONE = "none"  # no guest was proven so far
    EXITED = "exited"  # a proven one has sent exit, and no init since
    UNPROVEN = "unproven"  # an init was received while there was no guest
    PROVEN = "proven"  # it has answered a challenge
    REPROVING = "proven, init again"  # it started over, and has not answered a challenge since
    LEAVING = "leaving"  # proven, and notified of its restart: it may exit and return
    LEAVING_INIT = "leaving, init again"  # the same, and it has started over


class PresenceEvent(Enum):
    """What can happen to the presence of a guest."""

    __hash__ = object.__hash__

    INIT = "init received"
    ANSWERED = "challenge answered"
    INIT_VOID = "init void: no answer followed, its connection closed or an event began"
    LEFT = "exit received, except while restarting"
    RESTART_NOTICE = "notice of a restart opened"
    RESTARTS = "notice of a restart over"
    NEW_PROCESS = "a new QEMU process: nothing known of the old guest holds"


_P, _E = Presence, PresenceEvent

PRESENCE_TABLE: Table[Presence, PresenceEvent] = Table(
    "presence of a guest",
    _P.NONE,
    {
        _P.NONE: {
            _E.INIT: _P.UNPROVEN,
            # An instance that returns is challenged without an init.
            _E.ANSWERED: _P.PROVEN,
            _E.INIT_VOID: _P.NONE,
            _E.LEFT: _P.NONE,
            _E.RESTART_NOTICE: _P.NONE,
            _E.RESTARTS: _P.NONE,
            _E.NEW_PROCESS: _P.NONE,
        },
        _P.EXITED: {
            _E.INIT: _P.UNPROVEN,
            _E.ANSWERED: _P.PROVEN,
            _E.INIT_VOID: _P.EXITED,
            _E.LEFT: _P.EXITED,
            _E.RESTART_NOTICE: _P.EXITED,
            _E.RESTARTS: _P.NONE,
            _E.NEW_PROCESS: _P.NONE,
        },
        _P.UNPROVEN: {
            _E.INIT: _P.UNPROVEN,
            _E.ANSWERED: _P.PROVEN,
            _E.INIT_VOID: _P.NONE,
            _E.LEFT: _P.NONE,
            _E.RESTART_NOTICE: _P.UNPROVEN,
            _E.RESTARTS: _P.NONE,
            _E.NEW_PROCESS: _P.UNPROVEN,
        },
        _P.PROVEN: {
            _E.INIT: _P.REPROVING,
            _E.ANSWERED: _P.PROVEN,
            _E.INIT_VOID: _P.PROVEN,
            _E.LEFT: _P.EXITED,
            _E.RESTART_NOTICE: _P.LEAVING,
            _E.RESTARTS: _P.PROVEN,
            _E.NEW_PROCESS: _P.NONE,
        },
        _P.REPROVING: {
            _E.INIT: _P.REPROVING,
            _E.ANSWERED: _P.PROVEN,
            _E.INIT_VOID: _P.PROVEN,
            _E.LEFT: _P.EXITED,
            _E.RESTART_NOTICE: _P.LEAVING_INIT,
            _E.RESTARTS: _P.PROVEN,
            _E.NEW_PROCESS: _P.UNPROVEN,
        },
        _P.LEAVING: {
            _E.INIT: _P.LEAVING_INIT,
            _E.ANSWERED: _P.LEAVING,
            _E.INIT_VOID: _P.LEAVING,
            _E.LEFT: _P.LEAVING,
            _E.RESTART_NOTICE: _P.LEAVING,
            _E.RESTARTS: _P.PROVEN,
            _E.NEW_PROCESS: _P.NONE,
        },
        _P.LEAVING_INIT: {
            _E.INIT: _P.LEAVING_INIT,
            _E.ANSWERED: _P.LEAVING,
            _E.INIT_VOID: _P.LEAVING,
            _E.LEFT: _P.LEAVING,
            _E.RESTART_NOTICE: _P.LEAVING_INIT,
            _E.RESTARTS: _P.PROVEN,
            _E.NEW_PROCESS: _P.UNPROVEN,
        },
    },
    # Nothing is illegal: anything can come from outside, and at any time.
    dict.fromkeys(Presence, frozenset()),
    PresenceEvent,
)

#: An ``init`` was received, and no challenge has been answered since.
INIT_SEEN: Final = frozenset({_P.UNPROVEN, _P.REPROVING, _P.LEAVING_INIT})

#: No guest is there: none has said ``init``, or the last one has said ``exit``.
GUEST_MISSING: Final = frozenset({_P.NONE, _P.EXITED})

#: There is a guest, or was one that is expected back; without one, none can be lost.
GUEST_KNOWN: Final = frozenset({_P.PROVEN, _P.REPROVING, _P.LEAVING, _P.LEAVING_INIT})
