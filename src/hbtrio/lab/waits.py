"""The waits of the tour's steps, each with a timeout."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final

import trio

from hbtrio.lab.cloud import Cloud
from hbtrio.lab.feed import NotSeen
from hbtrio.lab.guest import LabGuest
from hbtrio.lab.vim import service_words
from hbtrio.wire.operator import InstanceLine, Status

#: The timeout for things that take a second or two, on a very busy machine, in seconds.
SOON_S: Final = 12.0

#: Seconds between polls of an operator API for things that are not events.
_POLL_S: Final = 0.1


def guest_named(cloud: Cloud, name: str) -> LabGuest:
    """Returns the VM with this name."""
    return next(guest for guest in cloud.guests.values() if guest.name == name)


async def until_heartbeating(cloud: Cloud, guest: LabGuest, hostname: str, since: int) -> str:
    """Waits until the VIM is notified that a guest heartbeats on a host, from a position on."""

    def matches(body: dict[str, Any]) -> bool:
        if (body["uuid"], body["event-type"]) != (guest.uuid, "service"):
            return False
        status = body["event-data"]["services"][0]["status"]
        return (body["hostname"], status) == (hostname, "enabled")

    body = await cloud.vim.received.wait_for(matches, within_s=SOON_S, since=since)
    return f"{guest.name} heartbeating on {body['hostname']}"


async def alarm(cloud: Cloud, guest: LabGuest, since: int) -> str:
    """Waits for an alarm about a guest at the VIM, from a position on."""

    def matches(body: dict[str, Any]) -> bool:
        return bool(body["uuid"] == guest.uuid and body["event-type"] == "alarm")

    body = await cloud.vim.received.wait_for(matches, within_s=SOON_S, since=since)
    return service_words(body["event-data"]["services"][0])


async def until(is_so: Callable[[], bool], otherwise: str) -> None:
    """Polls a condition; after :data:`SOON_S` raises :exc:`NotSeen` with ``otherwise``."""

    async def look() -> bool:
        await trio.lowlevel.checkpoint()
        return is_so()

    if not await _polled(look):
        raise NotSeen(otherwise)


async def until_linked(cloud: Cloud, hostname: str) -> None:
    """Polls the agent until a host has a link."""

    async def look() -> bool:
        hosts = (await cloud.status()).hosts
        return any(host.hostname == hostname and host.link == "up" for host in hosts)

    if not await _polled(look):
        raise NotSeen(f"{hostname} has no link")


async def until_status(
    cloud: Cloud, guest: LabGuest, is_so: Callable[[InstanceLine], bool]
) -> None:
    """Polls a guest's host until the guest's status matches."""

    async def look() -> bool:
        async with cloud.host_of(guest.uuid).client() as client:
            status = await client.status(Status)
        return any(one.uuid == guest.uuid and is_so(one) for one in status.instances)

    if not await _polled(look):
        raise NotSeen(f"{guest.name} stayed otherwise")


async def _polled(look: Callable[[], Awaitable[bool]]) -> bool:
    """Returns whether the condition becomes true within :data:`SOON_S`."""
    with trio.move_on_after(SOON_S):
        while not await look():  # noqa: ASYNC110 - another process can set no Event
            await trio.sleep(_POLL_S)
        return True
    return False
