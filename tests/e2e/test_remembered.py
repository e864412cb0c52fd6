"""`kill -9` of a real host: the next one knows whom it had heard, and what it had done."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import trio

from hbtrio.lab.guest import LabGuest
from hbtrio.lab.scene import Scene, event, open_scene
from support.lone_daemon import running, serves
from support.real_processes import SOON_S, hbtrio, logged, until

pytestmark = [pytest.mark.processes, pytest.mark.usefixtures("home")]

QUICK: dict[str, str | int] = {"HB_INTERVAL": 400, "HEALTH_CHECK_INTERVAL": 0, "RESTART": 4}


async def boot(scene: Scene, name: str) -> LabGuest:
    vm = await scene.add_guest(name)
    vm.configure(**QUICK)
    await vm.start()
    await scene.events.wait_for(event("heartbeating", vm), within_s=SOON_S)
    return vm


async def history(scene: Scene) -> str:
    return "\n".join((await hbtrio("ctl", "--url", scene.url, "history")).out)


async def test_a_guest_that_hangs_while_the_host_is_down_is_found() -> None:
    async with open_scene() as scene:
        state = scene.directory / "state"
        state.mkdir(mode=0o700)
        scene.settings["state_dir"] = str(state)
        host = await scene.start_host()
        well, hung, left = [await boot(scene, name) for name in ("well", "hung", "left")]
        await hbtrio("ctl", "--url", scene.url, "vote", well.uuid, "stop")
        await left.stop()
        await scene.events.wait_for(event("stopped", left), within_s=SOON_S)
        await logged(scene.host_log, "guest exited")
        assert hung.daemon is not None
        with trio.fail_after(SOON_S):
            while "guest exited" not in await history(scene):
                pass  # it is stored within a moment
        since = scene.events.end
        await host.kill()
        hung.daemon.freeze()
        await scene.start_host()
        await scene.events.wait_for(event("heartbeating", well), within_s=SOON_S, since=since)
        await scene.events.wait_for(event("loss", hung), within_s=SOON_S, since=since)
        reported = {line["uuid"]: line["kind"] for line in scene.events.since(since)}
        assert reported.get(left.uuid, "absent") == "absent"
        assert reported[well.uuid] == "heartbeating"
        with trio.fail_after(SOON_S):
            while " loss" not in (told := await history(scene)):
                pass
        assert "vote stop accept by operator uid" in told
        assert told.index("guest exited") < told.index(" loss")
        hung.daemon.thaw()


async def test_a_state_directory_that_can_not_be_used_stops_no_host() -> None:
    async with open_scene() as scene:
        scene.settings["state_dir"] = str(scene.directory / "missing")
        await scene.start_host()
        await boot(scene, "vm")
        status = (await scene.status())["host"]["memory"]
        assert status["state"] == "failing"
        assert "its directory does not exist" in status["why"]


async def test_systemd_names_the_state_directory(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (home / "first").mkdir()
    monkeypatch.setenv("STATE_DIRECTORY", f"{home}/first:{home}/second")
    with running("host", home, stderr=subprocess.DEVNULL):
        await until((home / "first" / "host.db").exists)
        await until(lambda: serves("host", home))
    assert (home / "first" / "host.db").stat().st_mode & 0o777 == 0o600


async def test_a_hold_outlives_the_host_and_is_decided_anew_at_its_end() -> None:
    async with open_scene() as scene:
        state = scene.directory / "state"
        state.mkdir(mode=0o700)
        scene.settings["state_dir"] = str(state)
        scene.settings["corrective-commands"] = {"reboot": ["/bin/true", "{uuid}"]}
        host = await scene.start_host()
        vm = await boot(scene, "held")
        reason = ("--for", "1h", "--reason", "disk swap")
        held = await hbtrio("ctl", "--url", scene.url, "hold", vm.uuid, *reason)
        assert held.status == 0
        assert "NOT STORED" not in "\n".join(held.out)
        await host.kill()
        since = scene.events.end
        await scene.start_host()
        assert vm.daemon is not None
        vm.daemon.freeze()
        await scene.events.wait_for(event("not-acted", vm), within_s=SOON_S, since=since)
        status = "\n".join((await hbtrio("ctl", "--url", scene.url, "status")).out)
        assert "disk swap" in status
        assert "corrective" not in {line["kind"] for line in scene.events.since(since)}
        await hbtrio("ctl", "--url", scene.url, "unhold", vm.uuid)
        await scene.events.wait_for(event("corrective", vm), within_s=SOON_S, since=since)
