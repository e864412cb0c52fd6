"""Boards for tests, of instances in any state."""

from __future__ import annotations

from typing import Any

from hbtrio.cli.ctl.board.model import Board
from hbtrio.cli.ctl.feed import Happened, Seen
from hbtrio.wire.operator import (
    AgentLine,
    EventLine,
    FleetHostLine,
    FleetInstanceLine,
    FleetStatus,
    HostLine,
    InstanceLine,
    RoundEntry,
    Status,
)

STARTED = "2026-01-01T00:00:00+00:00"


def uuid_at(number: int) -> str:
    return f"{number:08x}-1111-2222-abcd-000000000000"


def instance(number: int, state: str = "heartbeating", **members: Any) -> InstanceLine:
    words: dict[str, Any] = {
        "uuid": uuid_at(number),
        "name": f"vm-{number}",
        "state": state,
        "why": f"reason {number}",
        "heartbeating": state == "heartbeating",
        "health": "healthy" if state == "heartbeating" else "unknown",
        "beats": 10,
        "missed": 0,
        "round_trip_ms": 1.0,
        "windows_s": {"VOTE": 10.0, "RESTART": 100.0},
    }
    return InstanceLine(**(words | members))


def voted(number: int, remaining_s: float) -> InstanceLine:
    vote = RoundEntry(kind="vote", event="stop", window="VOTE", remaining_s=remaining_s)
    return instance(number, open=vote)


def host_status(*instances: InstanceLine, **members: Any) -> Status:
    beating = sum(one.heartbeating for one in instances)
    words: dict[str, Any] = {"hostname": "h", "version": "1", "started": STARTED}
    host = HostLine(**(words | {"heartbeating": beating} | members))
    return Status(host=host, instances=instances)


def fleet_status(count: int) -> FleetStatus:
    instances = tuple(
        FleetInstanceLine(
            uuid=uuid_at(number),
            hostname=f"compute-{number % 2}",
            link="up",
            reporting=True,
            name=f"vm-{number}",
            state="heartbeating",
            why=f"reason {number}",
            heartbeating=True,
            health="healthy",
        )
        for number in range(count)
    )
    hosts = tuple(
        FleetHostLine(hostname=f"compute-{n}", link="up", instances=1, heartbeating=1)
        for n in range(2)
    )
    agent = AgentLine(name="controller", version="1", started=STARTED)
    return FleetStatus(agent=agent, hosts=hosts, instances=instances)


def board_of(*instances: InstanceLine, at: float = 100.0, **members: Any) -> Board:
    return Board("unix:/x").learned(Seen(host_status(*instances, **members), at))


def happened(number: int, kind: str = "stopped", reason: str = "why") -> Happened:
    return Happened(
        EventLine(kind=kind, time=STARTED, uuid=uuid_at(number), name=f"vm-{number}", reason=reason)
    )
