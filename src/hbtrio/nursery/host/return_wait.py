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
        fault: why it is not back, or never went down; "" if it is back.
    """

    never_down: bool
    fault: str = ""


async def until_back(channel: Channel, progress: Callable[..., None]) -> ReturnEnd:
    """Waits until an instance's last RESTART window has closed.

    Another one may follow: after an init at the last moment, or for another restart.

    Args:
        channel: the instance's.
        progress: adds a progress line with these members.
    """
    window = last = channel.restart.window
    while window is not None:
        left_s = window.remaining_s(trio.current_time())
        progress(step="restart", window=window.kind, seconds=round(left_s, 1))
        await channel.restart.closed.wait()
        window, last = channel.restart.window, window
    back = channel.heartbeating
    never_down = back and last is not None and last.ballot.state is BallotState.EXPIRED
    reason = channel.heartbeat.reason
    if reason == MIGRATED:
        reason = "it was migrated to another host"
    if never_down:
        reason = "it never went down: it still answered when RESTART expired"
    progress(step="restart", result="back" if back else "expired", reason=reason)
    return ReturnEnd(never_down, reason if never_down or not back else "")
