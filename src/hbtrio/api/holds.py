"""Holds on instances, as the operator APIs of host and agent show them."""

from __future__ import annotations

from hbtrio.policy.instance_hold import InstanceHold
from hbtrio.wire.operator import HoldLine


def hold_line(hold: InstanceHold | None) -> HoldLine | None:
    """Converts a hold; None stays None."""
    if hold is None:
        return None
    return HoldLine(
        until=hold.until.isoformat(timespec="seconds"),
        since=hold.since.isoformat(timespec="seconds"),
        who=hold.who,
        reason=hold.reason,
    )
