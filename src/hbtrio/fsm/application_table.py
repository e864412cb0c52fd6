"""The states and events of an application, and the table of what follows from them."""

from __future__ import annotations

from enum import Enum
from typing import Final

from hbtrio.fsm.table import Table


class ApplicationState(Enum):
    """The state of an application."""

    UNREGISTERED = "unregistered"  # connected, but not registered, refused, or signed off
    HEALTHY = "healthy"  # registered, and its last response was not unhealthy
    ILL = "ill"  # its last response was unhealthy
    SILENT = "silent"  # two intervals without a correct response
    GONE = "gone"  # its connection is closed


class ApplicationEvent(Enum):
    """The events of an application."""

    INIT_ACCEPTED = "init accepted"
    INIT_REFUSED = "init refused"
    CHALLENGE_DUE = "a challenge is due"
    ANSWERED_HEALTHY = "answered that it is healthy"
    ANSWERED_ILL = "answered that it is unhealthy"
    TIMED_OUT = "no correct answer for two intervals"
    FINAL_CAME = "final received"
    CONNECTION_CLOSED = "connection closed"


_S, _E = ApplicationState, ApplicationEvent

_REGISTERED: Final = {
    _E.INIT_ACCEPTED: _S.HEALTHY,
    _E.INIT_REFUSED: _S.UNREGISTERED,
    _E.ANSWERED_HEALTHY: _S.HEALTHY,
    _E.ANSWERED_ILL: _S.ILL,
    _E.FINAL_CAME: _S.UNREGISTERED,
    _E.CONNECTION_CLOSED: _S.GONE,
}

APPLICATION_TABLE: Table[ApplicationState, ApplicationEvent] = Table(
    "application",
    _S.UNREGISTERED,
    {
        _S.UNREGISTERED: {
            _E.INIT_ACCEPTED: _S.HEALTHY,
            _E.INIT_REFUSED: _S.UNREGISTERED,
            _E.FINAL_CAME: _S.UNREGISTERED,
            _E.CONNECTION_CLOSED: _S.GONE,
        },
        _S.HEALTHY: {**_REGISTERED, _E.CHALLENGE_DUE: _S.HEALTHY, _E.TIMED_OUT: _S.SILENT},
        _S.ILL: {**_REGISTERED, _E.CHALLENGE_DUE: _S.ILL, _E.TIMED_OUT: _S.SILENT},
        _S.SILENT: {**_REGISTERED, _E.CHALLENGE_DUE: _S.SILENT},
        _S.GONE: {},
    },
    {
        _S.UNREGISTERED: frozenset(
            {_E.CHALLENGE_DUE, _E.ANSWERED_HEALTHY, _E.ANSWERED_ILL, _E.TIMED_OUT}
        ),
        _S.HEALTHY: frozenset(),
        _S.ILL: frozenset(),
        _S.SILENT: frozenset({_E.TIMED_OUT}),
        _S.GONE: frozenset(ApplicationEvent),
    },
    ApplicationEvent,
)
