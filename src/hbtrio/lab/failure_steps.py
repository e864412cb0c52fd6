"""Defines the steps of the tour in which a guest, its VM, its handler or the agent fails."""

from __future__ import annotations

import os
from typing import Final

import trio

from hbtrio.lab.cloud import Cloud
from hbtrio.lab.drain_steps import GROUPS
from hbtrio.lab.scene import event
from hbtrio.lab.tour import See
from hbtrio.lab.waits import (
    SOON_S,
    alarm,
    guest_named,
    until,
    until_heartbeating,
    until_linked,
    until_status,
)

#: Seconds of a pause: longer than the 3 s after which a guest that hangs is lost.
_PAUSE_S: Final = 5.0


async def outruns(cloud: Cloud, see: See) -> None:
    """A handler takes longer than its window."""
    web, position = guest_named(cloud, "web"), cloud.script_lines.end
    web.will("revocable", "reboot", after_s=60, says="too late")
    verdict = await cloud.vim.vote(web.uuid, "reboot")
    see(f"VIM: {verdict.response}")
    see(verdict.reason)
    words = await cloud.script_lines.wait_for(
        lambda w: w[:2] == ["handler", "web"], within_s=0, since=position
    )
    await until(lambda: not os.path.exists(f"/proc/{words[-1]}"), f"handler {words[-1]} still runs")
    see("its handler was terminated")
    web.will("revocable", "reboot")


async def agent_dies(cloud: Cloud, see: See) -> None:
    """The agent is killed while a guest votes, and started again."""
    db, position, heard = guest_named(cloud, "db"), cloud.script_lines.end, cloud.vim.received.end
    db.will("revocable", "reboot", after_s=2)
    asked = await cloud.vim.ask(db.uuid, "reboot", vote=True)
    await cloud.script_lines.wait_for(
        lambda w: w[:2] == ["handler", "db"], within_s=SOON_S, since=position
    )
    await cloud.kill_agent()
    since = cloud.events.end
    try:
        vote = await cloud.events.wait_for(
            event("vote", db, event="reboot"), within_s=SOON_S, since=since
        )
        see(f"vote {vote['result']} while no agent runs")
    finally:
        cloud.agent.groups = GROUPS
        await cloud.start_agent()
    see(f"VIM: {await cloud.vim.verdict(asked)}")
    for hostname in cloud.hosts:
        await until_linked(cloud, hostname)
        see(f"{hostname} linked again")
    verdicts = [body for body in cloud.vim.received.since(heard) if body["event-type"] == "action"]
    see(f"verdicts: {len(verdicts)}")
    db.will("revocable", "reboot")


async def falls_ill(cloud: Cloud, see: See) -> None:
    """A guest reports ill health while the VIM is down."""
    batch, position, since = guest_named(cloud, "batch"), cloud.script_lines.end, cloud.events.end
    heard = cloud.vim.received.end
    cloud.vim.go_down()
    batch.feels(1, "disk 97 % full")
    try:
        ill = await cloud.events.wait_for(event("unhealthy", batch), within_s=SOON_S, since=since)
        see(f"{ill['kind']}: {ill['reason']}")
        logged = await cloud.script_lines.wait_for(
            lambda w: w[0] == "note", within_s=SOON_S, since=position
        )
        see(f"logged: {' '.join(logged[2:])}")
        see(f"VIM: received {cloud.vim.received.end - heard} reports")
    finally:
        await cloud.vim.come_up()
    see(f"VIM: {await alarm(cloud, batch, heard)}")
    batch.feels(0)
    await until_status(cloud, batch, lambda status: status.health == "healthy")
    see("healthy")


async def is_paused(cloud: Cloud, see: See) -> None:
    """A VM is paused on its host, and nobody is told."""
    web, since, heard = guest_named(cloud, "web"), cloud.events.end, cloud.vim.received.end
    cloud.pause(web)
    paused = await cloud.events.wait_for(event("paused", web), within_s=SOON_S, since=since)
    see(paused["reason"])
    # A guest that hangs is lost by now.
    await trio.sleep(_PAUSE_S)
    kinds = [one["kind"] for one in cloud.events.since(since) if one["uuid"] == web.uuid]
    see(f"after {_PAUSE_S:g} s: {', '.join(kinds)}")
    alarms = [one for one in cloud.vim.received.since(heard) if one["event-type"] == "alarm"]
    see(f"VIM: {len(alarms)} alarms")
    heard = cloud.vim.received.end
    cloud.resume(web)
    see(f"VIM: {await until_heartbeating(cloud, web, 'compute-1', heard)}")


async def is_frozen(cloud: Cloud, see: See) -> None:
    """A guest hangs, and the VIM reboots it."""
    web, since, heard = guest_named(cloud, "web"), cloud.events.end, cloud.vim.received.end
    if web.daemon is not None:
        web.daemon.freeze()
    loss = await cloud.events.wait_for(event("loss", web), within_s=SOON_S, since=since)
    see(f"{loss['kind']}: {loss['reason']}")
    see(f"VIM: {await alarm(cloud, web, heard)}")
    said = await cloud.said.wait_for(lambda line: line == ("VIM", "reboots web"), within_s=SOON_S)
    see(" ".join(said))
    heard = cloud.vim.received.end
    see(f"VIM: {await until_heartbeating(cloud, web, 'compute-1', heard)}")
