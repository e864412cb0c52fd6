"""Holds on instances: for a time nothing corrective is done to them."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from hbtrio.wire.operator.words import Body, Time


class HoldLine(Body, frozen=True, kw_only=True):
    """A hold on an instance: until when, who set it when, and why."""

    until: Time
    since: Time
    who: str
    reason: str


class HoldReply(Body, frozen=True, kw_only=True):
    """What was set or ended."""

    uuid: str
    hold: Annotated[HoldLine | None, Meta(description="null: it is not on hold now.")] = None
    stored: Annotated[
        bool, Meta(description="false: a restart of the daemon may undo this; see why.")
    ] = True
    why: Annotated[str, Meta(description="Why it is not stored.")] = ""
    running: Annotated[
        str, Meta(description="The corrective command that runs already, and goes on.")
    ] = ""
