"""A real host with a VM in which no guest daemon runs, and one whose daemon has left."""

from __future__ import annotations

import pytest

from hbtrio.lab.scene import event, open_scene
from support.real_processes import SOON_S

pytestmark = [pytest.mark.processes, pytest.mark.usefixtures("home")]


async def test_one_that_never_came_is_unwatched_and_one_that_left_is_absent() -> None:
    async with open_scene() as scene:
        scene.settings["heartbeat"] = {"absent_after_s": 2}
        await scene.start_host()
        never, left = await scene.add_guest("never"), await scene.add_guest("left")
        for vm in (never, left):
            vm.configure(HB_INTERVAL=400, HEALTH_CHECK_INTERVAL=0)
        await left.start()
        await scene.events.wait_for(event("heartbeating", left), within_s=SOON_S)
        await left.stop()
        await scene.events.wait_for(event("absent", left), within_s=SOON_S)
        await scene.events.wait_for(event("unwatched", never), within_s=SOON_S)
        states = {one["uuid"]: one["state"] for one in (await scene.status())["instances"]}
        assert states == {never.uuid: "unwatched", left.uuid: "absent"}
        for vm in (never, left):
            since = scene.events.end
            await vm.start()
            await scene.events.wait_for(event("heartbeating", vm), within_s=SOON_S, since=since)
        assert {line["kind"] for line in scene.events.since(0)}.isdisjoint({"loss", "corrective"})
