"""Drains 50 guests again and again, kills ctl, host and agent at random, and judges each drain.

``SOAK_DRAINS`` is how many drains there are, 20 by default, and ``SOAK_SEED`` draws the kills, the
rejects and the options. Each drain has a line with what was killed in it and what it came to. The
exit status is 1 if :mod:`support.drain_judge` finds a fault in any.
"""

from __future__ import annotations

import json
import os
import random
import sys
from collections import Counter
from typing import Final

import trio

from support.drain_judge import faults
from support.drained_fleet import DrainedFleet, open_drained_fleet

HOST: Final = "compute-0"
GUESTS: Final = 50

#: How many kills a drain has, and how many seconds from one to the next.
_KILLS: Final = (1, 4)
_APART_S: Final = (0.2, 5.0)

#: How long who was killed stays away, in seconds.
_AWAY_S: Final = (0.0, 3.0)

#: How long a drain may take, in seconds.
_DRAIN_S: Final = 600.0


async def _kills(fleet: DrainedFleet, draw: random.Random) -> list[str]:
    killed = []
    for _ in range(draw.randint(*_KILLS)):
        await trio.sleep(draw.uniform(*_APART_S))
        who = draw.choice(("agent", "host", "both"))
        killed.append(who)
        if who != "host":
            await fleet.kill_agent()
        if who != "agent":
            await fleet.kill_host(HOST)
        await trio.sleep(draw.uniform(*_AWAY_S))
        if who != "host":
            await fleet.start_agent()
        if who != "agent":
            await fleet.hosts[HOST].start_host()
    return killed


async def _drain(fleet: DrainedFleet, draw: random.Random) -> tuple[str, list[str]]:
    """Has one drain; returns what became of it, and what is wrong with it."""
    guests = fleet.guests[HOST]
    (fleet.directory / "started").unlink(missing_ok=True)
    guests.told.clear()
    guests.rejects = dict.fromkeys(draw.sample(guests.uuids, 5), "busy")
    options = ["--parallel", str(draw.randint(1, 8)), "--order", draw.choice(("name", "group"))]
    on_reject = draw.choice((["--on-reject", "skip"], ["--on-reject", "force"], []))
    options += [*on_reject, "--retry-for", "40s"]
    await fleet.heartbeating(GUESTS)
    ctl = await fleet.start_ctl("drain", HOST, "--action", "live-migrate", *options)
    await fleet.until_started(1)
    await ctl.kill()
    killed = await _kills(fleet, draw)
    ended = await fleet.to_the_end(_DRAIN_S)
    found = await faults(fleet, ended.out, [guests.uuids[:3], guests.uuids[10:13]])
    last = {one["uuid"]: one["state"] for one in map(json.loads, ended.out) if "state" in one}
    counts = ", ".join(
        f"{count} {state}" for state, count in sorted(Counter(last.values()).items())
    )
    return f"{' '.join(options)}; killed {', '.join(killed)}: {counts}", found


async def _main() -> int:
    drains = int(os.environ.get("SOAK_DRAINS", "20"))
    seed = int(os.environ.get("SOAK_SEED") or random.randrange(1_000_000))
    draw, wrong = random.Random(seed), 0
    print(f"seed {seed}, {drains} drains of {GUESTS} guests", flush=True)
    async with open_drained_fleet(HOST) as fleet:
        guests = fleet.guests[HOST]
        await guests.listen(GUESTS)
        one = {"max_unavailable": 1}
        fleet.settings["groups"] = {"across": {"members": guests.uuids[:3], **one}}
        fleet.hosts[HOST].settings["groups"] = {"here": {"members": guests.uuids[10:13], **one}}
        await fleet.start_agent()
        await fleet.hosts[HOST].start_host()
        for number in range(1, drains + 1):
            words, found = await _drain(fleet, draw)
            print(f"{number}: {words}", *found, sep="\n  ", flush=True)
            wrong += bool(found)
    print(f"{drains} drains, {wrong} with faults")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(trio.run(_main))
