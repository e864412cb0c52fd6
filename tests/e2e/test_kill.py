"""`kill -9` in the middle of a vote, a notice and a command: nothing stays, and one outcome.

All three at once, on a VM each: what is killed with one of them must not hold up the others.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

from hbtrio.lab.guest import LabGuest, write_script
from hbtrio.lab.scene import Scene, event, open_scene
from support.ctl_cases import STOPS
from support.real_processes import (
    SOON_S,
    Ran,
    descriptors,
    hbtrio,
    is_gone,
    logged,
    sockets_below,
    started_below,
    until,
)

pytestmark = pytest.mark.processes

#: Runs, with a child of its own, until it is let go or killed; both pay no heed to TERM.
LONG = """\
#!/bin/sh
cd {directory} || exit 1
[ -e go ] && exit 0
trap '' TERM
sleep 1000 &
echo "$$ $!" >pids.new
mv pids.new pids
until [ -e go ]; do sleep 0.05; done
kill -KILL $!
"""

#: What a host that was killed leaves an operator with.
UNKNOWN = (
    "hbtrio ctl: {url}: the daemon went away; the outcome of {what} on {uuid} is unknown; "
    "see `hbtrio ctl status` and `hbtrio ctl events`"
)


@attrs.define
class Work:
    """Something that is in progress on a VM: a script of long duration, and who waits for it."""

    vm: LabGuest
    words: tuple[str, ...]
    directory: Path
    #: The script and its child, once it runs.
    pids: tuple[int, ...] = ()
    #: How `hbtrio ctl` has ended that asked for it.
    ran: Ran | None = None

    def start(self, scene: Scene, nursery: trio.Nursery) -> None:
        nursery.start_soon(self._run, scene.url)

    async def _run(self, url: str) -> None:
        self.ran = await hbtrio("ctl", "--url", url, *self.words)

    async def under_way(self) -> None:
        await until((self.directory / "pids").exists)
        self.pids = tuple(map(int, (self.directory / "pids").read_text().split()))
        assert not any(map(is_gone, self.pids))

    def let_go(self) -> None:
        (self.directory / "go").touch()


async def prepare(scene: Scene) -> dict[str, Work]:
    """A host with three VMs that are heartbeating, and what is to be in progress on each."""
    scene.settings["corrective-commands"] = {}
    await scene.start_host()
    works = {}
    for name in ("vote", "notify", "act"):
        vm = await scene.add_guest(name)
        vm.configure(HB_INTERVAL=400, HEALTH_CHECK_INTERVAL=0, VOTE=3, SUSPEND_NOTICE=3)
        words: tuple[str, ...] = (name, vm.uuid, "suspend")
        if name == "act":
            words = (*words, "--", str(vm.directory / "command"))
            write_script(vm.directory / "command", LONG.format(directory=vm.directory))
        else:
            write_script(vm.event_script, LONG.format(directory=vm.directory))
        works[name] = Work(vm, words, vm.directory)
        await vm.start()
    for work in works.values():
        await scene.events.wait_for(event("heartbeating", work.vm), within_s=SOON_S)
    # So that the reapers run already, which daemons start with their first command.
    for work in works.values():
        if work.words[0] != "act":
            work.let_go()
        await scene.post(
            f"/v1/instances/{work.vm.uuid}/act", {"action": "unpause", "command": ["true"]}
        )
        (work.directory / "go").unlink(missing_ok=True)
        # What is looked at later begins behind it.
        heard = event("notice", work.vm, event="unpause")
        await scene.events.wait_for(heard, within_s=SOON_S)
    await unasked(scene)
    return works


async def start(scene: Scene, works: dict[str, Work], nursery: trio.Nursery) -> None:
    """Has everything in progress at the same time; what has a window, last."""
    works["act"].start(scene, nursery)
    await works["act"].under_way()
    works["vote"].start(scene, nursery)
    works["notify"].start(scene, nursery)
    await works["vote"].under_way()
    await works["notify"].under_way()


async def unasked(scene: Scene) -> None:
    """Returns once nobody is connected to the host's API any more."""
    bound = f"{scene.control_socket}~"  # under which name it was bound, then renamed
    await until(lambda: sockets_below(scene.directory).count(bound) == 1)


async def open_windows(scene: Scene) -> dict[str, Any]:
    """What is open on each VM, by its name, and what actions are in progress."""
    status = await scene.status()
    windows = {one["name"]: one["open"] and one["open"]["window"] for one in status["instances"]}
    return windows | {"actions": list(status["host"]["actions"].values())}


NONE_OPEN = {"vote": None, "notify": None, "act": None, "actions": []}


async def vote_again(scene: Scene, works: Iterable[Work]) -> None:
    """A new vote is neither refused nor waits: no window was left behind."""
    since = scene.events.end
    for work in works:
        work.let_go()
        opened, closed = await scene.post(
            f"/v1/instances/{work.vm.uuid}/vote", {"event": "live_migrate_begin"}
        )
        assert opened["seconds"] == 4
        assert (closed["result"], closed["reason"]) == ("accept", "")
        again = event("vote", work.vm, event="live_migrate_begin")
        await scene.events.wait_for(again, within_s=SOON_S, since=since)


