"""A real host decides whether to act: what is set for an instance, who owns it, and illness.

The precise figures are those of the fake clock (``tests/nursery/host/test_corrective.py`` and its
neighbours).
"""

from __future__ import annotations

import shlex
from datetime import datetime
from typing import Any

import pytest
import trio

from hbtrio.lab.guest import LabGuest, write_script
from hbtrio.lab.scene import Scene, event, open_scene
from support.real_processes import SOON_S, until

pytestmark = [pytest.mark.processes, pytest.mark.usefixtures("home")]

GRACE_S = 3.0


async def boot(scene: Scene, vm: LabGuest, **keys: str | int) -> None:
    vm.configure(**({"HB_INTERVAL": 400, "HEALTH_CHECK_INTERVAL": 0} | keys))
    await vm.start()
    await scene.events.wait_for(event("heartbeating", vm), within_s=SOON_S)


async def happens(scene: Scene, kind: str, vm: LabGuest, **members: str) -> dict[str, Any]:
    return await scene.events.wait_for(event(kind, vm, **members), within_s=3 * SOON_S)


def hang(vm: LabGuest) -> None:
    assert vm.daemon is not None
    vm.daemon.freeze()


async def test_who_is_acted_upon_and_a_command_that_could_not_start_is_tried_again() -> None:
    async with open_scene() as scene:
        vms = [await scene.add_guest(name) for name in ("acted-on", "left-alone", "left-out")]
        acted_on, left_alone, left_out = vms
        scene.settings["instances"] = {
            left_alone.uuid: {"corrective": "off"},
            left_out.uuid: {"watch": False},
        }
        reset = scene.directory / "reset"
        scene.settings["corrective-commands"] = {"reboot": [str(reset), "{uuid}"]}
        await scene.start_host()
        await left_out.start()
        for vm in (acted_on, left_alone):
            await boot(scene, vm)
        for vm in (acted_on, left_alone):
            hang(vm)
        await happens(scene, "corrective", acted_on, outcome="not-started")
        since = scene.events.end
        virsh = shlex.quote(str(scene.directory / "virsh"))
        write_script(reset, f'#!/bin/sh\nexec {virsh} reset "$1"\n')
        await happens(scene, "corrective", acted_on, outcome="done")
        back = event("heartbeating", acted_on)
        await scene.events.wait_for(back, within_s=SOON_S, since=since)
        await happens(scene, "not-acted", left_alone, cause="policy")
        reported = {(line["kind"], line["uuid"]) for line in scene.events.since(0)}
        assert ("corrective", left_alone.uuid) not in reported
        assert left_out.uuid not in {uuid for _, uuid in reported}


async def test_an_operators_action_ends_a_corrective_command() -> None:
    async with open_scene() as scene:
        command = scene.directory / "hangs"
        write_script(
            command, f"#!/bin/sh\ntouch {shlex.quote(str(command))}.runs\nexec sleep 100\n"
        )
        scene.settings["corrective-commands"] = {"reboot": [str(command)]}
        await scene.start_host()
        vm = await scene.add_guest("vm")
        await boot(scene, vm)
        hang(vm)
        await until((scene.directory / "hangs.runs").exists, within_s=3 * SOON_S)
        since = scene.events.end
        body = {"action": "reboot", "force": True, "take_over": True}
        lines = await scene.post(f"/v1/instances/{vm.uuid}/act", body)
        assert lines[-1]["outcome"] == "done", lines
        await scene.events.wait_for(event("heartbeating", vm), within_s=SOON_S, since=since)
        [ended] = [line for line in scene.events.since(0) if line["kind"] == "corrective"]
        assert (ended["outcome"], ended["uuid"]) == ("ended", vm.uuid)


async def test_illness_after_a_start_or_in_a_notice_is_shown_and_not_reported() -> None:
    async with open_scene() as scene:
        scene.settings["heartbeat"] = {"grace_s": GRACE_S}
        await scene.start_host()
        ill, told = await scene.add_guest("ill"), await scene.add_guest("told")
        ill.feels(1, "disk full")
        checks: dict[str, str | int] = {"HEALTH_CHECK_INTERVAL": 1, "CORRECTIVE_ACTION": "log"}
        await boot(scene, told, SUSPEND_NOTICE=100, **checks)
        told.will("irrevocable", "pause", after_s=50)
        await boot(scene, ill, **checks)
        # By then the grace time of the other one is over.
        begun, reported = [await happens(scene, k, ill) for k in ("heartbeating", "unhealthy")]
        assert seconds_between(begun, reported) >= GRACE_S - 0.1
        async with scene.client() as client:
            body = {"event": "pause"}
            path = f"/v1/instances/{told.uuid}/notify"
            async with client.lines("POST", path, body) as lines:
                await lines.next(dict[str, Any], SOON_S)
                told.feels(1, "disk full")
                while await health(scene, told) != "unhealthy":  # noqa: ASYNC110 - it is asked for
                    await trio.sleep(0.1)
        kinds = {line["kind"] for line in scene.events.since(0) if line["uuid"] == told.uuid}
        assert "unhealthy" not in kinds


def seconds_between(first: dict[str, Any], second: dict[str, Any]) -> float:
    at = [datetime.fromisoformat(line["time"]) for line in (first, second)]
    return (at[1] - at[0]).total_seconds()


async def health(scene: Scene, vm: LabGuest) -> str:
    [one] = [one for one in (await scene.status())["instances"] if one["uuid"] == vm.uuid]
    return str(one["health"])
