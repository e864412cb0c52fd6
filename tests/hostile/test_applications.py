"""Hostile programs in a VM, at its guest: the heartbeat and a good application miss nothing.

The environment makes it longer, see `make test-hostile`.
"""

from __future__ import annotations

import os
import re
import socket
from collections import Counter
from typing import Final

import pytest
import trio

from hbtrio.lab.guest import LabGuest
from hbtrio.lab.scene import Scene, event, open_scene
from hbtrio.log.limits import GUEST_PLACE_RATE, RARE_RATE
from hbtrio.wire.app_messages import AppChallenge, AppInitAck
from hbtrio.wire.vocabulary import VoteResult
from support.hostile_applications import hostile_applications
from support.hostile_applications_process import KINDS, NAME
from support.raw_application import RawApplication, init
from support.real_processes import SOON_S, descriptors, resident_mib, until
from support.tenant_texts import hostile_in

pytestmark = [pytest.mark.processes, pytest.mark.slow, pytest.mark.usefixtures("home")]

_SECONDS: Final = float(os.environ.get("HBTRIO_HOSTILE_S", "12"))

#: What 1024 connections may take; 17 were seen.
_MORE_MIB: Final = 40

#: One of these is silent, which is said once; the others are named in each minute.
_RESTLESS: Final = set(KINDS) - {"twin"}

#: What differs between two lines of one place in the source.
_OWN: Final = re.compile(r"^\S+ \S+ |application .* \(pid|: .*$|\d+")

#: Lines of one place in the source, in the first minute and in each that follows.
_AT_ONCE: Final = GUEST_PLACE_RATE.burst + RARE_RATE.burst
_A_MINUTE: Final = GUEST_PLACE_RATE.per_minute + RARE_RATE.per_minute


async def test_hostile_programs() -> None:
    async with open_scene() as scene, trio.open_nursery() as nursery:
        await scene.start_host()
        vm = await scene.add_guest("vm")
        vm.configure(HB_INTERVAL=1000, HEALTH_CHECK_INTERVAL=0, VOTE=10)
        await vm.start()
        await scene.events.wait_for(event("heartbeating", vm), within_s=SOON_S)
        assert vm.daemon is not None
        pid = vm.daemon.pid
        good = await _registered(vm, nursery)
        memory, files = resident_mib(pid), descriptors(pid)
        [before] = (await scene.status())["instances"]
        async with hostile_applications(vm.app_socket) as pids:
            began = trio.current_time()
            minutes = []
            while (passed := trio.current_time() - began) < _SECONDS:
                await _votes(scene, vm, good)
                if passed >= 60 * len(minutes) + min(60, _SECONDS) - 2:
                    minutes.append(vm.log.read_text())
            newcomer = await _registered(vm, nursery)
            [after] = (await scene.status())["instances"]
            grown = resident_mib(pid) - memory
            challenges = len(good.received_of(AppChallenge))
        assert (after["missed"], after["late_answers"]) == (0, 0)
        assert after["beats"] - before["beats"] >= passed * 0.9 - 2
        # One each second, on a grid: none was left out, and each was answered in time.
        assert challenges >= passed - 1
        log = vm.log.read_text()
        assert not re.search(rf"{NAME} \(pid {os.getpid()},.*silent", log)
        assert (good.closed_at, newcomer.closed_at) == (None, None)
        assert grown <= _MORE_MIB
        # What a flooder has written before its end is still read at the pace of any other.
        await until(lambda: descriptors(pid) <= files + 1 + len(KINDS))
        await vm.stop()
        log = vm.log.read_text()
        nursery.cancel_scope.cancel()
    lines = Counter(_OWN.sub("", line) for line in log.splitlines())
    assert lines.most_common(1)[0][1] <= _AT_ONCE + _A_MINUTE * passed / 60, lines.most_common(10)
    assert "Traceback" not in log
    assert {char for line in log.splitlines() for char in hostile_in(line)} == set()
    _names_each(minutes, pids)


async def _registered(vm: LabGuest, nursery: trio.Nursery) -> RawApplication:
    """An application that has been let in, after those who were waiting already."""
    connection = socket.socket(socket.AF_UNIX)
    await trio.to_thread.run_sync(connection.connect, str(vm.app_socket))
    connection.setblocking(False)
    one = RawApplication(connection, nursery)
    one.send(init(NAME, vote_secs=8))
    await until(lambda: one.received_of(AppInitAck))
    return one


async def _votes(scene: Scene, vm: LabGuest, good: RawApplication) -> None:
    """A good application's reject decides, and nobody can vote in its place."""
    path, says = f"/v1/instances/{vm.uuid}/vote", "said by the good one"
    good.on_event = lambda asked: good.answer(asked, VoteResult.REJECT, says)
    last = (await scene.post(path, {"event": "stop"}))[-1]
    assert (last["result"], last["reason"]) == (VoteResult.REJECT, f"{NAME}: {says}")
    good.on_event = lambda asked: good.answer(asked, VoteResult.ACCEPT, says)
    last = (await scene.post(path, {"event": "stop"}))[-1]
    # Those who say nothing when they are asked have a second each, and agree.
    assert last["result"] == VoteResult.ACCEPT or (
        last["result"] == VoteResult.TIMEOUT and last["reason"].startswith("no answer in time from")
    ), last


def _names_each(minutes: list[str], pids: dict[str, int]) -> None:
    """Each offender is in what was logged while it attacked; nearly all in every minute of it."""
    read = 0
    for number, log in enumerate(minutes):
        new, read = log[read:], len(log)
        unnamed = {kind for kind, pid in pids.items() if f"(pid {pid}," not in new}
        assert unnamed & (_RESTLESS if number else set(KINDS)) == set(), f"in minute {number}"
