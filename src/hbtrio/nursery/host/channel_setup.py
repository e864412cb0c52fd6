"""Holds what a host passes to each of its channels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import attrs

from hbtrio.fsm.heartbeat.rules import HeartbeatRules
from hbtrio.nursery.host.connection import ReadLimits
from hbtrio.nursery.host.counts import HostCounts
from hbtrio.nursery.host.reports import Reports
from hbtrio.nursery.pacer import Pacer
from hbtrio.nursery.port import Dialer
from hbtrio.policy.time_guard import OnTimeGuard
from hbtrio.wire.vocabulary import CorrectiveAction


class OnFailure(Protocol):
    """Takes the failure of an instance."""

    def __call__(
        self, uuid: str, action: CorrectiveAction, reason: str, *, seen: bool = True
    ) -> None:
        """Takes the requested action, the reason, and whether this run had heard the guest."""


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
    counts: HostCounts
    #: Called with each reported loss or ill health.
    on_failure: OnFailure
    #: Called with +1 when an instance starts heartbeating, and -1 when it stops.
    on_heartbeating: Callable[[int], None]
    #: Called with the uuid of each instance that seems to be lost: libvirt is to be asked.
    on_suspicion: Callable[[str], None]
    #: Called with the uuid of each instance whose state or profile has changed.
    on_change: Callable[[str], None]
    #: Returns whether libvirt says, as far as it was heard, that an instance's VM runs.
    domain_runs: Callable[[str], bool]
