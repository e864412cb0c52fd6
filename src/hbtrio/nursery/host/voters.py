"""Says what a guest reports of its voters with the time of day, for agent and operators."""

from __future__ import annotations

from collections.abc import Callable

from hbtrio.nursery.host.channel import Channel
from hbtrio.policy.reported_voters import ReportedRequest
from hbtrio.wire.link_parts import LinkRequest, LinkVoter
from hbtrio.wire.vocabulary import VoterHealth


def voters_of(channel: Channel) -> tuple[LinkVoter, ...] | None:
    """Returns the voters of an instance; None if its guest does not report them."""
    if channel.voters.voters is None:
        return None
    time_of = channel.reports.time_of
    return tuple(
        LinkVoter(
            name=one.name,
            health=one.health,
            since="" if one.health is VoterHealth.NONE else time_of(one.since),
            interval_ms=one.interval_ms,
            corrective_action=one.corrective_action,
            reason=one.reason,
            last=None if one.last is None else _request(one.last, time_of),
        )
        for one in channel.voters.voters
    )


def _request(request: ReportedRequest, time_of: Callable[[float], str]) -> LinkRequest:
    return LinkRequest(
        event=request.event,
        notification=request.notification,
        answer=request.answer,
        reason=request.reason,
        time=time_of(request.at),
    )
