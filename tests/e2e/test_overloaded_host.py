"""A host process that is always late raises an alarm, and reports those that are really dead."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
import trio

from hbtrio.lab.scene import Scene, open_scene
from support.guest_farm import open_guest_farm, uuid_of
from support.real_processes import hbtrio, logged, until

pytestmark = pytest.mark.processes

_GUESTS = 40
_DEAD = 3

#: It runs and is stopped, over and over: late at every moment at which it could count a miss.
_RUNS_S = 0.4
_STOPPED_S = 1.1


async def _stop_again_and_again(
    pid: int, *, task_status: trio.TaskStatus[trio.CancelScope]
) -> None:
    with trio.CancelScope() as scope:
        task_status.started(scope)
        while True:
            await trio.sleep(_RUNS_S)
            os.kill(pid, signal.SIGSTOP)
            try:
                await trio.sleep(_STOPPED_S)
            finally:
                os.kill(pid, signal.SIGCONT)


async def test_a_host_that_is_always_late_alarms_and_still_finds_the_dead(home: Path) -> None:
    dead = {uuid_of(index) for index in range(_DEAD)}
    async with (
        open_scene() as scene,
        open_guest_farm(scene.channel_dir) as farm,
        trio.open_nursery() as nursery,
    ):
        host = await scene.start_host()
        await farm.listen(_GUESTS, interval_ms=500)
        await until(lambda: scene.events.end == _GUESTS)
        late: trio.CancelScope = await nursery.start(_stop_again_and_again, host.pid)
        await farm.mute(range(_DEAD))
        await logged(scene.host_log, "ALARM: overload")
        shown = await _status(scene)
        assert any(line.startswith("ALARM: overloaded since") for line in shown), shown
        await until(lambda: scene.events.end == _GUESTS + _DEAD, within_s=60)
        lost = scene.events.since(_GUESTS)
        assert {line["kind"] for line in lost} == {"loss"}
        assert {line["uuid"] for line in lost} == dead
        late.cancel()
        await logged(scene.host_log, "overload: on time again")
        instances = (await scene.status())["instances"]
        assert {line["uuid"] for line in instances if not line["heartbeating"]} == dead
        log = scene.host_log.read_text()
        assert log.count(" overload: ") == 3
        assert "Traceback" not in log


async def _status(scene: Scene) -> list[str]:
    """What `hbtrio ctl status` shows, as soon as it is answered."""
    with trio.fail_after(60):
        while (ran := await hbtrio("ctl", "--url", scene.url, "status")).status:
            assert "overloaded: heartbeats come first" in "\n".join(ran.err)
            await trio.sleep(0.5)
    return ran.out
