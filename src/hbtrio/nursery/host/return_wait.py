"""Waits for the VM of an action that restarts it."""

from __future__ import annotations

from collections.abc import Callable

import attrs
import trio

from hbtrio.fsm.ballot import BallotState
from hbtrio.fsm.domain import MIGRATED
from hbtrio.nursery.host.channel import Channel


@attrs.frozen
class ReturnEnd:
    """How the wait has ended.

    Args:
        never_down: whether the VM answered all the while.
        reason: why it is not back, or never went down, and why it had RESTART more than once; ""
            if there is nothing to say.
    """

    never_down: bool
    reason: str = ""


async def until_back(channel: Channel, progress: Callable[..., None]) -> ReturnEnd:
    """Waits until an instance's last RESTART window has closed.

    Another one may follow: after an init at the last moment, or for another restart. The line of
    each further one says why, and the reason at the end has the last of them.

    Args:
        channel: the instance's.
        progress: adds a progress line with these members.
    """
    window = last = channel.restart.window
    number = 0
    while window is not None:
        left_s = window.remaining_s(trio.current_time())
        why = {"reason": channel.restart.why} if number else {}
        progress(step="restart", window=window.kind, seconds=round(left_s, 1), **why)
        await channel.restart.closed.wait()
        window, last = channel.restart.window, window
        number += window is not None
    back = channel.heartbeating
    never_down = back and last is not None and last.ballot.state is BallotState.EXPIRED
    reason = channel.heartbeat.reason
    if reason == MIGRATED:
        reason = "it was migrated to another host"
    if never_down:
        reason = "it never went down: it still answered when RESTART expired"
    progress(step="restart", result="back" if back else "expired", reason=reason)
    times = f" {number} times" if number > 1 else ""
    again = f"RESTART began anew{times}: {channel.restart.why}" if number else ""
    reasons = (reason if never_down or not back else "", again)
    return ReturnEnd(never_down, "; ".join(one for one in reasons if one))
