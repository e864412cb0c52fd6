"""Defines the steps of the tour of `hbtrio lab`, with the expected facts.

Every wait is for an observable fact (an event of a host, a line of a script, a request to the VIM,
an answer of an operator API), and is bounded.
"""

from __future__ import annotations

from typing import Final

import trio

from hbtrio.lab.app_steps import crashes, hangs, rejects, until_asked, until_registered
from hbtrio.lab.cloud import Cloud
from hbtrio.lab.drain_steps import drains
from hbtrio.lab.failure_steps import agent_dies, falls_ill, is_frozen, is_paused, outruns
from hbtrio.lab.guest import LabGuest
from hbtrio.lab.tour import See, Step
from hbtrio.lab.waits import (
    SOON_S,
    guest_named,
    until_heartbeating,
    until_linked,
    until_status,
)
from hbtrio.wire.operator import History, ProgressLine

#: The configuration of each guest; the rest is in hbtrio.lab.guest.
_GUESTS: Final[dict[str, dict[str, str | int]]] = {
    "web": {"VOTE": 4},
    # Long enough for a restart of the agent.
    "db": {"VOTE": 10},
    # Not rebooted for a full disk.
    "batch": {"VOTE": 4, "CORRECTIVE_ACTION": "log"},
}

#: The applications in each guest.
_APPLICATIONS: Final = {"db": ("orders", "backup")}


async def _start(cloud: Cloud, see: See) -> None:
    position = cloud.script_lines.end
    await cloud.start()
    for hostname in cloud.hosts:
        await until_linked(cloud, hostname)
        see(f"{hostname} linked")
    async with trio.open_nursery() as nursery:
        for name, keys in _GUESTS.items():
            guest = await cloud.add_guest(name, "compute-0")
            guest.configure(HB_INTERVAL=1000, SUSPEND_NOTICE=4, **keys)
            for app_name in _APPLICATIONS.get(name, ()):
                guest.add_application(app_name)
            nursery.start_soon(guest.start)
    for guest in cloud.guests.values():
        see(f"VIM: {await until_heartbeating(cloud, guest, 'compute-0', 0)}")
        # The agent asks the VIM whether it wants to hear of losses and ill health.
        await until_status(cloud, guest, lambda status: status.reporting)
        for application in guest.applications.values():
            see(await until_registered(cloud, guest, application, position))


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
    web, since = guest_named(cloud, "web"), cloud.vim.received.end
    web.will("irrevocable", "live_migrate_begin", after_s=1)
    await _notify(cloud, web, "live_migrate_begin", see)
    await cloud.vim.disable(web.uuid)
    await cloud.migrate(web, "compute-1")
    await cloud.vim.enable(web.uuid, "compute-1")
    see(f"VIM: {await until_heartbeating(cloud, web, 'compute-1', since)}")
    await _notify(cloud, web, "live_migrate_end", see)
    for host in (await cloud.status()).hosts:
        see(f"{host.hostname}: {host.heartbeating} heartbeating")


async def _notify(cloud: Cloud, guest: LabGuest, event: str, see: See) -> None:
    see(f"VIM: {event} {await cloud.vim.notify(guest.uuid, event)}")


async def _one_rejects(cloud: Cloud, see: See) -> None:
    db, position = guest_named(cloud, "db"), cloud.script_lines.end
    db.will("revocable", "stop", after_s=1.5, status=1, says='replication is "behind"')
    see(f"VIM: {await cloud.vim.vote(db.uuid, 'stop')}")
    notified = sum("irrevocable" in words for words in cloud.script_lines.since(position))
    see(f"handlers notified: {notified}")


async def _reboots(cloud: Cloud, see: See) -> None:
    db, heard, position = guest_named(cloud, "db"), cloud.vim.received.end, cloud.script_lines.end
    db.will("irrevocable", "reboot", after_s=1.5)
    path, body = f"/v1/instances/{db.uuid}/act", {"action": "reboot"}
    async with cloud.agent.client() as client, client.lines("POST", path, body) as lines:
        while (line := await lines.next(ProgressLine, SOON_S)) is not None:
            if line.result:
                see(f"{line.step} {line.result}")
            elif line.outcome:
                see(line.outcome)
    see(f"asked: {await until_asked(cloud, db, 'revocable reboot', position)}")
    see(f"notice: {await until_asked(cloud, db, 'irrevocable reboot', position)}")
    see(f"VIM: {await until_heartbeating(cloud, db, 'compute-0', heard)}")
    for application in db.applications.values():
        see(await until_registered(cloud, db, application, position))


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
            "db: orders registered",
            "db: backup registered",
            "VIM: batch heartbeating on compute-0",
        ),
        _start,
    ),
    # Before any vote: ill health after an accepted vote of the VIM is kept for a minute.
    Step(
        "an application hangs (SIGSTOP)",
        (
            "unhealthy: Application backup heartbeat timeout 2000 ms.",
            "logged: Application backup heartbeat timeout 2000 ms.",
            "VIM: unhealthy, repair-action log",
            "healthy",
        ),
        hangs,
    ),
    Step(
        "ill health while the VIM is down",
        (
            "unhealthy: disk 97 % full",
            "logged: disk 97 % full",
            "VIM: received 0 reports",
            "VIM: unhealthy, repair-action log",
            "healthy",
        ),
        falls_ill,
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
        ("VIM: reject: replication is 'behind'", "handlers notified: 0"),
        _one_rejects,
    ),
    Step(
        "a handler exceeds its window",
        (
            "VIM: allow",
            "no answer in time from event_script",
            "its handler was terminated",
        ),
        outruns,
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
        agent_dies,
    ),
    Step(
        "a VM is paused behind hbtrio's back",
        (
            "paused: user",
            "after 5 s: paused",
            "VIM: 0 alarms",
            "VIM: web heartbeating on compute-1",
        ),
        is_paused,
    ),
    Step(
        "a guest hangs (SIGSTOP)",
        (
            "loss: no answer for 3 s",
            "VIM: failed, repair-action reboot",
            "VIM reboots web",
            "VIM: web heartbeating on compute-1",
        ),
        is_frozen,
    ),
    Step(
        "one of two applications in a guest rejects",
        (
            "VIM: reject: orders: 12 are open",
            "asked: event_script, orders, backup",
            "handlers notified: 0",
        ),
        rejects,
    ),
    Step(
        "an application crashes during a vote (kill -9)",
        (
            "asked: event_script, orders, backup",
            "verdicts before the crash: 0",
            "vote accept at once",
            "VIM: allow",
            "db: orders registered",
        ),
        crashes,
    ),
    Step(
        "an operator reboots a guest",
        (
            "vote accept",
            "notice complete",
            "command done",
            "restart back",
            "done",
            "asked: event_script, orders, backup",
            "notice: event_script, orders, backup",
            "VIM: db heartbeating on compute-0",
            "db: orders registered",
            "db: backup registered",
        ),
        _reboots,
    ),
    Step(
        "an operator drains both hosts, two guests at once",
        (
            "web waits: group pair: batch is restarting, at most 1 of 2 may be unavailable",
            "drain: drained",
            "VIM: batch heartbeating on compute-0",
            "VIM: db heartbeating on compute-0",
            "VIM: web heartbeating on compute-1",
            "db: orders registered",
            "db: backup registered",
        ),
        drains,
    ),
    Step(
        "the totals match",
        (
            "VIM: 10 votes and notices asked",
            "VIM: 10 verdicts",
            "VIM: 0 verdicts not asked for",
            "history: 10 asked by vim",
        ),
        _balances,
    ),
)
