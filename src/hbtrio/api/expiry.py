"""Requests that expire: until when an operator's vote, notice, action or release may begin.

A daemon that was stopped finds requests in its sockets whose clients have given up. So a client
may ask for the daemon's clock, with ``GET /v1/clock``, and name the last moment at which its
request may begin, on that clock:

    hbtrio-begin-by: SECONDS BOOT_ID

A request that is read later is refused and does nothing. One without this header is carried out
whenever it is read, even if its client has gone.
"""

from __future__ import annotations

import math

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from hbtrio.api import common as api_parts
from hbtrio.policy.begin_by import BeginBy, ProcessClock
from hbtrio.wire.operator import ClockReply
from hbtrio.wire.operator.requests import BEGIN_BY_HEADER


def clock_reply(clock: ProcessClock) -> Response:
    """Answers with the daemon's clock."""
    return api_parts.answer(ClockReply(boot_id=clock.boot_id, clock_s=clock.now()))


def begin_by(request: Request, clock: ProcessClock) -> BeginBy:
    """Returns until when a request may begin.

    Raises:
        HTTPException: 400, the header is faulty.
    """
    given = request.headers.get(BEGIN_BY_HEADER)
    if given is None:
        return clock.begin_by(None, "")
    seconds, _, boot_id = given.partition(" ")
    try:
        until_s = float(seconds)
    except ValueError:
        until_s = math.nan
    if not math.isfinite(until_s):
        raise HTTPException(400, f"{BEGIN_BY_HEADER}: not SECONDS BOOT_ID: {given[:80]!r}")
    return clock.begin_by(until_s, boot_id)
