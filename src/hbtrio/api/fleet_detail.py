"""All that an agent knows of one instance, as its operator API reports it."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import msgspec
import trio

from hbtrio.api.fleet_status import NOT_KNOWN, fleet_instance
from hbtrio.api.fleet_windows import own_entry, own_rounds
from hbtrio.api.groups import groups_of
from hbtrio.api.voters import voter_lines
from hbtrio.nursery.agent.daemon import Agent
from hbtrio.nursery.agent.looks import NotSeen
from hbtrio.store.records import InstanceRecord
from hbtrio.wire.operator import (
    FleetInstanceDetail,
    FleetInstanceLine,
    LookLine,
    NextLossLine,
)
from hbtrio.wire.vocabulary import CorrectiveAction

#: What the VIM does nothing about.
_NOTHING = (None, "", CorrectiveAction.NONE, CorrectiveAction.LOG, CorrectiveAction.UNKNOWN)


def fleet_detail(agent: Agent, bound: InstanceRecord) -> FleetInstanceDetail:
    """One instance."""
    now = trio.current_time()
    line = fleet_instance(agent, bound, own_rounds(agent), now)
    since = agent.fleet.since(bound.uuid)
    live = agent.fleet.live(bound.uuid)
    members: dict[str, Any] = msgspec.structs.asdict(line)
    actions = agent.actions.in_progress.values()
    return FleetInstanceDetail(
        **members,
        since=None if since is None else _time_of(agent, since, now),
        action=next((str(one.name) for one in actions if one.uuid == bound.uuid), ""),
        rounds=tuple(
            own_entry(one, now) for one in agent.rounds.ends.open if one.record.uuid == bound.uuid
        ),
        next_loss=_next_loss(agent, bound, line),
        groups=groups_of(agent.groups.rule, bound.uuid),
        voters=None if live is None else voter_lines(live.voters),
        voters_unlisted=0 if live is None else live.voters_unlisted,
    )


async def fleet_look(agent: Agent, bound: InstanceRecord) -> LookLine:
    """What the instance's host sees of it now; waits up to 2 s for the host."""
    line = LookLine(uuid=bound.uuid, hostname=bound.hostname)
    session = agent.fleet.sessions.get(bound.hostname)
    if session is None:
        return msgspec.structs.replace(line, why="its host has no link")
    try:
        seen = await session.looks.look(bound.uuid)
    except NotSeen as error:
        return msgspec.structs.replace(line, why=str(error))
    if not seen.known:
        return msgspec.structs.replace(line, why=session.why_gone(bound.uuid) or NOT_KNOWN)
    return msgspec.structs.replace(
        line,
        beats=seen.beats,
        missed=seen.missed,
        late_answers=seen.late_answers,
        round_trip_ms=seen.round_trip_ms,
        not_acted=seen.not_acted,
    )


def _time_of(agent: Agent, at: float, now: float) -> str:
    ago = timedelta(seconds=now - at)
    return (agent.wall_clock() - ago).isoformat(timespec="seconds")


def _next_loss(agent: Agent, bound: InstanceRecord, line: FleetInstanceLine) -> NextLossLine:
    action = line.corrective_action or ""
    hold = agent.mass_failure_guard.hold(bound.hostname)
    reported = bound.reporting and agent.fleet.host_reporting(bound.hostname)
    on_hold = agent.holds.of(bound.uuid)
    why = ""
    if not reported:
        why = "the VIM has turned off the reports about it or its host"
    elif line.link != "up":
        why = "its host has no link: it can't report a loss to this agent"
    elif agent.delivery is None:
        why = "this agent has no VIM: it keeps the loss in its history"
    elif on_hold is not None:
        why = f"its alarm stays here while it is {on_hold.words}"
    elif hold is not None:
        why = f"the alarms of {bound.hostname} are held back: {hold.reason}"
    elif action in _NOTHING:
        why = "its guest asks for no corrective action: the VIM gets an alarm that asks for none"
    return NextLossLine(
        reported=reported,
        action=action,
        does="nothing" if why else "alarm",
        cause=_cause(reported=reported, on_hold=on_hold is not None, held=hold is not None),
        why=why,
    )


def _cause(*, reported: bool, on_hold: bool, held: bool) -> str:
    if not reported:
        return ""
    return "hold" if on_hold else "brake" if held else ""
