"""`kill -9` of a real host between an action's plan and its time: it is done at that time."""

from __future__ import annotations

import pytest
import trio

from hbtrio.errors import ExitStatus
from hbtrio.lab.guest import write_script
from hbtrio.lab.scene import event, open_scene
from support.real_processes import SOON_S, hbtrio, until

pytestmark = [pytest.mark.processes, pytest.mark.usefixtures("home")]

#: How long the guest may put it off, in seconds: longer than a restart takes on a busy machine.
PUT_OFF = "10s"


async def test_a_guest_that_rejects_to_the_end_and_a_host_that_is_killed() -> None:
    async with open_scene() as scene:
        state = scene.directory / "state"
        state.mkdir(mode=0o700)
        scene.settings["state_dir"] = str(state)
        await scene.start_host()
        command = scene.directory / "command"
        write_script(command, f"#!/bin/sh\necho $1 >>{scene.directory}/started\n")
        vm = await scene.add_guest("vm")
        vm.configure(HB_INTERVAL=400, HEALTH_CHECK_INTERVAL=0)
        vm.will("revocable", "live_migrate_begin", status=1, says="a backup runs")
        await vm.start()
        await scene.events.wait_for(event("heartbeating", vm), within_s=3 * SOON_S)
        ctl = ("ctl", "--url", scene.url)
        words = ("act", vm.uuid, "live-migrate", "--before", PUT_OFF, "--", str(command), "{uuid}")
        assert (await hbtrio(*ctl, *words)).status == ExitStatus.DONE
        await scene.events.wait_for(event("vote", vm), within_s=3 * SOON_S)
        assert scene.host is not None
        await scene.host.kill()
        await scene.start_host()
        started = scene.directory / "started"
        await until(started.exists, within_s=3 * SOON_S)
        with trio.fail_after(3 * SOON_S):
            # The end stands in the history a moment later.
            told = ""
            while "live-migrate: done" not in told:
                told = "\n".join((await hbtrio(*ctl, "history")).out)
        assert "overridden live_migrate_begin" in told
        assert "overridden at its planned time: a backup runs" in told
        assert "planned: not before" in told
        assert started.read_text().split() == [vm.uuid]
