"""A real host that is stopped over its deadlines, with what decides them waiting to be read."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio

from hbtrio.lab.guest import LabGuest
from hbtrio.lab.scene import Scene, event, open_scene
from support.real_processes import SOON_S, logged

pytestmark = [pytest.mark.processes, pytest.mark.usefixtures("home")]

QUICK: dict[str, str | int] = {"HB_INTERVAL": 400, "HEALTH_CHECK_INTERVAL": 0}

#: The window that a guest advertises if its own is a second shorter.
VOTE_S = 3

#: How long a command may take, and how long those of these tests take.
LIMIT_S, COMMAND_S = 1.5, 0.8
COMMAND = ["/bin/sh", "-c", f"sleep {COMMAND_S} # {{uuid}}"]


async def boot(scene: Scene, count: int) -> list[LabGuest]:
    """Starts guests; returns once all are heartbeating."""
    guests = []
    for number in range(count):
        guest = await scene.add_guest(f"vm-{number}")
        guest.configure(**QUICK, VOTE=VOTE_S - 1)
        guest.will("revocable", "stop", after_s=1.0, status=1, says="busy")
        await guest.start()
        guests.append(guest)
    for guest in guests:
        await scene.events.wait_for(event("heartbeating", guest), within_s=SOON_S)
    return guests


@asynccontextmanager
async def stopped_host(scene: Scene, seconds: float) -> AsyncIterator[None]:
    """Stops the host for the block, and for so long at least."""
    assert scene.host is not None
    scene.host.freeze()
    until = trio.current_time() + seconds
    try:
        yield
        await trio.sleep_until(until)
    finally:
        scene.host.thaw()


async def stop_host(scene: Scene, seconds: float) -> None:
    async with stopped_host(scene, seconds):
        pass


def kinds(scene: Scene, since: int) -> set[str]:
    return {line["kind"] for line in scene.events.since(since)}


async def test_a_reject_in_the_channel_is_no_consent() -> None:
    """Each guest rejects within its own window, while the host is stopped over the end of its."""
    async with open_scene() as scene:
        await scene.start_host()
        guests = await boot(scene, 8)
        results: list[str] = []

        async def vote(guest: LabGuest) -> None:
            lines = await scene.post(f"/v1/instances/{guest.uuid}/vote", {"event": "stop"})
            results.append(lines[-1]["result"])

        since = scene.events.end
        async with trio.open_nursery() as nursery:
            for guest in guests:
                nursery.start_soon(vote, guest)
            for guest in guests:
                await asked(scene, guest)
            async with stopped_host(scene, VOTE_S + 0.75):
                # A guest that is slower than its own window is not what this is about.
                for guest in guests:
                    await logged(guest.log, "revocable stop: reject (busy)")
        assert results == ["reject"] * len(guests), scene.logs()
        # A thread of the host writes the events: they may come later than the answers.
        for guest in guests:
            await scene.events.wait_for(event("vote", guest), within_s=SOON_S)
        assert kinds(scene, since) == {"vote"}, scene.logs()


async def asked(scene: Scene, guest: LabGuest) -> None:
    """Returns once its event script runs."""

    def runs(words: list[str]) -> bool:
        return words[:4] == ["handler", guest.name, "revocable", "stop"]

    await scene.script_lines.wait_for(runs, within_s=SOON_S)


async def test_a_command_that_has_ended_is_not_out_of_time() -> None:
    async with open_scene() as scene:
        scene.settings["actions"] = {"timeout_s": LIMIT_S}
        await scene.start_host()
        guests = await boot(scene, 3)
        ends: list[dict[str, Any]] = []
        running = 0

        async def act(guest: LabGuest) -> None:
            nonlocal running
            path = f"/v1/instances/{guest.uuid}/act"
            body = {"action": "resume", "command": COMMAND, "force": True}
            async with scene.client() as client, client.lines("POST", path, body) as lines:
                while (line := await lines.next(dict[str, Any], SOON_S)) is not None:
                    running += line["step"] == "command" and "argv" in line
                    ends.append(line)

        async with trio.open_nursery() as nursery:
            for guest in guests:
                nursery.start_soon(act, guest)
            with trio.fail_after(SOON_S):
                while running < len(guests):  # noqa: ASYNC110 - counted as lines come
                    await trio.sleep(0.01)
            await trio.sleep(0.3)  # the commands are started right after their lines
            await stop_host(scene, LIMIT_S + 3)
        commands = [line for line in ends if line["step"] == "command"]
        results = [line["result"] for line in commands if "result" in line]
        assert results == ["done"] * len(guests)
        assert [line["outcome"] for line in ends if line["step"] == "end"] == ["done"] * len(guests)


async def test_a_reboot_that_has_worked_is_not_called_off() -> None:
    async with open_scene() as scene:
        scene.settings["corrective-commands"] = {"reboot": COMMAND, "timeout_s": LIMIT_S}
        scene.settings["brake"] = {"share": 1.0}
        await scene.start_host()
        (guest,) = await boot(scene, 1)
        assert guest.daemon is not None
        guest.daemon.freeze()
        await logged(scene.host_log, f"{guest.uuid}: reboot: running")
        await trio.sleep(0.3)
        await stop_host(scene, LIMIT_S + 3)
        await logged(scene.host_log, f"{guest.uuid}: reboot done")
        assert "timed out" not in scene.host_log.read_text()
        guest.daemon.thaw()


async def test_a_host_that_is_stopped_again_and_again_loses_nobody() -> None:
    async with open_scene() as scene:
        await scene.start_host()
        await boot(scene, 5)
        since = scene.events.end
        for stop_s in (0.75, 3.0, 0.75, 3.0, 0.5, 0.5, 0.5):
            await stop_host(scene, stop_s)
            await trio.sleep(0.05)
        await trio.sleep(2.0)
        assert kinds(scene, since) == set()
        instances = (await scene.status())["instances"]
        assert {one["state"] for one in instances} == {"heartbeating"}
