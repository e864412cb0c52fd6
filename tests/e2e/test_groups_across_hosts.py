"""A group whose members are on two hosts of one agent: one at a time, a lost one counts."""

from __future__ import annotations

from typing import Final

import pytest
import trio

from hbtrio.errors import ExitStatus
from hbtrio.lab.guest import write_script
from support.drained_fleet import DrainedFleet, open_drained_fleet
from support.real_processes import SOON_S

pytestmark = [pytest.mark.processes, pytest.mark.usefixtures("home")]

HOSTS: Final = ("compute-0", "compute-1")

#: It restarts the VM once it may.
COMMAND: Final = """\
#!/bin/sh
echo $1 >>{directory}/started
until [ -e {directory}/go ]; do sleep 0.05; done
exec {virsh} reset $1
"""


async def until_rejected(fleet: DrainedFleet, reason: str) -> None:
    """Waits until a vote to stop db-3 is rejected for this reason; hosts report in their time."""
    ran = None
    with trio.move_on_after(3 * SOON_S):
        while ran is None or reason not in "\n".join(ran.out):
            ran = await fleet.ctl("vote", "db-3", "stop")
    assert ran is not None
    assert reason in "\n".join(ran.out), ran
    assert ran.status == ExitStatus.REJECTED


async def test_members_on_two_hosts_are_taken_down_one_at_a_time() -> None:
    async with open_drained_fleet(*HOSTS) as fleet:
        fleet.settings["groups"] = {"db": {"members": ["db-*"], "max_unavailable": 1}}
        for hostname, scene in fleet.hosts.items():
            scene.has_libvirt = True
            command = scene.directory / "restart"
            virsh = scene.directory / "virsh"
            write_script(command, COMMAND.format(directory=fleet.directory, virsh=virsh))
            scene.settings["actions"] = {
                "reboot": [str(command), "{uuid}"],
                "stop": ["true"],
            }
            assert hostname in HOSTS
        await fleet.start_agent()
        for scene in fleet.hosts.values():
            await scene.start_host()
        one = await fleet.add_guest("compute-0", "db-1")
        await fleet.add_guest("compute-0", "db-2")
        await fleet.add_guest("compute-1", "db-3")
        await fleet.heartbeating(3)

        rebooted = await fleet.start_ctl("act", "db-2", "reboot")
        await fleet.until_started(1)
        why = "group db: db-2 is restarting, at most 1 of 3 may be unavailable"
        stopped = await fleet.ctl("act", "db-3", "stop")
        assert (stopped.status, why in "\n".join(stopped.out)) == (ExitStatus.REJECTED, True)
        await until_rejected(fleet, why)
        (fleet.directory / "go").touch()
        with trio.fail_after(6 * SOON_S):
            while rebooted.status is None:  # noqa: ASYNC110 - another process
                await trio.sleep(0.05)
        await fleet.heartbeating(3)

        # A lost member counts, and so does one whose host has it no more.
        await one.kill()
        await until_rejected(fleet, "group db: db-1 is ")
        await one.destroy()
        await until_rejected(fleet, "group db: db-1 is gone, at most 1 of 3 may be unavailable")
        forgotten = await fleet.ctl("forget", "db-1")
        assert forgotten.status == ExitStatus.DONE, forgotten
        vote = await fleet.ctl("vote", "db-3", "stop")
        assert vote.status == ExitStatus.DONE, vote
