"""A host and its real machines: a lab's scene whose VMs are QEMU's."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import attrs
import trio

from hbtrio.lab.feed import NotSeen
from hbtrio.lab.scene import Scene, open_scene
from hbtrio.system.reaper_link import ReaperLink, open_reaper_link
from vm.initramfs import Image
from vm.machine import BOOT_S, Hardware, Machine, Transport

#: What takes a second or three, on a machine that is very busy.
SOON_S: Final = 30.0


class Bed:
    """One compute host; made by :func:`open_bed`.

    Args:
        scene: its daemon and directories.
        supply: what its machines are made of.
        reaper: ends QEMU with the test.
    """

    def __init__(self, scene: Scene, supply: Supply, reaper: ReaperLink) -> None:
        self.scene = scene
        self.machines: list[Machine] = []
        self._supply = supply
        self._reaper = reaper

    async def start(
        self, hardware: Hardware | None = None, *, instance: str | None = None
    ) -> Machine:
        """Switches a machine on."""
        directory = self.scene.directory / f"vm{len(self.machines)}"
        machine = await Machine.start(
            directory,
            self.scene.channel_dir,
            self._supply.image,
            self._reaper,
            hardware or Hardware(),
            instance,
        )
        self.machines.append(machine)
        return machine

    async def boot(self, hardware: Hardware | None = None) -> Machine:
        """Switches a machine on and returns once it is heartbeating."""
        machine = await self.start(hardware)
        await self.event("heartbeating", machine, within_s=BOOT_S)
        return machine

    async def resume(self) -> Machine:
        """A machine that has booted before this test; returns once it is heartbeating."""
        return await self.boot(Hardware(incoming=self._supply.booted))

    async def heartbeating(self, transport: Transport) -> Machine:
        """A machine that is heartbeating over such a channel."""
        if transport is Transport.VIRTIO:
            return await self.resume()
        return await self.boot(Hardware(transport=transport))

    # -- what the host says -------------------------------------------------------------------

    @property
    def now(self) -> int:
        """The position behind the host's last event so far."""
        return self.scene.events.end

    async def event(
        self,
        kind: str,
        machine: Machine,
        *,
        since: int = 0,
        within_s: float = SOON_S,
        **members: str,
    ) -> dict[str, Any]:
        """The host's first event of this kind about this machine, from a position on."""
        wanted = {"kind": kind, "uuid": machine.uuid, **members}
        return await self.scene.events.wait_for(
            lambda line: wanted.items() <= line.items(), within_s=within_s, since=since
        )

    def events(self, machine: Machine, since: int = 0) -> list[tuple[str, str]]:
        """Kind and reason of all the host's events about a machine, from a position on."""
        return [
            (line["kind"], line["reason"])
            for line in self.scene.events.since(since)
            if line["uuid"] == machine.uuid
        ]

    async def instance(self, machine: Machine) -> dict[str, Any] | None:
        """What the host's status says of it; None if it knows none."""
        for one in (await self.scene.status())["instances"]:
            if one["uuid"] == machine.uuid:
                assert isinstance(one, dict)
                return one
        return None

    async def until(
        self,
        machine: Machine,
        reached: Callable[[dict[str, Any]], object],
        within_s: float = SOON_S,
    ) -> dict[str, Any]:
        """What its status says once that is reached."""
        one = None
        with trio.move_on_after(within_s):
            while True:
                one = await self.instance(machine)
                if one is not None and reached(one):
                    return one
                await trio.sleep(0.05)
        raise NotSeen(f"not reached within {within_s:g} s: {one}")

    async def until_forgotten(self, machine: Machine) -> None:
        """Returns once its status knows the machine no more."""
        with trio.fail_after(SOON_S):
            while await self.instance(machine) is not None:  # noqa: ASYNC110 - is asked for
                await trio.sleep(0.05)

    async def beats(self, machine: Machine, more: int = 2) -> None:
        """Returns once it has answered so many challenges more."""
        one = await self.instance(machine)
        assert one is not None
        wanted = one["beats"] + more
        await self.until(machine, lambda now: now["beats"] >= wanted)

    async def vote(self, machine: Machine, event: str) -> tuple[str, str]:
        """Opens a vote and returns its result and reason."""
        return await self._round(machine, "vote", event)

    async def notify(self, machine: Machine, event: str) -> tuple[str, str]:
        """Gives a notice and returns its result and reason."""
        return await self._round(machine, "notify", event)

    async def _round(self, machine: Machine, kind: str, event: str) -> tuple[str, str]:
        path = f"/v1/instances/{machine.uuid}/{kind}"
        last = (await self.scene.post(path, {"event": event}))[-1]
        return last["result"], last["reason"]

    async def ctl(self, *arguments: str) -> tuple[int, list[str]]:
        """Runs ``hbtrio ctl`` to its end; its exit status and the lines of its output."""
        with trio.fail_after(2 * BOOT_S):
            ended = await trio.run_process(
                [sys.executable, "-m", "hbtrio", "ctl", "--url", self.scene.url, *arguments],
                stdin=b"",
                capture_stdout=True,
                check=False,
            )
        return ended.returncode, ended.stdout.decode().splitlines()

    def logs(self) -> str:
        """All that was said, for a test that failed."""
        parts = [self.scene.logs(), *(machine.logs() for machine in self.machines)]
        return "\n".join(parts)


@attrs.frozen
class Supply:
    """What machines are made of."""

    image: Image
    #: For ``-incoming``: a machine that has booted; its guest runs, with no host there.
    booted: str = ""


async def make_supply(image: Image, state: Path) -> Supply:
    """Boots a machine and saves it in a file, so that not each test has to wait for that."""
    supply = Supply(image)
    async with open_bed(supply, host=False) as bed:
        machine = await bed.start()
        await machine.booted()
        await machine.said("to disabled, event=channel-down.")
        await machine.save(state)
    return attrs.evolve(supply, booted=f"exec:cat {state}")


@asynccontextmanager
async def open_bed(supply: Supply, *, host: bool = True) -> AsyncIterator[Bed]:
    """A compute host with its daemon and no machine yet; its end ends all it has started.

    Args:
        supply: what its machines are made of.
        host: whether its daemon is started.

    A test that fails prints the logs: their files go with the bed.
    """
    async with open_scene() as scene:
        # What a lost VM calls for is another test's matter: here it would reset the machine.
        scene.settings["corrective-commands"] = {}
        scene.settings["actions"] = {}
        async with open_reaper_link() as reaper:
            bed = Bed(scene, supply, reaper)
            try:
                if host:
                    await scene.start_host()
                yield bed
            except BaseException:
                print(bed.logs())
                raise
            finally:
                for machine in bed.machines:
                    await machine.kill()
                    reaper.discard(machine.pid)
