"""hbtrio-shutdown.service: its ExecStart and ExecStop lines, run with a real host and guest."""

from __future__ import annotations

import os
import re
import shlex
import sys
from pathlib import Path
from typing import Final

import pytest
import trio

from hbtrio.lab.scene import Scene, event, open_scene
from support.real_processes import SOON_S, logged

pytestmark = [pytest.mark.processes, pytest.mark.usefixtures("home")]

UNIT: Final = Path(__file__).parents[2] / "deploy" / "hbtrio-shutdown.service"


class Service:
    """The unit, as systemd reads it, beside a host of this test and a systemctl that says so.

    Args:
        scene: has the host.
        place: an empty directory.
    """

    def __init__(self, scene: Scene, place: Path) -> None:
        self._socket = scene.url.removeprefix("unix:")
        self.told = place / "told"
        self._text = UNIT.read_text().replace("\\\n", " ")
        self._state = place / "state"
        systemctl = place / "systemctl"
        systemctl.write_text(f"#!/bin/sh\n[ \"$*\" = is-system-running ] && cat '{self._state}'\n")
        systemctl.chmod(0o755)
        self._path = f"{place}:{Path(sys.executable).parent}:{os.environ['PATH']}"

    def setting(self, key: str) -> str:
        (value,) = re.findall(rf"^{key}=(.*)$", self._text, re.M)
        return str(value)

    async def run(self, key: str, state: str = "") -> int:
        """Runs the line of this key while the system is in this state; returns its exit status."""
        self._state.write_text(f"{state}\n")
        line = self.setting(key).removeprefix("-")
        line = line.replace("/run/hbtrio/host.sock", self._socket)
        line = line.replace("/run/hbtrio/told", str(self.told)).replace("$$", "$")
        name, _, value = self.setting("Environment").partition("=")
        with trio.fail_after(3 * SOON_S):
            ended = await trio.run_process(
                shlex.split(line), env=os.environ | {"PATH": self._path, name: value}, check=False
            )
        return ended.returncode


async def test_a_shutdown_is_told_and_called_off(home: Path) -> None:
    async with open_scene() as scene:
        await scene.start_host()
        vm = await scene.add_guest("vm")
        vm.configure(HB_INTERVAL=400, HEALTH_CHECK_INTERVAL=0, SHUTDOWN_NOTICE=20)
        await vm.start()
        await scene.events.wait_for(event("heartbeating", vm), within_s=SOON_S)
        service = Service(scene, home)

        # After a boot there is nobody to tell, and a unit that is stopped by hand is no shutdown.
        assert await service.run("ExecStart") == 0
        assert await service.run("ExecStop", "running") == 0
        assert await service.run("ExecStop", "degraded") == 0
        assert "irrevocable" not in vm.log.read_text()

        assert await service.run("ExecStop", "stopping") == 0
        await logged(vm.log, "irrevocable stop: complete")
        assert service.told.read_text() == f"stop {vm.uuid}\n"

        assert await service.run("ExecStart") == 0
        await logged(vm.log, "irrevocable resume: complete")
        assert not service.told.exists()
