"""Holds what a host passes to each of its channels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import attrs

from hbtrio.config.host import HostConfig, LimitSettings
from hbtrio.fsm.heartbeat.rules import HeartbeatRules
from hbtrio.nursery.host.connection import ReadLimits
from hbtrio.nursery.host.counts import HostCounts
from hbtrio.nursery.host.read_hub import ReadHub
from hbtrio.nursery.host.reports import Reports
from hbtrio.nursery.host.vetoes import Vetoes
from hbtrio.nursery.pacer import Pacer
from hbtrio.nursery.port import Dialer
from hbtrio.policy.profile import ProfileLimits
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
    vetoes: Vetoes
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
    #: Reads from the dialer's ports.
    hub: ReadHub = attrs.field(init=False)

    @hub.default
    def _make_hub(self) -> ReadHub:
        return ReadHub(self.dialer.readers)


def heartbeat_rules(config: HostConfig) -> HeartbeatRules:
    """Returns the settings of all heartbeats, as configured."""
    heartbeat, limits = config.heartbeat, config.limits
    return HeartbeatRules(
        extension_s=config.windows.max_extension_s.by_window,
        failure_threshold=heartbeat.failure_threshold,
        reconnect_silent_s=heartbeat.reconnect_silent_s,
        grace_s=heartbeat.grace_s,
        absent_after_s=heartbeat.absent_after_s,
        limits=ProfileLimits(
            interval_min_ms=heartbeat.interval_min_ms,
            interval_max_ms=heartbeat.interval_max_ms,
            vote_max_s=limits.vote_max_s,
            notice_max_s=limits.notice_max_s,
            restart_max_s=limits.restart_max_s,
        ),
    )


def read_limits(limits: LimitSettings) -> ReadLimits:
    """Returns how much may be read of each channel, as configured."""
    return ReadLimits(limits.line_bytes, limits.bytes_per_s, limits.burst_bytes)
