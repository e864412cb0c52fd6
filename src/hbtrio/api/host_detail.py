"""All that a host knows of one instance, as its operator API reports it."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import trio

from hbtrio.api.groups import groups_of
from hbtrio.api.host_status import instance_status, left_out_status, time_of
from hbtrio.api.voters import voter_lines
from hbtrio.nursery.host.channel import Channel
from hbtrio.nursery.host.daemon import Host
from hbtrio.nursery.host.next_loss import next_loss
from hbtrio.nursery.host.voters import voters_of
from hbtrio.wire.operator import CorrectiveLine, InstanceDetail, InstanceLine


def instance_detail(host: Host, uuid: str) -> InstanceDetail | None:
    """One instance; None if the host does not know it."""
    now = trio.current_time()
    if (channel := host.channels.get(uuid)) is not None:
        return _detail(host, instance_status(host, channel, now), channel, now)
    if uuid in host.watched.left_out:
        return _detail(host, left_out_status(host, uuid, now), None, now)
    return None


def _detail(host: Host, line: InstanceLine, channel: Channel | None, now: float) -> InstanceDetail:
    members: dict[str, Any] = msgspec.structs.asdict(line)
    action = host.actions.get(line.uuid)
    members |= {
        "hostname": host.config.hostname,
        "action": "" if action is None else str(action.name),
        "corrective": _corrective(host, line.uuid, now),
        "groups": groups_of(host.groups.rule, line.uuid),
    }
    if channel is not None:
        members["since"] = time_of(host, channel.reports.since, now)
        members["voters"] = voter_lines(voters_of(channel))
        members["voters_unlisted"] = channel.voters.unlisted
        foreseen = next_loss(channel, host.corrective, host.domains)
        agent = host.link.agent or host.link.endpoint if foreseen.reported else ""
        members["next_loss"] = msgspec.structs.replace(foreseen, agent=agent)
    return InstanceDetail(**members)


def _corrective(host: Host, uuid: str, now: float) -> CorrectiveLine:
    quota = host.corrective.quota_of(uuid)
    next_at = quota.free_at(now)
    return CorrectiveLine(
        used=quota.used(now),
        per_hour=quota.count,
        next_at=time_of(host, next_at, now) if now < next_at < math.inf else None,
    )
