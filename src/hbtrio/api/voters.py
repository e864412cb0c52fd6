"""The voters of an instance, as the operator API of host and agent reports them."""

from __future__ import annotations

from hbtrio.wire.link_parts import LinkRequest, LinkVoter
from hbtrio.wire.operator import VoterLine, VoterRequestLine
from hbtrio.wire.vocabulary import NotificationType


def voter_lines(voters: tuple[LinkVoter, ...] | None) -> tuple[VoterLine, ...] | None:
    """The voters; None if they are not known."""
    if voters is None:
        return None
    return tuple(
        VoterLine(
            name=one.name,
            health=str(one.health),
            since=one.since or None,
            interval_ms=one.interval_ms,
            corrective_action=str(one.corrective_action),
            reason=one.reason,
            last=None if one.last is None else _request(one.last),
        )
        for one in voters
    )


def _request(last: LinkRequest) -> VoterRequestLine:
    return VoterRequestLine(
        kind="vote" if last.notification is NotificationType.REVOCABLE else "notice",
        event=str(last.event),
        answer=str(last.answer),
        reason=last.reason,
        time=last.time,
    )
