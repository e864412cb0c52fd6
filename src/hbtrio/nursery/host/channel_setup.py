"""What every channel of a host is handed."""

from __future__ import annotations

from collections.abc import Callable

import attrs

from hbtrio.fsm.heartbeat.rules import HeartbeatRules
from hbtrio.nursery.host.connection import ReadLimits
from hbtrio.nursery.host.reports import Reports
from hbtrio.nursery.pacer import Pacer
from hbtrio.nursery.port import Dialer
from hbtrio.policy.time_guard import OnTimeGuard
from hbtrio.wire.vocabulary import CorrectiveAction


@attrs.frozen
class ChannelSetup:
    """The host's environment and settings, and who hears of an instance, by its uuid.

    None of the functions may block.
    """

    dialer: Dialer
    pacer: Pacer
    guard: OnTimeGuard
    reports: Reports
    new_id: Callable[[], int]
    heartbeat: HeartbeatRules
    limits: ReadLimits
    #: Called with each loss and ill health that is reported, the action wanted and the reason.
    on_failure: Callable[[str, CorrectiveAction, str], None]
    #: Called with +1 for each instance that begins to be heartbeating, and -1 when it ceases.
    on_heartbeating: Callable[[int], None]
    #: Called for each instance whose state or profile has changed.
    on_change: Callable[[str], None]
