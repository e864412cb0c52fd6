"""Excuses that several invariants have."""

from __future__ import annotations

from typing import Final

from hbtrio.simulate.invariant import Excuse
from hbtrio.simulate.observations import Condition

#: A daemon that is so does nothing.
AWAY: Final = (Condition.STOPPED, Condition.DOWN)

ANNOUNCED: Final = Excuse(
    "announced", "an action on it is in progress, or its RESTART may not be over yet"
)
HELD: Final = Excuse("held", "it was on hold; from its end on the time counts")
HOST_AWAY: Final = Excuse(
    "host-away", "its host's daemon is stopped or down; that time does not count"
)
LOG: Final = Excuse("log", "the command `log` does nothing to the VM")
OVERRIDDEN: Final = Excuse(
    "overridden", "an operator or a configured bound decided over it, and it is recorded so"
)
STOPPED_BETWEEN: Final = Excuse(
    "stopped-between", "the process was stopped between its look at the time and what it did"
)
VIM_AWAY: Final = Excuse("vim-away", "the VIM refused connections, or was slow or silent")
