"""Lets a host arrive that has dialled before a request about one of its instances came.

An agent that was stopped finds both at once: the request, and the connections of its hosts, which
have dialled again meanwhile. Answered first, the request would fail for want of a link.
"""

from __future__ import annotations

from functools import partial

from hbtrio.nursery.agent.fleet import Fleet
from hbtrio.nursery.time_guard import take_in
from hbtrio.store.records import InstanceRecord


async def instance_on_its_host(fleet: Fleet, uuid: str) -> InstanceRecord:
    """Returns an instance. If its host does not report it, reads what hosts have sent first.

    Raises:
        Unknown: there is no such instance.
    """
    bound = fleet.instance(uuid)
    if bound.hostname not in fleet.sessions or fleet.live(uuid) is None:
        await take_in([partial(fleet.take_in, bound.hostname)])
    # The VIM may have moved or deleted it meanwhile.
    return fleet.instance(uuid)
