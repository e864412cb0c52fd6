"""What the host learns of a guest's scripts that hang or can't be run."""

from __future__ import annotations

import pytest

from hbtrio.lab.guest import write_script
from hbtrio.lab.scene import event, open_scene
from support.real_processes import SOON_S, hbtrio

pytestmark = [pytest.mark.processes, pytest.mark.usefixtures("home")]


async def test_a_host_learns_that_a_health_script_hangs_and_that_a_voter_cannot_be_run() -> None:
    async with open_scene() as scene:
        await scene.start_host()
        vm = await scene.add_guest("vm")
        write_script(vm.health_script, "#!/bin/sh\nexec sleep 1000\n")
        vm.event_script.chmod(0o644)
        vm.configure(HB_INTERVAL=400, HEALTH_CHECK_INTERVAL=1)
        await vm.start()
        ill = await scene.events.wait_for(event("unhealthy", vm), within_s=SOON_S)
        assert (ill["reason"], ill["corrective_action"]) == (
            "health script did not end within 1 s, 2 times in a row",
            "log",
        )
        ran = await hbtrio("ctl", "--url", scene.url, "vote", "vm", "stop")
        named = "event_script could not be run: Permission denied"
        assert (ran.status, [line for line in ran.out if named in line] != []) == (0, True)
        vote = await scene.events.wait_for(event("vote", vm), within_s=SOON_S)
        assert (vote["result"], vote["reason"]) == ("complete", named)
