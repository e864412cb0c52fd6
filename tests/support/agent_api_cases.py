"""What the tests of agent share."""

from __future__ import annotations

import os
from typing import Any

import httpx

from support.fleet_world import FleetWorld
from support.host_world import ScriptedGuest, uuid_of

ONE, ABSENT = uuid_of(1), uuid_of(77)


STOP = {"event": "stop"}


#: Who asks, over the unix socket.
ME = f"operator uid {os.geteuid()}"


async def heartbeating(world: FleetWorld, **init: Any) -> ScriptedGuest:
    """A guest that the agent knows of."""
    guest = await world.host.heartbeating(**init)
    await world.host.settle()
    assert world.agent.fleet.live(guest.uuid) is not None
    return guest


async def history(http: httpx.AsyncClient, query: str = "") -> list[tuple[str, ...]]:
    answer = (await http.get(f"/v1/history?{query}")).json()
    return [
        tuple(entry.get(name, "") for name in ("kind", "event", "result", "who", "reason"))
        for entry in answer["history"]
    ]


CHANGES = [f"/v1/instances/{ABSENT}/{kind}" for kind in ("vote", "notify", "act")]


NEEDS_TOKEN = (401, "the token is missing or wrong")


UNKNOWN = (404, f"unknown instance {ABSENT}")
