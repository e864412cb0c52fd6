"""`kill -9` and SIGTERM of a real host at every step of an action: the next one goes on with it."""

from __future__ import annotations

import os
import signal
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path

import attrs
import pytest
import trio

from hbtrio.errors import UserError
from hbtrio.lab.guest import LabGuest, write_script
from hbtrio.lab.scene import Scene, event, open_scene
from support.real_processes import SOON_S, Ran, hbtrio, is_gone, logged, until

pytestmark = [pytest.mark.processes, pytest.mark.usefixtures("home")]

INTERRUPTED = "interrupted: the host ended while the command ran"

#: The command of the actions: it says that it runs, and does so until it is let go.
COMMAND = """\
#!/bin/sh
echo $$ >>{directory}/started
until [ -e {directory}/go ]; do sleep 0.05; done
{then}
"""

#: An event script that holds up what it is asked for the first time.
HANDLER = """\
#!/bin/sh
[ "$*" = "{holds}" ] || exit 0
[ -e {directory}/held ] && exit 0
touch {directory}/held
exec sleep 100
"""


@attrs.define
class Bench:
    """A host with a memory, a VM that is heartbeating, and a command."""

    scene: Scene
    vm: LabGuest
    directory: Path
    nursery: trio.Nursery

    @property
    def started(self) -> list[int]:
        """The processes of the commands that were run."""
        path = self.directory / "started"
        return [int(line) for line in path.read_text().split()] if path.exists() else []

    def let_go(self) -> None:
        (self.directory / "go").touch()

    def act(self, action: str) -> None:
        """An operator asks for an action, and loses the host in the middle."""
        self.nursery.start_soon(self._act, action)

    async def _act(self, action: str) -> None:
        body = {"action": action, "command": [str(self.directory / "command")]}
        try:
            await self.scene.post(f"/v1/instances/{self.vm.uuid}/act", body)
        except UserError as error:
            if "went away" not in str(error):
                raise

    async def ctl(self, *words: str) -> Ran:
        return await hbtrio("ctl", "--url", self.scene.url, *words)

    async def history(self, action: str) -> list[str]:
        """What is told of one action, the oldest first, without who asked and when."""
        lines = (await self.ctl("history")).out
        told = [line.partition(" action by ")[2].partition(": ")[2] for line in lines]
        return [line for line in told if line.startswith(f"{action}: ")]

    async def kill(self) -> int:
        """Kills the host and starts the next; returns from where on its events are."""
        assert self.scene.host is not None
        await self.scene.host.kill()
        since = self.scene.events.end
        await self.scene.start_host()
        return since

    async def outcome(self, expected: str) -> None:
        """The history gets this outcome, and no other."""
        action = expected.partition(":")[0]
        with trio.fail_after(3 * SOON_S):
            while len(told := await self.history(action)) < 2:  # noqa: ASYNC110 - a file of others
                await trio.sleep(0.1)
        assert told == [f"{action}: asked", expected]
        assert (await self.scene.status())["host"]["actions"] == {}

    async def stored(self, step: str) -> None:
        """The action's record has come to this step."""
        await until(lambda: self._steps() == [step], within_s=3 * SOON_S)

    def _steps(self) -> list[str]:
        database = f"file:{self.scene.settings['state_dir']}/host.db?mode=ro"
        with closing(sqlite3.connect(database, uri=True)) as db:
            return [step for (step,) in db.execute("SELECT step FROM actions")]

    async def noticed(self, name: str, since: int) -> None:
        noticed = event("notice", self.vm, event=name)
        await self.scene.events.wait_for(noticed, within_s=3 * SOON_S, since=since)


@asynccontextmanager
async def bench(
    *, holds: str = "nothing", then: str = "exit 0", restart_s: int = 20
) -> AsyncIterator[Bench]:
    async with open_scene() as scene, trio.open_nursery() as nursery:
        state = scene.directory / "state"
        state.mkdir(mode=0o700)
        scene.settings["state_dir"] = str(state)
        scene.settings["corrective-commands"] = {}
        await scene.start_host()
        vm = await scene.add_guest("vm")
        vm.configure(
            HB_INTERVAL=400,
            HEALTH_CHECK_INTERVAL=0,
            VOTE=4,
            SHUTDOWN_NOTICE=4,
            SUSPEND_NOTICE=4,
            RESUME_NOTICE=12,  # on a busy machine a kill comes seconds after what it follows
            RESTART=restart_s,
        )
        directory = vm.directory
        write_script(vm.event_script, HANDLER.format(holds=holds, directory=directory))
        then = then.format(virsh=scene.directory / "virsh", uuid=vm.uuid)
        write_script(directory / "command", COMMAND.format(directory=directory, then=then))
        await vm.start()
        await scene.events.wait_for(event("heartbeating", vm), within_s=SOON_S)
        yield Bench(scene, vm, directory, nursery)


