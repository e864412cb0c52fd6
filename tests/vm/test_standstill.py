"""A VM that stands still: paused, suspended, reset; with and without a word before."""

from __future__ import annotations

import pytest
import trio

from vm.bed import Supply, open_bed
from vm.machine import BOOT_S, COMMAND_S

pytestmark = pytest.mark.vm

BEATING = ("heartbeating", "init answered")

#: With the shipped interval of 1000 ms and one miss forgiven, silence is a loss after 3 s.
LOST = ("loss", "no answer for 3 s")
RECOVERED = ("heartbeating", "after: no answer for 3 s")
LONGER_THAN_LOSS_S = 4.0


async def test_paused_with_notices_is_no_loss(supply: Supply) -> None:
    async with open_bed(supply) as bed:
        vm = await bed.resume()
        since = bed.now
        assert await bed.vote(vm, "pause") == ("accept", "")
        assert await bed.notify(vm, "pause") == ("complete", "")
        await vm.qmp("stop")
        await trio.sleep(LONGER_THAN_LOSS_S)
        await vm.qmp("cont")
        assert await bed.notify(vm, "unpause") == ("complete", "")
        await bed.beats(vm, 3)
        assert bed.events(vm, since) == [
            ("vote", ""),
            ("notice", ""),
            ("stopped", "pause is under way"),
            ("heartbeating", "after: unpause was sent"),
            ("notice", ""),
        ]


async def test_paused_without_notices_is_a_loss_and_recovers(supply: Supply) -> None:
    async with open_bed(supply) as bed:
        vm = await bed.resume()
        since = bed.now
        await vm.qmp("stop")
        await bed.event("loss", vm, since=since)
        await vm.qmp("cont")
        await bed.event("heartbeating", vm, since=since)
        await bed.beats(vm, 3)
        assert bed.events(vm, since) == [LOST, RECOVERED]


async def test_reset_with_a_notice_is_no_loss(supply: Supply) -> None:
    async with open_bed(supply) as bed:
        vm = await bed.resume()
        since = bed.now
        assert await bed.vote(vm, "reboot") == ("accept", "")
        assert await bed.notify(vm, "reboot") == ("complete", "")
        await vm.qmp("system_reset")
        restarting = await bed.until(vm, lambda one: one["restart_remaining_s"])
        assert (restarting["state"], restarting["connected"]) == ("restarting", True)
        await bed.event("heartbeating", vm, since=since, within_s=BOOT_S)
        await bed.beats(vm, 3)
        assert bed.events(vm, since) == [
            ("vote", ""),
            ("notice", ""),
            ("stopped", "reboot is under way"),
            ("heartbeating", "after: reboot is under way"),
        ]
        assert vm.console.count("init: up") == 1


async def test_reset_without_a_word_is_a_loss_and_recovers(supply: Supply) -> None:
    async with open_bed(supply) as bed:
        vm = await bed.resume()
        since = bed.now
        await vm.qmp("system_reset")
        await bed.event("loss", vm, since=since)
        await bed.event("heartbeating", vm, since=since, within_s=BOOT_S)
        await bed.beats(vm, 3)
        assert bed.events(vm, since) == [LOST, RECOVERED]


async def test_suspended_to_memory_with_notices_is_no_loss(supply: Supply) -> None:
    async with open_bed(supply) as bed:
        vm = await bed.resume()
        since = bed.now
        assert await bed.vote(vm, "suspend") == ("accept", "")
        assert await bed.notify(vm, "suspend") == ("complete", "")
        await vm.sh("(sleep 0.2; echo mem >/sys/power/state) >/dev/null 2>&1 &")
        await vm.qmp.event("SUSPEND", COMMAND_S)
        await trio.sleep(LONGER_THAN_LOSS_S)
        await vm.qmp("system_wakeup")
        await vm.qmp.event("WAKEUP", COMMAND_S)
        assert await bed.notify(vm, "resume") == ("complete", "")
        await bed.beats(vm, 3)
        assert bed.events(vm, since) == [
            ("vote", ""),
            ("notice", ""),
            ("stopped", "suspend is under way"),
            ("heartbeating", "after: resume was sent"),
            ("notice", ""),
        ]
