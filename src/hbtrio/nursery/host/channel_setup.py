"""Holds what a host passes to each of its channels."""

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
    """The host's environment, settings and callbacks for its channels.

    No callback may block. The uuid argument is the instance's.
    """

    dialer: Dialer
    pacer: Pacer
    guard: OnTimeGuard
    reports: Reports
    new_id: Callable[[], int]
    heartbeat: HeartbeatRules
    limits: ReadLimits
    #: Called with each reported loss or ill health: uuid, requested action and reason.
    on_failure: Callable[[str, CorrectiveAction, str], None]
    #: Called with +1 when an instance starts heartbeating, and -1 when it stops.
    on_heartbeating: Callable[[int], None]
    #: Called with the uuid of each instance that seems to be lost: libvirt is to be asked.
    on_suspicion: Callable[[str], None]
    #: Called with the uuid of each instance whose state or profile has changed.
    on_change: Callable[[str], None]
