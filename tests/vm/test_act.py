"""``hbtrio ctl act`` with commands that do to a VM what an operator would have done."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from vm import qmp
from vm.bed import Supply, open_bed
from vm.machine import Hardware, Machine
from vm.words import FOUND, RELEASED

pytestmark = pytest.mark.vm


def command(vm: Machine, *arguments: str) -> list[str]:
    """Behind ``--``: a command of QEMU's control socket."""
    return ["--", sys.executable, str(qmp.__file__), str(vm.directory / "act.sock"), *arguments]


async def test_act_reboot(supply: Supply) -> None:
    async with open_bed(supply) as bed:
        vm = await bed.resume()
        await vm.said("event=init-ack.")
        since = bed.now
        status, said = await bed.ctl("act", vm.uuid, "reboot", *command(vm, "system_reset"))
        print(said)
        assert status == 0
        await bed.beats(vm, 3)
        assert bed.events(vm, since) == [
            ("vote", ""),
            ("notice", ""),
            ("stopped", "reboot is in progress"),
            ("heartbeating", "back after reboot"),
        ]
        assert vm.console.count("init: up") == 1
        await vm.changed(*FOUND, *RELEASED)


async def test_act_reboot_is_refused_inside(supply: Supply) -> None:
    async with open_bed(supply) as bed:
        vm = await bed.resume()
        since = bed.now
        await vm.sh("echo 'a backup is running' >/run/guest-client/veto.reboot")
        status, said = await bed.ctl("act", vm.uuid, "reboot", *command(vm, "system_reset"))
        print(said)
        assert status == 3
        await bed.beats(vm, 3)
        assert bed.events(vm, since) == [("vote", "a backup is running")]
        assert "init: up" not in vm.console
        await vm.changed(*FOUND)


async def test_act_live_migrate(supply: Supply, place: Path) -> None:
    uri = f"unix:{place / 'migration.sock'}"
    async with open_bed(supply) as here, open_bed(supply) as there:
        vm = await here.resume()
        since = here.now
        target = await there.start(Hardware(incoming=uri), instance=vm.uuid)
        await there.until(target, lambda one: one["connected"])
        migrate = command(vm, "migrate", f"uri={uri}", "--until-migrated", "--then-quit")
        status, said = await here.ctl("act", vm.uuid, "live-migrate", *migrate)
        print(said)
        assert status == 0
        # Here there is nobody left to be told of the end; whoever knows of both hosts tells there.
        assert await there.notify(target, "live_migrate_end") == ("complete", "")
        await there.event("heartbeating", target)
        await here.until_forgotten(vm)
        await there.beats(target, 3)
        assert sorted(there.events(target)) == [
            ("heartbeating", "back after live_migrate_end was sent"),
            ("notice", ""),
        ]
        kinds = [kind for kind, _ in here.events(vm, since)]
        assert kinds[:3] == ["vote", "notice", "stopped"]
        assert set(kinds[3:]) <= {"stopped", "notice"}
        await vm.changed(*FOUND, shell=False)
        await target.changed(shell=False)
