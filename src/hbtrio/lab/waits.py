"""What steps of the tour wait for, each wait with a bound."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final

import trio

from hbtrio.lab.cloud import Cloud
from hbtrio.lab.feed import NotSeen
from hbtrio.lab.guest import LabGuest
from hbtrio.lab.vim import service_words
from hbtrio.wire.operator import InstanceLine, Status

#: What takes a second or two, on a machine that is very busy, in seconds.
SOON_S: Final = 12.0

#: How often an operator API is asked about what is no event, in seconds.
_POLL_S: Final = 0.1


def guest_named(cloud: Cloud, name: str) -> LabGuest:
    """The VM with this name."""
    return next(guest for guest in cloud.guests.values() if guest.name == name)


async def until_heartbeating(cloud: Cloud, guest: LabGuest, hostname: str, since: int) -> str:
    """What the VIM is told of a guest that heartbeats on a host, from a position on."""

    def matches(body: dict[str, Any]) -> bool:
        if (body["uuid"], body["event-type"]) != (guest.uuid, "service"):
            return False
        status = body["event-data"]["services"][0]["status"]
        return (body["hostname"], status) == (hostname, "enabled")

    body = await cloud.vim.told.wait_for(matches, within_s=SOON_S, since=since)
    return f"{guest.name} heartbeating on {body['hostname']}"


async def alarm(cloud: Cloud, guest: LabGuest, since: int) -> str:
    """The alarm about a guest that the VIM is told, from a position on."""

    def matches(body: dict[str, Any]) -> bool:
        return bool(body["uuid"] == guest.uuid and body["event-type"] == "alarm")

    body = await cloud.vim.told.wait_for(matches, within_s=SOON_S, since=since)
    return service_words(body["event-data"]["services"][0])


async def until(is_so: Callable[[], bool], otherwise: str) -> None:
    """Looks until it is so; else :exc:`NotSeen` says ``otherwise``."""

    async def look() -> bool:
        await trio.lowlevel.checkpoint()
        return is_so()

    if not await _polled(look):
        raise NotSeen(otherwise)


async def until_linked(cloud: Cloud, hostname: str) -> None:
    """Asks the agent until a host has a link to it."""

    async def look() -> bool:
        hosts = (await cloud.status()).hosts
        return any(host.hostname == hostname and host.link == "up" for host in hosts)

    if not await _polled(look):
        raise NotSeen(f"{hostname} has no link")


async def until_status(
    cloud: Cloud, guest: LabGuest, is_so: Callable[[InstanceLine], bool]
) -> None:
    """Asks a guest's host about it until the answer is right."""

    async def look() -> bool:
        async with cloud.host_of(guest.uuid).client() as client:
            status = await client.status(Status)
        return any(one.uuid == guest.uuid and is_so(one) for one in status.instances)

    if not await _polled(look):
        raise NotSeen(f"{guest.name} stayed otherwise")


async def _polled(look: Callable[[], Awaitable[bool]]) -> bool:
    """Whether it is so within :data:`SOON_S`."""
    with trio.move_on_after(SOON_S):
        while not await look():  # noqa: ASYNC110 - another process can set no Event
            await trio.sleep(_POLL_S)
        return True
    return False