async def held(one: Bench, action: str) -> None:
    await until((one.directory / "held").exists)
    # The history is written a moment later than the step.
    with trio.fail_after(SOON_S):
        while not await one.history(action):  # noqa: ASYNC110 - a file of others
            await trio.sleep(0.1)


async def runs(one: Bench) -> None:
    await until(lambda: bool(one.started))


async def test_killed_in_the_vote() -> None:
    async with bench(holds="revocable reboot", then="exec {virsh} reset {uuid}") as one:
        one.act("reboot")
        await held(one, "reboot")
        since = await one.kill()
        await one.scene.events.wait_for(
            event("vote", one.vm, event="reboot"), within_s=SOON_S, since=since
        )
        one.let_go()
        await one.outcome("reboot: done")
        assert len(one.started) == 1


async def test_killed_in_the_notice() -> None:
    async with bench(holds="irrevocable stop", then="exec {virsh} destroy {uuid}") as one:
        one.act("stop")
        await held(one, "stop")
        since = await one.kill()
        await one.noticed("stop", since)
        one.let_go()
        await one.outcome("stop: done")
        assert len(one.started) == 1


async def test_killed_in_the_command_of_a_vm_that_runs_on() -> None:
    async with bench() as one:
        one.act("live-migrate")
        await runs(one)
        since = await one.kill()
        # The reaper has ended it, and it is not run again.
        await until(lambda: is_gone(one.started[0]))
        await one.noticed("live_migrate_end", since)
        await one.outcome(f"live-migrate: failed: {INTERRUPTED}")
        assert len(one.started) == 1
        # What did not happen is over.
        assert (await one.scene.status())["instances"][0]["state"] == "heartbeating"


async def test_killed_in_the_command_of_a_vm_that_is_reset_meanwhile() -> None:
    # On a busy machine the next host takes half a minute until it knows.
    async with bench(restart_s=120) as one:
        one.act("reboot")
        await runs(one)
        assert one.scene.host is not None
        await one.scene.host.kill()
        await one.vm.kill()
        await one.scene.start_host()
        await one.stored("awaiting")  # it is known to be down
        await one.vm.start()
        await one.outcome(f"reboot: done: {INTERRUPTED}")
        assert len(one.started) == 1


async def test_killed_in_the_wait_for_the_return() -> None:
    async with bench(restart_s=120) as one:
        one.let_go()
        one.act("reboot")
        await runs(one)
        await logged(one.scene.host_log, "action reboot: running")
        await one.vm.kill()
        await until(lambda: is_gone(one.started[0]))
        await one.stored("awaiting")
        await one.kill()
        await one.vm.start()
        await one.outcome("reboot: done")


async def test_killed_in_the_end_notice() -> None:
    async with bench(holds="irrevocable live_migrate_end") as one:
        one.let_go()
        one.act("live-migrate")
        await held(one, "live-migrate")
        since = await one.kill()
        await one.noticed("live_migrate_end", since)
        await one.outcome("live-migrate: done")
        assert len(one.started) == 1


# -- SIGTERM --------------------------------------------------------------------------------


async def test_term_lets_the_action_end_and_refuses_others() -> None:
    async with bench() as one:
        one.scene.settings["stop_grace_s"] = 60
        await one.kill()
        await one.scene.events.wait_for(event("heartbeating", one.vm), within_s=SOON_S)
        host = one.scene.host
        assert host is not None
        one.act("live-migrate")
        await runs(one)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(host.stop)
            await logged(one.scene.host_log, "stopping: waiting at most 60 s")
            refused = await one.ctl("act", one.vm.uuid, "stop", "--", "true")
            assert (refused.status, "this host is stopping" in refused.err[0]) == (1, True)
            assert not is_gone(one.started[0])
            one.let_go()
        await one.scene.start_host()
        await one.outcome("live-migrate: done")


async def test_a_second_term_ends_it_at_once_and_the_next_host_resumes() -> None:
    async with bench() as one:
        one.scene.settings["stop_grace_s"] = 60
        await one.kill()
        host = one.scene.host
        assert host is not None
        await one.scene.events.wait_for(event("heartbeating", one.vm), within_s=SOON_S)
        one.act("live-migrate")
        await runs(one)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(host.stop)
            await logged(one.scene.host_log, "stopping: waiting at most 60 s")
            os.kill(host.pid, signal.SIGTERM)
        assert is_gone(one.started[0])
        await logged(one.scene.host_log, "stopping in the middle of action live-migrate")
        await one.scene.start_host()
        await one.outcome(f"live-migrate: failed: {INTERRUPTED}")
