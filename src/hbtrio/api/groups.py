"""The groups of a host or agent, as its operator API has them."""

from __future__ import annotations

from collections.abc import Iterator

import attrs
from prometheus_client.core import GaugeMetricFamily, Metric
from starlette.exceptions import HTTPException
from starlette.requests import Request

from hbtrio.api import common as api_parts
from hbtrio.policy.groups import Groups
from hbtrio.wire.operator import EventFilter, GroupLine, MemberLine


def group_lines(groups: Groups) -> tuple[GroupLine, ...]:
    """All groups, in the order of the configuration."""
    return tuple(
        GroupLine(
            name=picture.group.name,
            rule=picture.group.words(picture.total),
            members=tuple(sorted(groups.in_group(picture.group.name))),
            available=picture.available,
            max_unavailable=picture.allowed,
            allowed_now=picture.allowed_now,
            unavailable=tuple(
                MemberLine(uuid=one.uuid, name=one.name, state=one.words)
                for one in picture.unavailable
            ),
        )
        for picture in groups.pictures()
    )


def groups_of(groups: Groups, uuid: str) -> tuple[str, ...]:
    """The names of an instance's groups, in the order of the configuration."""
    return tuple(group.name for group in groups.groups_of(uuid))


def event_filter(request: Request, groups: Groups) -> EventFilter:
    """Which events the query asks for, and who is in the group that it names.

    Raises:
        HTTPException: 400, it is faulty, or there is no such group.
    """
    wanted = api_parts.event_filter(request)
    if not wanted.group:
        return wanted
    try:
        return attrs.evolve(wanted, members=groups.in_group(wanted.group))
    except KeyError:
        raise HTTPException(400, f"group: there is no group {wanted.group[:64]!r}") from None


def group_metrics(prefix: str, groups: Groups) -> Iterator[Metric]:
    """The metrics of all groups; the configuration bounds their number.

    Args:
        prefix: of the daemon's metrics, such as ``hbtrio_host``.
        groups: the groups.
    """
    families = (
        GaugeMetricFamily(
            f"{prefix}_group_members", "Members of a group that are known.", labels=["group"]
        ),
        GaugeMetricFamily(
            f"{prefix}_group_available",
            "Members of a group that are heartbeating and healthy, and not being taken down.",
            labels=["group"],
        ),
        GaugeMetricFamily(
            f"{prefix}_group_max_unavailable",
            "How many members of a group may be unavailable.",
            labels=["group"],
        ),
    )
    for picture in groups.pictures():
        values = (picture.total, picture.available, picture.allowed)
        for family, value in zip(families, values, strict=True):
            family.add_metric([picture.group.name], value)
    yield from families
