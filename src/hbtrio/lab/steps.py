"""The steps of the tour: what `hbtrio lab` shows, and what must be seen of it.

Every wait is for the thing itself: an event of a host, a word of a script, what the VIM was told,
an answer of an operator API; each with a bound.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from typing import Any, Final

import trio

from hbtrio.lab.cloud import Cloud
from hbtrio.lab.feed import NotSeen
from hbtrio.lab.guest import LabGuest
from hbtrio.lab.scene import event
from hbtrio.lab.tour import See, Step
from hbtrio.lab.vim import service_words
from hbtrio.nursery.ctl_replies import History, InstanceLine, Progress, Status

#: What takes a second or two, on a machine that is very busy, in seconds.
_SOON_S: Final = 12.0

#: How often an operator API is asked about what is no event, in seconds.
_POLL_S: Final = 0.1

#: What each guest says of itself; the rest is in hbtrio.lab.guest.
_GUESTS: Final[dict[str, dict[str, str | int]]] = {
    "web": {"VOTE": 4},
    # Its vote outlives an agent.
    "db": {"VOTE": 10},
    # It is not to be rebooted because its disk is full.
    "batch": {"VOTE": 4, "CORRECTIVE_ACTION": "log"},
}


async def _start(cloud: Cloud, see: See) -> None:
    await cloud.start()
    for hostname in cloud.hosts:
        await _until_linked(cloud, hostname)
        see(f"{hostname} linked")
    async with trio.open_nursery() as nursery:
        for name, keys in _GUESTS.items():
            guest = await cloud.add_guest(name, "compute-0")
            guest.configure(HB_INTERVAL=1000, SUSPEND_NOTICE=4, **keys)
            nursery.start_soon(guest.start)
    for guest in cloud.guests.values():
        see(f"VIM: {await _until_heartbeating(cloud, guest, 'compute-0', 0)}")


async def _all_accept(cloud: Cloud, see: See) -> None:
    verdicts: dict[str, str] = {}

    async def ask(guest: LabGuest, handler_s: float) -> None:
        guest.will("revocable", "live_migrate_begin", after_s=handler_s)
        verdicts[guest.name] = str(await cloud.vim.vote(guest.uuid, "live_migrate_begin"))

    async with trio.open_nursery() as nursery:
        for number, guest in enumerate(cloud.guests.values()):
            nursery.start_soon(ask, guest, 1 + number * 0.5)
    for guest in cloud.guests.values():
        see(f"VIM: {guest.name} {verdicts[guest.name]}")


async def _migrates(cloud: Cloud, see: See) -> None:
    web, since = _guest(cloud, "web"), cloud.vim.told.end
    web.will("irrevocable", "live_migrate_begin", after_s=1)
    await _notify(cloud, web, "live_migrate_begin", see)
    await cloud.migrate(web, "compute-1")
    await cloud.vim.move_instance(web.uuid, "compute-1")
    see(f"VIM: {await _until_heartbeating(cloud, web, 'compute-1', since)}")
    await _notify(cloud, web, "live_migrate_end", see)
    for host in (await cloud.status()).hosts:
        see(f"{host.hostname}: {host.heartbeating} heartbeating")


async def _notify(cloud: Cloud, guest: LabGuest, event: str, see: See) -> None:
    see(f"VIM: {event} {await cloud.vim.notify(guest.uuid, event)}")


async def _one_rejects(cloud: Cloud, see: See) -> None:
    db, told = _guest(cloud, "db"), cloud.told.end
    db.will("revocable", "stop", after_s=1.5, status=1, says='replication is "behind"')
    see(f"VIM: {await cloud.vim.vote(db.uuid, 'stop')}")
    see(f"handlers told: {sum('irrevocable' in words for words in cloud.told.since(told))}")


async def _outruns(cloud: Cloud, see: See) -> None:
    web, told = _guest(cloud, "web"), cloud.told.end
    web.will("revocable", "reboot", after_s=60, says="too late")
    verdict = await cloud.vim.vote(web.uuid, "reboot")
    see(f"VIM: {verdict.response}")
    see(verdict.reason)
    words = await cloud.told.wait_for(lambda w: w[:2] == ["handler", "web"], within_s=0, since=told)
    await _until(lambda: not os.path.exists(f"/proc/{words[-1]}"), f"handler {words[-1]} lives on")
    see("its handler was ended")
    web.will("revocable", "reboot")


async def _agent_dies(cloud: Cloud, see: See) -> None:
    db, told, heard = _guest(cloud, "db"), cloud.told.end, cloud.vim.told.end
    db.will("revocable", "reboot", after_s=2)
    asked = await cloud.vim.ask(db.uuid, "reboot", vote=True)
    await cloud.told.wait_for(lambda w: w[:2] == ["handler", "db"], within_s=_SOON_S, since=told)
    await cloud.kill_agent()
    since = cloud.events.end
    try:
        vote = await cloud.events.wait_for(event("vote", db), within_s=_SOON_S, since=since)
        see(f"vote {vote['result']} while no agent runs")
    finally:
        await cloud.start_agent()
    see(f"VIM: {await cloud.vim.verdict(asked)}")
    for hostname in cloud.hosts:
        await _until_linked(cloud, hostname)
        see(f"{hostname} linked again")
    verdicts = [body for body in cloud.vim.told.since(heard) if body["event-type"] == "action"]
    see(f"verdicts: {len(verdicts)}")
    db.will("revocable", "reboot")


async def _falls_ill(cloud: Cloud, see: See) -> None:
    batch, told, since = _guest(cloud, "batch"), cloud.told.end, cloud.events.end
    heard = cloud.vim.told.end
    cloud.vim.go_down()
    batch.feels(1, "disk 97 % full")
    try:
        ill = await cloud.events.wait_for(event("unhealthy", batch), within_s=_SOON_S, since=since)
        see(f"{ill['kind']}: {ill['reason']}")
        noted = await cloud.told.wait_for(lambda w: w[0] == "note", within_s=_SOON_S, since=told)
        see(f"noted: {' '.join(noted[2:])}")
        see(f"VIM: heard of {cloud.vim.told.end - heard} things")
    finally:
        await cloud.vim.come_up()
    see(f"VIM: {await _alarm(cloud, batch, heard)}")
    batch.feels(0)
    await _until_status(cloud, batch, lambda status: status.health == "healthy")
    see("healthy")


async def _is_frozen(cloud: Cloud, see: See) -> None:
    web, since, heard = _guest(cloud, "web"), cloud.events.end, cloud.vim.told.end
    if web.daemon is not None:
        web.daemon.freeze()
    loss = await cloud.events.wait_for(event("loss", web), within_s=_SOON_S, since=since)
    see(f"{loss['kind']}: {loss['reason']}")
    see(f"VIM: {await _alarm(cloud, web, heard)}")
    said = await cloud.said.wait_for(lambda line: line == ("VIM", "reboots web"), within_s=_SOON_S)
    see(" ".join(said))
    see(f"VIM: {await _until_heartbeating(cloud, web, 'compute-1', heard)}")


async def _reboots(cloud: Cloud, see: See) -> None:
    db, heard = _guest(cloud, "db"), cloud.vim.told.end
    db.will("irrevocable", "reboot", after_s=1.5)
    path, body = f"/v1/instances/{db.uuid}/act", {"action": "reboot"}
    async with cloud.agent.client() as client, client.lines("POST", path, body) as lines:
        while (line := await lines.next(Progress, _SOON_S)) is not None:
            if line.result:
                see(f"{line.step} {line.result}")
            elif line.outcome:
                see(line.outcome)
    see(f"VIM: {await _until_heartbeating(cloud, db, 'compute-0', heard)}")


async def _balances(cloud: Cloud, see: See) -> None:
    see(f"VIM: {cloud.vim.asked} votes and notices asked")
    see(f"VIM: {cloud.vim.answered} verdicts")
    see(f"VIM: {cloud.vim.unasked} verdicts not asked for")
    async with cloud.agent.client() as client:
        kept = (await client.history("limit=500", History)).history
    see(f"history: {sum(line.who == 'vim' for line in kept)} asked by vim")


TOUR: Final = (
    Step(
        "an agent, two hosts and three guests start",
        (
            "compute-0 linked",
            "compute-1 linked",
            "VIM: web heartbeating on compute-0",
            "VIM: db heartbeating on compute-0",
            "VIM: batch heartbeating on compute-0",
        ),
        _start,
    ),
    Step("all accept", ("VIM: web allow", "VIM: db allow", "VIM: batch allow"), _all_accept),
    Step(
        "a guest migrates to another host",
        (
            "VIM: live_migrate_begin proceed",
            "VIM: web heartbeating on compute-1",
            "VIM: live_migrate_end proceed",
            "compute-0: 2 heartbeating",
            "compute-1: 1 heartbeating",
        ),
        _migrates,
    ),
    Step(
        "one rejects, with a reason",
        ("VIM: reject: replication is 'behind'", "handlers told: 0"),
        _one_rejects,
    ),
    Step(
        "a handler outruns its window",
        (
            "VIM: allow",
            "no answer in time from event_script",
            "its handler was ended",
        ),
        _outruns,
    ),
    Step(
        "the agent is killed during a vote (kill -9)",
        (
            "vote accept while no agent runs",
            "VIM: allow",
            "compute-0 linked again",
            "compute-1 linked again",
            "verdicts: 1",
        ),
        _agent_dies,
    ),
    Step(
        "ill health while the VIM is down",
        (
            "unhealthy: disk 97 % full",
            "noted: disk 97 % full",
            "VIM: heard of 0 things",
            "VIM: unhealthy, repair-action log",
            "healthy",
        ),
        _falls_ill,
    ),
    Step(
        "a guest hangs (SIGSTOP)",
        (
            "loss: no answer for 3 s",
            "VIM: failed, repair-action reboot",
            "VIM reboots web",
            "VIM: web heartbeating on compute-1",
        ),
        _is_frozen,
    ),
    Step(
        "an operator reboots a guest",
        (
            "vote accept",
            "notice complete",
            "command done",
            "restart back",
            "done",
            "VIM: db heartbeating on compute-0",
        ),
        _reboots,
    ),
    Step(
        "the books balance",
        (
            "VIM: 8 votes and notices asked",
            "VIM: 8 verdicts",
            "VIM: 0 verdicts not asked for",
            "history: 8 asked by vim",
        ),
        _balances,
    ),
)


def _guest(cloud: Cloud, name: str) -> LabGuest:
    return next(guest for guest in cloud.guests.values() if guest.name == name)


async def _until_heartbeating(cloud: Cloud, guest: LabGuest, hostname: str, since: int) -> str:
    """What the VIM is told of a guest that heartbeats on a host, from a position on."""

    def matches(body: dict[str, Any]) -> bool:
        if (body["uuid"], body["event-type"]) != (guest.uuid, "service"):
            return False
        status = body["event-data"]["services"][0]["status"]
        return (body["hostname"], status) == (hostname, "enabled")

    body = await cloud.vim.told.wait_for(matches, within_s=_SOON_S, since=since)
    return f"{guest.name} heartbeating on {body['hostname']}"


async def _alarm(cloud: Cloud, guest: LabGuest, since: int) -> str:
    """The alarm about a guest that the VIM is told, from a position on."""

    def matches(body: dict[str, Any]) -> bool:
        return bool(body["uuid"] == guest.uuid and body["event-type"] == "alarm")

    body = await cloud.vim.told.wait_for(matches, within_s=_SOON_S, since=since)
    return service_words(body["event-data"]["services"][0])


async def _until(is_so: Callable[[], bool], otherwise: str) -> None:
    async def look() -> bool:
        await trio.lowlevel.checkpoint()
        return is_so()

    if not await _polled(look):
        raise NotSeen(otherwise)


async def _until_linked(cloud: Cloud, hostname: str) -> None:
    """Asks the agent until a host has a link to it."""

    async def look() -> bool:
        hosts = (await cloud.status()).hosts
        return any(host.hostname == hostname and host.link == "up" for host in hosts)

    if not await _polled(look):
        raise NotSeen(f"{hostname} has no link")


async def _until_status(
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
    """Whether it is so within :data:`_SOON_S`."""
    with trio.move_on_after(_SOON_S):
        while not await look():  # noqa: ASYNC110 - another process can set no Event
            await trio.sleep(_POLL_S)
        return True
    return False
