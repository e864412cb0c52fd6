"""The closed lists of words by which a host's metrics tell instances and commands apart."""

from __future__ import annotations

from typing import Final

from hbtrio.fsm.corrective import Cause
from hbtrio.fsm.heartbeat.table import HeartbeatState
from hbtrio.nursery.host.correction_command import Outcome

#: Of an instance's state, as APIs and logs show it.
STATES: Final = tuple(dict.fromkeys(state.shown for state in HeartbeatState))

#: Why no corrective command was run.
CAUSES: Final = tuple(map(str, Cause))

#: That of an instance which an operator has put on hold.
ON_HOLD: Final = str(Cause.HOLD)

#: How a corrective command has ended.
OUTCOMES: Final = tuple(dict.fromkeys(outcome.word for outcome in Outcome))
