"""Judges a drain in which daemons were killed: by what ctl, histories, commands and guests say."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from typing import Any

from support.drained_fleet import DrainedFleet
from support.told_guests import Told

BEGIN, END = "live_migrate_begin", "live_migrate_end"


async def faults(
    fleet: DrainedFleet, lines: Sequence[str], groups: Sequence[Collection[str]]
) -> list[str]:
    """Says what is wrong with a drain of migrations that has ended.

    Args:
        fleet: where it was.
        lines: what ``ctl drain --resume --json`` has printed.
        groups: of each group with ``max_unavailable = 1``, the uuids of its members.
    """
    parsed = [json.loads(line) for line in lines]
    (drain,) = [one["id"] for one in parsed if one["step"] == "drain"]
    last = {one["uuid"]: one for one in parsed if one["step"] == "instance"}
    found = [f"it has not ended: {parsed[-1]}"] if parsed[-1]["step"] != "end" else []
    started = Counter(fleet.started)
    agreed = await fleet.actions(drain)
    at_hosts: dict[str, list[str]] = {}
    for hostname in fleet.hosts:
        at_hosts |= await fleet.actions(drain, hostname)
    for uuid, line in last.items():
        ends = agreed.get(uuid, []), at_hosts.get(uuid, [])
        found += [f"{uuid}: {fault}: {line} {ends}" for fault in _of(line, started[uuid], *ends)]
    for hostname, guests in fleet.guests.items():
        found += [
            f"{hostname}: {uuid} was told, and not of the end: {notices}"
            for uuid in guests.uuids
            if (notices := guests.notices(uuid)) and notices[-1] != END
        ]
    told = [one for guests in fleet.guests.values() for one in guests.told]
    return found + [fault for members in groups for fault in _broken(told, members)]


def _of(line: dict[str, Any], started: int, agreed: list[str], at_host: list[str]) -> Iterator[str]:
    """Says what is wrong with an instance; the histories have its outcomes, the oldest first."""
    state = line.get("state")
    acted = [one for one in at_host if not one.startswith(("rejected", "refused"))]
    agent = [one for one in agreed if not one.startswith(("rejected", "refused", "not begun"))]
    match state:
        case "done":
            if started != 1:
                yield f"done with {started} commands"
            if not (len(acted) == len(agent) == 1 and acted == agent):
                yield "the histories differ"
        case "failed":
            if started > 1:
                yield f"failed with {started} commands"
            if not (len(acted) == len(agent) == 1 and acted == agent):
                yield "the histories differ"
            if "unknown" in line.get("reason", ""):
                yield "its outcome is not known"
        case "skipped":
            if started or acted or agent:
                yield "skipped, and acted upon"
        case _:
            yield "it has no end"
    if state != "done" and not line.get("reason"):
        yield "no reason"


def _broken(told: Sequence[Told], members: Collection[str]) -> Iterator[str]:
    """Says where more than one member of a group had been told, and not of the end."""
    away: set[str] = set()
    for one in told:
        if one.uuid in members and one.kind == "irrevocable":
            if one.event == END:
                away.discard(one.uuid)
            else:
                away.add(one.uuid)
                if len(away) > 1:
                    yield f"{sorted(away)} were away at once"
