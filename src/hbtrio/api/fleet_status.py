"""An agent's status, as its operator API reports it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from heapq import merge
from typing import Final

import attrs
import trio

import hbtrio
from hbtrio.api.common import files_line
from hbtrio.api.drains import in_progress, planned_line
from hbtrio.api.fleet_windows import open_entry, own_rounds, restart_left_s
from hbtrio.api.groups import group_lines
from hbtrio.api.holds import hold_line
from hbtrio.api.slices import encoded_lines
from hbtrio.nursery.agent.daemon import Agent
from hbtrio.nursery.agent.fleet_actions import AgentActions
from hbtrio.nursery.agent.open_rounds import OpenRound
from hbtrio.nursery.agent.slices import SLICE, slices
from hbtrio.store.records import InstanceRecord
from hbtrio.wire.link_messages import Instance
from hbtrio.wire.operator import (
    AgentLine,
    DeliveryLine,
    FleetHostLine,
    FleetInstanceLine,
    OverloadLine,
    UnregisteredLine,
    encode,
)
from hbtrio.wire.operator.codec import encode_members
from hbtrio.wire.operator.fleet import FleetStatus

#: The most unregistered instances in a status: as many as the VIM may register.
_UNREGISTERED: Final = 100_000

#: Why nothing is known of an instance whose host has never reported it.
NOT_KNOWN: Final = "its host does not know it"


async def fleet_status(agent: Agent, actions: AgentActions) -> bytes:
    """The agent, its hosts by name and its instances by uuid, as JSON.

    Built in slices, see :mod:`hbtrio.api.slices`.
    """
    now = trio.current_time()
    rounds = own_rounds(agent)
    heartbeating: Counter[str] = Counter()
    unregistered: list[tuple[Instance, str]] = []

    def line_of(bound: InstanceRecord) -> FleetInstanceLine:
        line = fleet_instance(agent, bound, rounds, now)
        heartbeating[bound.hostname] += line.heartbeating
        return line

    instances = await encoded_lines(await _in_order(agent), line_of)
    hosts = []
    for name in host_names(agent):
        theirs = _unregistered(agent, name)
        unregistered += [(one, name) for one in theirs[: _UNREGISTERED - len(unregistered)]]
        hosts.append(_host(agent, name, now, heartbeating[name], len(theirs)))
        await trio.lowlevel.checkpoint()
    return encode_members(
        FleetStatus,
        {
            "agent": encode(_agent(agent, actions, heartbeating.total())),
            "hosts": encode(hosts),
            "instances": instances,
            "unregistered": await encoded_lines(unregistered, _unregistered_line),
            "groups": encode(group_lines(agent.groups.rule)),
            "drains": encode(in_progress(agent.drains.runs)),
        },
    )


async def _in_order(agent: Agent) -> list[InstanceRecord]:
    """The instances by uuid; sorting a hundred thousand at once takes a tenth of a second."""
    sorted_parts = []
    for part in slices(list(agent.fleet.instances.items())):
        sorted_parts.append(sorted(part))
        await trio.lowlevel.checkpoint()
    found = []
    for number, (_, bound) in enumerate(merge(*sorted_parts)):
        found.append(bound)
        if number % SLICE == 0:
            await trio.lowlevel.checkpoint()
    return found


def _unregistered_line(reported: tuple[Instance, str]) -> UnregisteredLine:
    instance, hostname = reported
    return UnregisteredLine(
        uuid=instance.uuid, name=instance.name, hostname=hostname, domain=instance.domain
    )


def _agent(agent: Agent, actions: AgentActions, heartbeating: int) -> AgentLine:
    status = None if agent.delivery is None else agent.delivery.status
    return AgentLine(
        name=agent.config.name,
        version=hbtrio.__version__,
        started=agent.started_at.isoformat(timespec="seconds"),
        vim=agent.config.vim.url or None,
        store_fault=agent.store.fault,
        store_files_fault=agent.store_watch.fault,
        files=files_line(agent.files),
        links_refused=agent.links.refused.count,
        delivery=None if status is None else DeliveryLine(**attrs.asdict(status)),
        crashes=agent.supervisor.crashes,
        links=len(agent.fleet.sessions),
        host_alarms=agent.mass_failure_guard.alarms,
        heartbeating=heartbeating,
        on_hold=agent.holds.count,
        actions={one.uuid: str(one.name) for one in actions.in_progress.values()},
    )


def unregistered_on(agent: Agent, uuid: str) -> str | None:
    """The host that reports an instance that the VIM has not registered; None if there is none."""
    if uuid in agent.fleet.instances or agent.delivery is None:
        return None
    return next(
        (one.hostname for one in agent.fleet.sessions.values() if uuid in one.instances), None
    )


def _unregistered(agent: Agent, hostname: str) -> list[Instance]:
    """A host's instances that the VIM has not registered; without a VIM none are unregistered."""
    session = agent.fleet.sessions.get(hostname)
    if session is None or agent.delivery is None:
        return []
    known = agent.fleet.instances
    return [one for uuid, one in session.instances.items() if uuid not in known]