def outcomes(scene: Scene, work: Work, since: int) -> list[tuple[str, str, str, str]]:
    """The host's events about votes and notices of a VM, from a position on."""
    return [
        (line["kind"], line["event"], line["result"], line["reason"])
        for line in scene.events.since(since)
        if line["uuid"] == work.vm.uuid and line["kind"] in ("vote", "notice")
    ]


async def test_kill_9_of_guests(home: Path) -> None:
    async with open_scene() as scene:
        works = await prepare(scene)
        assert scene.host is not None
        running = started_below(home)
        sockets = sockets_below(home)
        host_descriptors = descriptors(scene.host.pid)
        since = scene.events.end
        async with trio.open_nursery() as nursery:
            await start(scene, works, nursery)
            assert await open_windows(scene) == {
                "vote": "VOTE",
                "notify": "SUSPEND_NOTICE",
                "act": None,
                "actions": ["suspend"],
            }

            async with trio.open_nursery() as killers:
                for work in works.values():
                    killers.start_soon(work.vm.kill)
            # Whatever guests had started is gone with them, their reapers included ...
            for name in ("vote", "notify"):
                pids = works[name].pids
                await until(lambda pids=pids: all(map(is_gone, pids)), within_s=5.0)
            # ... and what the host had started goes on.
            assert not any(map(is_gone, works["act"].pids))
            works["act"].let_go()
        assert {name: work.ran for name, work in works.items()} == {
            "vote": Ran(
                0,
                [
                    "vote on suspend: VOTE window of 4 s",
                    "vote on suspend: accepted (no answer within 4 s)",
                ],
                [],
            ),
            "notify": Ran(
                0,
                [
                    "notice of suspend: SUSPEND_NOTICE window of 4 s",
                    "notice of suspend: complete (no answer within 4 s)",
                    STOPS.format(works["notify"].vm.uuid, "resume", 5),
                ],
                [],
            ),
            "act": Ran(
                0,
                [
                    "vote on suspend: VOTE window of 4 s",
                    "vote on suspend: accepted",
                    "notice of suspend: SUSPEND_NOTICE window of 4 s",
                    "notice of suspend: complete",
                    f"command: {works['act'].directory}/command, at most 600 s",
                    "command: done",
                    "VM frozen: waiting at most 21 s",
                    "VM frozen: yes",
                    "suspend: done",
                ],
                [],
            ),
        }
        assert await open_windows(scene) == NONE_OPEN
        # Three guests are gone, and the reaper of each.
        await until(lambda: len(started_below(home)) == len(running) - 6)
        restarted_at = scene.events.end
        for work in works.values():
            await work.vm.start()
        for work in works.values():
            await scene.events.wait_for(
                event("heartbeating", work.vm), within_s=SOON_S, since=restarted_at
            )
        await vote_again(scene, works.values())
        again = ("vote", "live_migrate_begin", "accept", "")
        assert {name: outcomes(scene, work, since) for name, work in works.items()} == {
            "vote": [("vote", "suspend", "accept", "no answer within 4 s"), again],
            "notify": [("notice", "suspend", "complete", "no answer within 4 s"), again],
            "act": [
                ("vote", "suspend", "accept", ""),
                ("notice", "suspend", "complete", ""),
                again,
            ],
        }
        await until(lambda: len(started_below(home)) == len(running))
        await unasked(scene)
        assert sockets_below(home) == sockets
        assert descriptors(scene.host.pid) == host_descriptors


async def test_kill_9_of_the_host(home: Path) -> None:
    async with open_scene() as scene:
        works = await prepare(scene)
        guests = [work.vm.daemon for work in works.values() if work.vm.daemon is not None]
        running = started_below(home)
        sockets = sockets_below(home)
        guest_descriptors = [descriptors(guest.pid) for guest in guests]
        async with trio.open_nursery() as nursery:
            await start(scene, works, nursery)
            assert scene.host is not None
            await scene.host.kill()
            for work in works.values():
                pids = work.pids
                await until(lambda pids=pids: all(map(is_gone, pids)), within_s=5.0)
        for name, what in (
            ("vote", "the vote on suspend"),
            ("notify", "the notice of suspend"),
            ("act", "suspend"),
        ):
            ran = works[name].ran
            assert ran is not None
            assert (ran.status, ran.err) == (
                5,
                [UNKNOWN.format(url=scene.url, what=what, uuid=works[name].vm.uuid)],
            )
        # The guests' windows are closed: their handlers have no say any more.
        await logged(works["vote"].vm.log, "revocable suspend: error (the channel is down)")
        await logged(works["notify"].vm.log, "irrevocable suspend: error (the channel is down)")
        # The host is gone, and its reaper.
        await until(lambda: len(started_below(home)) == len(running) - 2)
        since = scene.events.end
        await scene.start_host()
        for work in works.values():
            await scene.events.wait_for(
                event("heartbeating", work.vm), within_s=SOON_S, since=since
            )
        assert await open_windows(scene) == NONE_OPEN
        await vote_again(scene, works.values())
        again = ("vote", "live_migrate_begin", "accept", "")
        assert [outcomes(scene, work, since) for work in works.values()] == [[again]] * 3
        await unasked(scene)
        assert sockets_below(home) == sockets
        await until(lambda: [descriptors(guest.pid) for guest in guests] == guest_descriptors)
        await until(lambda: len(started_below(home)) == len(running) - 1)
