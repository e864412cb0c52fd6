"""``hbtrio inhibit`` in a VM with a real guest, below a real host."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

import pytest
import trio

from hbtrio.lab.scene import event, open_scene
from support.real_processes import SOON_S, hbtrio_each, logged, until

pytestmark = [pytest.mark.processes, pytest.mark.usefixtures("home")]


async def test_events_are_rejected_while_the_command_runs(home: Path) -> None:
    async with open_scene() as scene:
        await scene.start_host()
        vm = await scene.add_guest("vm")
        # No corrective reset: on a busy machine it would come when the next guest is up already.
        vm.configure(HB_INTERVAL=400, HEALTH_CHECK_INTERVAL=0, VOTE=20, CORRECTIVE_ACTION="log")
        await vm.start()
        await scene.events.wait_for(event("heartbeating", vm), within_s=SOON_S)

        place, said = {"HBTRIO_APP_SOCKET": str(vm.app_socket)}, home / "said"
        words = ["inhibit", "--what", "stop,pause", "--why", "a dump", "--", "sleep", "1000"]
        with said.open("wb") as errors:
            process = await trio.lowlevel.open_process(
                [sys.executable, "-m", "hbtrio", *words], env=os.environ | place, stderr=errors
            )
        try:
            rejected = f"inhibit: a dump (sleep, pid {process.pid})"
            await logged(vm.log, "inhibits pause, stop: a dump (sleep, pid ")
            await until(
                lambda: Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
            )
            votes = ["ctl", "--url", scene.url, "vote", "vm"]
            stop, reboot, listed = await hbtrio_each(
                [*votes, "stop"], [*votes, "reboot"], ["inhibit", "--list", "--json"], env=place
            )
            assert (stop.status, rejected in "\n".join(stop.out + stop.err)) == (3, True)
            assert reboot.status == 0
            (one,) = json.loads(listed.out[0])["inhibitors"]
            assert (one["pid"], one["events"], one["reason"]) == (
                process.pid,
                ["pause", "stop"],
                rejected.removeprefix("inhibit: "),
            )

            await vm.kill()
            await logged(said, "gone: stop, pause not inhibited until it is back")
            await vm.start()
            await logged(said, "is back: stop, pause inhibited again")
            await logged(vm.log, "inhibits pause, stop: a dump", 2)

            process.send_signal(signal.SIGTERM)
            with trio.fail_after(SOON_S):
                assert await process.wait() == 128 + signal.SIGTERM
        finally:
            if process.returncode is None:
                process.kill()
                with trio.CancelScope(shield=True):
                    await process.wait()
        assert [line.partition(": ")[0] for line in said.read_text().splitlines()] == [
            "hbtrio inhibit"
        ] * 2
