"""What an agent tells of itself and its fleet: JSON, and plain dicts that are ready for it."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar

import attrs
import trio

import hbtrio
from hbtrio.nursery.agent.daemon import Agent
from hbtrio.nursery.agent.fleet_actions import AgentActions
from hbtrio.store.records import HistoryEntry, InstanceRecord
from hbtrio.wire.link_messages import Instance

#: Instances that hosts tell of and the VIM does not, as many as the VIM may tell of.
_UNREGISTERED: Final = 100_000

#: So many are made into JSON at a time, which takes about 1 ms.
_SLICE: Final = 250

_T = TypeVar("_T")


async def fleet_status(agent: Agent, actions: AgentActions) -> bytes:
    """The agent, its hosts by name and its instances by uuid, as JSON.

    Made in slices, between which others have their turn: a fleet takes tenths of a second, in which
    votes would wait. What changes meanwhile may be as before in one part and as after in another.
    """
    now = trio.current_time()
    instances = [bound for _, bound in sorted(agent.inventory.instances.items())]
    head = {"agent": _agent(agent, actions), "hosts": _hosts(agent, instances, now)}
    unregistered = [
        (one, name) for name in sorted(agent.links.sessions) for one in _unregistered(agent, name)
    ][:_UNREGISTERED]
    parts = [_json(head)[:-1], b',"instances":']
    parts += await _array(instances, lambda bound: fleet_instance(agent, bound, now))
    parts.append(b',"unregistered":')
    parts += await _array(
        unregistered,
        lambda told: {"uuid": told[0].uuid, "name": told[0].name, "hostname": told[1]},
    )
    return b"".join((*parts, b"}"))


async def _array(items: Sequence[_T], members: Callable[[_T], dict[str, Any]]) -> list[bytes]:
    slices = []
    for start in range(0, len(items), _SLICE):
        slices.append(_json([members(one) for one in items[start : start + _SLICE]])[1:-1])
        await trio.lowlevel.checkpoint()
    return [b"[", b",".join(slices), b"]"]


def _json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()


def _agent(agent: Agent, actions: AgentActions) -> dict[str, Any]:
    return {
        "name": agent.config.name,
        "version": hbtrio.__version__,
        "started": agent.started_at.isoformat(timespec="seconds"),
        "vim": agent.config.vim.url or None,
        "store_fault": agent.store.fault,
        "delivery": None if agent.sender is None else attrs.asdict(agent.sender.status),
        "crashes": agent.supervisor.crashes,
        "links": len(agent.links.sessions),
        "host_alarms": agent.brake.alarms,
        "heartbeating": sum(_beats(agent, uuid) for uuid in agent.inventory.instances),
        "actions": {one.uuid: str(one.name) for one in actions.under_way.values()},
    }


def _beats(agent: Agent, uuid: str) -> bool:
    live = agent.inventory.live(uuid)
    return live is not None and live.heartbeating


def unregistered_on(agent: Agent, uuid: str) -> str | None:
    """The host that tells of an instance of which the VIM has not; None if it has, or none does."""
    if uuid in agent.inventory.instances or agent.sender is None:
        return None
    return next(
        (one.hostname for one in agent.links.sessions.values() if uuid in one.instances), None
    )


def _unregistered(agent: Agent, hostname: str) -> list[Instance]:
    """What a host tells of that the VIM does not; without a VIM its word is the inventory."""
    session = agent.links.sessions.get(hostname)
    if session is None or agent.sender is None:
        return []
    known = agent.inventory.instances
    return [one for uuid, one in session.instances.items() if uuid not in known]


def _hosts(agent: Agent, instances: list[InstanceRecord], now: float) -> list[dict[str, Any]]:
    uuids = {host.hostname: host.uuid for host in agent.inventory.hosts.values()}
    beating: dict[str, int] = {}
    bound: dict[str, int] = {}
    for one in instances:
        beating[one.hostname] = beating.get(one.hostname, 0) + _beats(agent, one.uuid)
        bound[one.hostname] = bound.get(one.hostname, 0) + 1
    return [
        {
            "hostname": name,
            "uuid": uuids.get(name, ""),
            **_link(agent, name, now),
            "reporting": agent.inventory.host_reporting(name),
            "instances": bound.get(name, 0),
            "heartbeating": beating.get(name, 0),
            "unregistered": len(_unregistered(agent, name)),
            **_held(agent, name),
            "conflict": agent.links.conflicts.of(name, now),
        }
        for name in host_names(agent)
    ]


def host_names(agent: Agent) -> list[str]:
    """The hosts that the VIM told of, that have or had a link, or that an instance is bound to."""
    bound = {one.hostname for one in agent.inventory.instances.values()}
    told = {host.hostname for host in agent.inventory.hosts.values()}
    return sorted({*told, *bound, *agent.links.sessions, *agent.inventory.down})


def link_of(agent: Agent, name: str, now: float) -> tuple[str, float | None]:
    """A host's link: up, down for a while, lost beyond the grace time, or never there.

    And for how many seconds it has been down.
    """
    if name in agent.links.sessions:
        return "up", None
    since = agent.inventory.down.get(name)
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
    live = agent.inventory.live(bound.uuid)
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
            "name": agent.news.last_name(bound),
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
        "why": live.why if link == "up" else _before(live.why),
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


def _before(why: str) -> str:
    return "its host has no link; this was before" + (f": {why}" if why else "")


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
