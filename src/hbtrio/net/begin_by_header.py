"""Makes the header that names until when a request may begin, on the clock of the daemon asked."""

from __future__ import annotations

from hbtrio.policy.begin_by import BEGIN_S, PeerClock
from hbtrio.system.boot_clock import boot_clock
from hbtrio.wire.operator import ClockReply


def begin_by_header(reply: ClockReply) -> str:
    """Returns the header's value for a request that is made now.

    Args:
        reply: the daemon's clock, as it was just received.
    """
    clock, now = PeerClock(), boot_clock()
    clock.read(reply.clock_s, now)
    return f"{clock.at(now + BEGIN_S, now)} {reply.boot_id}"
