"""Defines the step of the tour that drains both hosts, with a group of two guests."""

from __future__ import annotations

from typing import Any, Final

from hbtrio.lab.app_steps import until_registered
from hbtrio.lab.cloud import HOSTNAMES, Cloud
from hbtrio.lab.tour import See
from hbtrio.lab.waits import SOON_S, guest_named, until_heartbeating
from hbtrio.wire.operator import DrainLine, DrainRequest

#: The group: web and batch must not be away at the same time. The agent has it from its restart on.
GROUPS: Final[dict[str, dict[str, Any]]] = {
    "pair": {"members": ["web", "batch"], "max_unavailable": 1}
}

#: Until one that waits for the group is skipped, in seconds.
_RETRY_FOR_S: Final = 30.0


async def drains(cloud: Cloud, see: See) -> None:
    """An operator has all guests of both hosts rebooted, two at once."""
    web, batch, db = (guest_named(cloud, name) for name in ("web", "batch", "db"))
    heard, position = cloud.vim.received.end, cloud.script_lines.end
    request = DrainRequest(
        action="reboot",
        hosts=HOSTNAMES,
        parallel=2,
        first=(batch.uuid, web.uuid),
        retry_for_s=_RETRY_FOR_S,
    )
    waits: set[str] = set()
    path = "/v1/drains"
    async with cloud.agent.client() as client, client.lines("POST", path, request) as lines:
        while (line := await lines.next(DrainLine, 2 * SOON_S)) is not None:
            if line.state == "blocked" and line.name not in waits:
                waits.add(line.name)
                see(f"{line.name} waits: {line.reason}")
            elif line.outcome:
                see(f"drain: {line.outcome}")
    for guest, hostname in ((batch, "compute-0"), (db, "compute-0"), (web, "compute-1")):
        see(f"VIM: {await until_heartbeating(cloud, guest, hostname, heard)}")
    for application in db.applications.values():
        see(await until_registered(cloud, db, application, position))
