"""Groups: of whom only so many may be unavailable at once."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from hbtrio.wire.operator.words import Body, Count, Text


class MemberLine(Body, frozen=True, kw_only=True):
    """A member that is unavailable, with or without a channel."""

    uuid: str
    name: Annotated[Text, Meta(description="libvirt's; the uuid if that is unknown.")]
    state: Annotated[Text, Meta(description="What it is or does, as in: db-2 is restarting.")]


class GroupLine(Body, frozen=True, kw_only=True):
    """A group as it is now."""

    name: str
    rule: Annotated[str, Meta(description="As in: at most 1 of 3 may be unavailable.")]
    members: Annotated[tuple[str, ...], Meta(description="Their uuids.")] = ()
    available: Annotated[Count, Meta(description="How many are heartbeating and healthy.")]
    max_unavailable: Annotated[Count, Meta(description="How many may be unavailable.")]
    allowed_now: Annotated[Count, Meta(description="How many more may go down now.")]
    unavailable: tuple[MemberLine, ...] = ()