def _host(
    agent: Agent, name: str, now: float, heartbeating: int, unregistered: int
) -> FleetHostLine:
    records = agent.fleet.named(name)
    link, down_s = link_of(agent, name, now)
    session = agent.fleet.sessions.get(name)
    hold = agent.mass_failure_guard.hold(name)
    overload = None if session is None else session.overload
    return FleetHostLine(
        hostname=name,
        uuid=records[-1].uuid if records else "",
        link=link,
        down_s=down_s,
        version="" if session is None else session.hello.version,
        reports_dropped=0 if session is None else session.hello.dropped,
        commands="" if session is None else session.hello.commands,
        reporting=agent.fleet.host_reporting(name),
        instances=len(agent.fleet.bound_to(name)),
        heartbeating=heartbeating,
        unregistered=unregistered,
        held_since=None if hold is None else hold.since.isoformat(timespec="seconds"),
        held_why="" if hold is None else hold.reason,
        certificate=agent.files.peer_warning(name),
        conflict=agent.links.conflicts.of(name, now),
        overload=None
        if overload is None
        else OverloadLine(since=overload.since, alarm=overload.alarm),
    )


def host_names(agent: Agent) -> list[str]:
    """Hosts that the VIM registered, that have or had a link, or that an instance is bound to."""
    bound = {one.hostname for one in agent.fleet.instances.values()}
    registered = {host.hostname for host in agent.fleet.hosts.values()}
    return sorted({*registered, *bound, *agent.fleet.sessions, *agent.fleet.down})


def link_of(agent: Agent, name: str, now: float) -> tuple[str, float | None]:
    """A host's link (up, down, lost after the grace time, or never) and seconds since its loss."""
    if name in agent.fleet.sessions:
        return "up", None
    since = agent.fleet.down.get(name)
    if since is None:
        return "never", None
    down_s = round(now - since, 3)
    return ("lost" if down_s >= agent.config.link.grace_s else "down"), down_s


def fleet_instance(
    agent: Agent, bound: InstanceRecord, rounds: Mapping[str, OpenRound], now: float
) -> FleetInstanceLine:
    """One instance: the host it is bound to, and what that host last reported.

    Args:
        agent: the agent.
        bound: the instance.
        rounds: the agent's open votes and notices, see :func:`own_rounds`.
        now: trio's time.
    """
    live = agent.fleet.live(bound.uuid)
    planned = planned_line(agent.drains.runs.planned(bound.uuid))
    link, _ = link_of(agent, bound.hostname, now)
    if live is None:
        session = agent.fleet.sessions.get(bound.hostname)
        gone = "" if session is None else session.why_gone(bound.uuid)
        why = {"up": gone or NOT_KNOWN, "never": "its host has never had a link"}
        return FleetInstanceLine(
            uuid=bound.uuid,
            hostname=bound.hostname,
            link=link,
            reporting=bound.reporting,
            name=agent.fleet.last_name(bound),
            state="unknown",
            why=why.get(link, "its host has no link"),
            hold=hold_line(agent.holds.of(bound.uuid)),
            planned=planned,
            heartbeating=False,
            health="unknown",
        )
    passed_s = now - agent.fleet.heard_at(bound.hostname, bound.uuid)
    return FleetInstanceLine(
        uuid=bound.uuid,
        hostname=bound.hostname,
        link=link,
        reporting=bound.reporting,
        name=live.name,
        state=live.state,
        why=live.why if link == "up" else _before(live.why),
        hold=hold_line(agent.holds.of(bound.uuid)),
        planned=planned,
        heartbeating=live.heartbeating,
        health=live.health,
        interval_ms=live.interval_ms,
        windows_s={
            "VOTE": live.vote_s,
            "SHUTDOWN_NOTICE": live.shutdown_notice_s,
            "SUSPEND_NOTICE": live.suspend_notice_s,
            "RESUME_NOTICE": live.resume_notice_s,
            "RESTART": live.restart_s,
        },
        corrective_action=live.corrective_action,
        domain=live.domain,
        domain_state=live.domain_state,
        open=open_entry(live, passed_s, rounds.get(bound.uuid), now, linked=link == "up"),
        restart_remaining_s=restart_left_s(live, passed_s, linked=link == "up"),
    )


def _before(why: str) -> str:
    return "its host has no link; as last reported" + (f": {why}" if why else "")
