"""A drain of 50 guests at an agent, in which ctl, the host and the agent are killed."""

from __future__ import annotations

import json
from typing import Final

import pytest

from hbtrio.errors import ExitStatus
from support.drain_judge import faults
from support.drained_fleet import DrainedFleet, open_drained_fleet
from support.real_processes import SOON_S

pytestmark = [pytest.mark.processes, pytest.mark.usefixtures("home")]

HOST: Final = "compute-0"

#: Guests of the test, and real ones.
GUESTS: Final = 48
REAL: Final = 2

DRAIN: Final = ("drain", HOST, "--action", "live-migrate", "--parallel", "4", "--order", "group")


def members(fleet: DrainedFleet, first: int) -> tuple[str, ...]:
    """The members of a group of three."""
    return tuple(fleet.guests[HOST].uuids[first : first + 3])


async def test_ctl_host_and_agent_are_killed_in_a_drain_of_50() -> None:
    async with open_drained_fleet(HOST) as fleet:
        scene, guests = fleet.hosts[HOST], fleet.guests[HOST]
        await guests.listen(GUESTS)
        groups = members(fleet, 0), members(fleet, 10)
        rule = {"max_unavailable": 1}
        fleet.settings["groups"] = {"across": {"members": list(groups[0]), **rule}}
        scene.settings["groups"] = {"here": {"members": list(groups[1]), **rule}}
        guests.rejects = {guests.uuids[number]: "a backup runs" for number in (5, 20, 30)}
        guests.rejects_left[guests.uuids[20]] = 1  # by the first question, for information
        await fleet.start_agent()
        await scene.start_host()
        for number in range(REAL):
            await fleet.add_guest(HOST, f"real-{number}")
        await fleet.heartbeating(GUESTS + REAL)

        ctl = await fleet.start_ctl(*DRAIN, "--on-reject", "skip")
        await fleet.until_started(6)
        await ctl.kill()
        await fleet.kill_host(HOST)
        await scene.start_host()
        await fleet.heartbeating(GUESTS + REAL)
        await fleet.until_started(18)
        await fleet.kill_agent()
        await fleet.start_agent()
        await fleet.until_started(30)
        # Both at once, and the agent comes first.
        await fleet.kill_agent()
        await fleet.kill_host(HOST)
        await fleet.start_agent()
        await scene.start_host()
        watched = await fleet.to_the_end(8 * SOON_S)
        assert watched.status in (ExitStatus.COMMAND_FAILED, ExitStatus.INCOMPLETE), watched
        lines = watched.out
        assert await faults(fleet, lines, groups) == []
        states = {one["uuid"]: one["state"] for one in map(json.loads, lines) if "state" in one}
        assert len(states) == GUESTS + REAL
        rejected = {uuid for uuid, state in states.items() if state == "skipped"}
        assert rejected == {guests.uuids[5], guests.uuids[30]}
