"""What an agent tells of itself and its fleet: plain dicts, ready for JSON."""

from __future__ import annotations

from typing import Any

import attrs

import hbtrio
from hbtrio.nursery.agent import Agent
from hbtrio.nursery.agent_actions import AgentActions
from hbtrio.nursery.store_records import HistoryEntry, InstanceRecord


def fleet_status(agent: Agent, actions: AgentActions, now: float) -> dict[str, Any]:
    """The agent, its hosts by name and its instances by uuid.

    Args:
        agent: the agent.
        actions: what is under way.
        now: trio's time.
    """
    instances = [fleet_instance(agent, bound, now) for _, bound in sorted(agent.instances.items())]
    return {
        "agent": {
            "name": agent.config.name,
            "version": hbtrio.__version__,
            "started": agent.started_at.isoformat(timespec="seconds"),
            "vim": agent.config.vim.url or None,
            "store_fault": agent.store.fault,
            "delivery": None if agent.sender is None else attrs.asdict(agent.sender.status),
            "crashes": agent.supervisor.crashes,
            "links": len(agent.links.sessions),
            "host_alarms": agent.brake.alarms,
            "heartbeating": sum(one["heartbeating"] for one in instances),
            "actions": {one.uuid: str(one.name) for one in actions.under_way.values()},
        },
        "hosts": _hosts(agent, instances, now),
        "instances": instances,
    }


def _hosts(agent: Agent, instances: list[dict[str, Any]], now: float) -> list[dict[str, Any]]:
    uuids = {host.hostname: host.uuid for host in agent.hosts.values()}
    beating: dict[str, int] = {}
    bound: dict[str, int] = {}
    for one in instances:
        beating[one["hostname"]] = beating.get(one["hostname"], 0) + one["heartbeating"]
        bound[one["hostname"]] = bound.get(one["hostname"], 0) + 1
    return [
        {
            "hostname": name,
            "uuid": uuids.get(name, ""),
            **_link(agent, name, now),
            "reporting": agent.host_reporting(name),
            "instances": bound.get(name, 0),
            "heartbeating": beating.get(name, 0),
            **_held(agent, name),
        }
        for name in host_names(agent)
    ]


def host_names(agent: Agent) -> list[str]:
    """The hosts that the VIM told of, that have or had a link, or that an instance is bound to."""
    bound = {one.hostname for one in agent.instances.values()}
    told = {host.hostname for host in agent.hosts.values()}
    return sorted({*told, *bound, *agent.links.sessions, *agent.down})


def link_of(agent: Agent, name: str, now: float) -> tuple[str, float | None]:
    """A host's link: up, down for a while, lost beyond the grace time, or never there.

    And for how many seconds it has been down.
    """
    if name in agent.links.sessions:
        return "up", None
    since = agent.down.get(name)
    if since is None:
        return "never", None
    down_s = round(now - since, 3)
    return ("lost" if down_s >= agent.config.link.grace_s else "down"), down_s


def _held(agent: Agent, name: str) -> dict[str, Any]:
    hold = agent.brake.hold(name)
    return {
        "held_since": None if hold is None else hold.since.isoformat(timespec="seconds"),
        "held_why": "" if hold is None else hold.why,
    }


def _link(agent: Agent, name: str, now: float) -> dict[str, Any]:
    link, down_s = link_of(agent, name, now)
    session = agent.links.sessions.get(name)
    return {
        "link": link,
        "down_s": down_s,
        "version": "" if session is None else session.hello.version,
        "reports_dropped": 0 if session is None else session.hello.dropped,
    }


def fleet_instance(agent: Agent, bound: InstanceRecord, now: float) -> dict[str, Any]:
    """One instance: where it is bound to, and what that host last told of it."""
    live = agent.live(bound.uuid)
    link, _ = link_of(agent, bound.hostname, now)
    members: dict[str, Any] = {
        "uuid": bound.uuid,
        "hostname": bound.hostname,
        "link": link,
        "reporting": bound.reporting,
    }
    if live is None:
        why = {"up": "its host does not know it", "never": "its host has never had a link"}
        return members | {
            "name": "",
            "state": "unknown",
            "why": why.get(link, "its host has no link"),
            "heartbeating": False,
            "health": "unknown",
            "interval_ms": None,
            "windows_s": {},
            "corrective_action": None,
        }
    return members | {
        "name": live.name,
        "state": live.state,
        "why": "" if link == "up" else "its host has no link; this was before",
        "heartbeating": live.heartbeating,
        "health": str(live.health),
        "interval_ms": live.interval_ms,
        "windows_s": {
            "VOTE": live.vote_s,
            "SHUTDOWN_NOTICE": live.shutdown_notice_s,
            "SUSPEND_NOTICE": live.suspend_notice_s,
            "RESUME_NOTICE": live.resume_notice_s,
            "RESTART": live.restart_s,
        },
        "corrective_action": str(live.corrective_action),
    }


def history_entry(entry: HistoryEntry) -> dict[str, Any]:
    """An entry of the history as JSON members; those that do not apply are left out."""
    members = {
        "time": entry.time.isoformat(timespec="milliseconds"),
        "kind": entry.kind,
        "uuid": entry.uuid,
        "hostname": entry.hostname,
        "event": entry.event and str(entry.event),
        "result": entry.result and str(entry.result),
        "corrective_action": entry.corrective_action and str(entry.corrective_action),
        "who": entry.who,
        "asked_at": entry.asked_at and entry.asked_at.isoformat(timespec="milliseconds"),
    }
    return {name: value for name, value in members.items() if value} | {"reason": entry.reason}
