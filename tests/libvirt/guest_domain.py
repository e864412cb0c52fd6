"""A real guest in a domain of the private libvirtd, and a host daemon that watches it."""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import attrs
import trio

from hbtrio.lab.scene import Scene, open_scene
from libvirt.equipment import ELEMENTS, make_devices
from libvirt.private_libvirt import PrivateLibvirt, TinyDomain
from vm.initramfs import Image
from vm.machine import BOOT_S

#: What takes a second or two, on a machine that is very busy.
SOON_S: Final = 45.0

#: How long an answer from inside is waited for: what the command does may prevent it.
_ANSWER_S: Final = 5.0

_APPEND: Final = 'ports=2 console=ttyS0 panic=-1 quiet mitigations=off guest=""'


@attrs.frozen
class GuestDomain(TinyDomain):
    """A domain that boots the project's initramfs.

    Args:
        image: what it boots.
        directory: of its own, for its sockets and its console.
    """

    image: Image = attrs.field(kw_only=True)
    directory: Path = attrs.field(kw_only=True)

    @property
    def xml(self) -> str:
        source = f"<source mode='bind' path='{self.socket}'/>" if self.socket else ""
        return f"""
<domain type='qemu'>
  <name>{self.name}</name>
  <uuid>{self.uuid}</uuid>
  <memory unit='MiB'>256</memory>
  <vcpu>1</vcpu>
  <os>
    <type arch='x86_64' machine='q35'>hvm</type>
    <kernel>{self.image.kernel}</kernel>
    <initrd>{self.image.initramfs}</initrd>
    <cmdline>{_APPEND.replace('"', "&quot;")}</cmdline>
  </os>
  <features><acpi/></features>
  <cpu mode='maximum'/>
  {self.elements}
  <devices>
    <emulator>{shutil.which("qemu-system-x86_64")}</emulator>
    <controller type='usb' model='none'/>
    <serial type='file'><source path='{self.directory}/console.log' append='on'/>
      <target port='0'/></serial>
    <channel type='unix'>{source}<target type='virtio' name='cgcs.heartbeat'/></channel>
    <channel type='unix'><source mode='bind' path='{self.directory}/shell.sock'/>
      <target type='virtio' name='hbtrio.test'/></channel>
    <memballoon model='virtio'/>
    {self.devices}
  </devices>
</domain>
"""


class Bed:
    """A host daemon, and the domain that it watches; made by :func:`open_bed`."""

    def __init__(self, libvirt: PrivateLibvirt, scene: Scene, domain: GuestDomain) -> None:
        self.libvirt = libvirt
        self.scene = scene
        self.domain = domain
        self._events_since = 0
        self._lines_since = 0
        self._asked = 0

    # -- what is done to it -----------------------------------------------------------------

    async def virsh(self, *words: str) -> str:
        """Runs a command of libvirt's on the domain; its uuid stands behind the first word."""
        command, *others = words
        return await self.libvirt_does(command, self.domain.uuid, *others)

    async def libvirt_does(self, *words: str) -> str:
        """Runs a command of libvirt's."""
        return await trio.to_thread.run_sync(self.libvirt.virsh, *words)

    async def inside(self, command: str) -> None:
        """Has a line of shell run inside; returns at its end, or when it can't answer any more."""
        self._asked += 1
        stream = await trio.open_unix_socket(f"{self.domain.directory}/shell.sock")
        async with stream:
            # An empty line ends what another may have left.
            await stream.send_all(f"\n{self._asked} {command}\n".encode())
            answers = b""
            with trio.move_on_after(_ANSWER_S):
                # That of another may be first. What the guest can't write is in the way of its
                # next read.
                while f"\n{self._asked} ".encode() not in b"\n" + answers:
                    data = await stream.receive_some(1000)
                    if not data:
                        break
                    answers += data

    def signal_qemu(self, number: int) -> None:
        """Sends a signal to its QEMU."""
        os.kill(self.libvirt.qemu_pid(self.domain), number)

    async def boot(self) -> None:
        """Starts it, and returns once it is heartbeating."""
        await self.virsh("start")
        await self.until_beating(BOOT_S)

    async def ready(self) -> None:
        """Returns once it is heartbeating, however it was left; what follows is a new scenario."""
        one = await self.line()
        if one is None or one["state"] != "heartbeating":
            if (await self.virsh("domstate")).strip() != "shut off":
                await self.virsh("destroy")
            await self.boot()
        await self.until_beating()
        self.begin()

    # -- what the host reported and did -----------------------------------------------------

    def begin(self) -> None:
        """Forgets what was reported and done so far."""
        self._events_since = self.scene.events.end
        self._lines_since = self.scene.script_lines.end

    @property
    def reports(self) -> list[tuple[str, str]]:
        """Kind and reason of the host's events."""
        events = self.scene.events.since(self._events_since)
        return [(line["kind"], line["reason"]) for line in events]

    @property
    def kinds(self) -> list[str]:
        """The kinds of the host's events."""
        return [kind for kind, _ in self.reports]

    @property
    def commands(self) -> list[list[str]]:
        """What the host had run."""
        lines = self.scene.script_lines.since(self._lines_since)
        return [words for words in lines if words[0] == "virsh"]

    def story(self) -> list[str]:
        """What was reported and done, for people."""
        reports = [f"    {kind}: {reason}" for kind, reason in self.reports]
        return reports + [f"    done: {' '.join(words[:2])}" for words in self.commands]

    def logs(self) -> str:
        """The ends of the host's log and of the console."""
        console = (self.domain.directory / "console.log").read_text("utf-8", "replace")
        return f"{self.scene.logs()}\n{console[-3000:]}"

    async def event(self, kind: str, *, within_s: float = SOON_S) -> dict[str, Any]:
        """The host's first event of this kind about it."""
        wanted = {"kind": kind, "uuid": self.domain.uuid}
        return await self.scene.events.wait_for(
            lambda line: wanted.items() <= line.items(), within_s=within_s, since=self._events_since
        )

    async def reported(self, kind: str, reason: str) -> None:
        """Returns once the host has reported this about it."""
        wanted = {"kind": kind, "uuid": self.domain.uuid, "reason": reason}
        await self.scene.events.wait_for(
            lambda line: wanted.items() <= line.items(), within_s=SOON_S, since=self._events_since
        )

    async def until_commanded(self) -> None:
        """Returns once the host has had a command run."""
        with trio.fail_after(SOON_S):
            while not self.commands:  # noqa: ASYNC110 - another process runs it
                await trio.sleep(0.1)

    async def line(self) -> dict[str, Any] | None:
        """What the host's status says of it; None if it knows none."""
        for one in (await self.scene.status())["instances"]:
            if one["uuid"] == self.domain.uuid:
                assert isinstance(one, dict)
                return one
        return None

    async def until(
        self, reached: Callable[[dict[str, Any]], object], within_s: float = SOON_S
    ) -> None:
        """Returns once its status says so."""
        with trio.fail_after(within_s):
            while (one := await self.line()) is None or not reached(one):  # noqa: ASYNC110 - is asked for
                await trio.sleep(0.1)

    async def until_in(self, state: str) -> None:
        """Returns once its status says that it is in this state."""
        await self.until(lambda one: one["state"] == state)

    async def until_beating(self, within_s: float = SOON_S) -> None:
        """Returns once it is heartbeating, and has answered since."""
        await self.until(lambda one: one["state"] == "heartbeating", within_s)
        one = await self.line()
        assert one is not None
        await self.until(lambda now: now["beats"] > one["beats"], within_s)

    async def until_forgotten(self) -> None:
        """Returns once its status knows it no more."""
        with trio.fail_after(SOON_S):
            while await self.line() is not None:  # noqa: ASYNC110 - as above
                await trio.sleep(0.1)


def reset_command(scene: Scene, libvirt: PrivateLibvirt) -> list[str]:
    """Says what it does, and does it, as the sample configuration has it."""
    virsh = f'virsh -c "{libvirt.uri}"'
    resume = f'case "$2" in crashed*|paused*) {virsh} resume "$1";; esac'
    script = f'{scene.directory}/virsh reset "$1"; {virsh} reset "$1" && {resume}'
    return ["sh", "-c", script, "reset", "{uuid}", "{state}"]


def configure(
    scene: Scene, libvirt: PrivateLibvirt, restart_s: int = 3600, timeout_s: float = 60.0
) -> None:
    """Has the host of a scene ask this libvirt, and reset VMs through it."""
    scene.settings["libvirt"] = {"enabled": "on", "uri": libvirt.read_only_uri}
    scene.settings["limits"] = {"restart_max_s": restart_s}
    command = reset_command(scene, libvirt)
    limits = {"per_hour": 100, "timeout_s": timeout_s}
    scene.settings["corrective-commands"] = {"reboot": command, **limits}


@asynccontextmanager
async def open_bed(
    libvirt: PrivateLibvirt,
    image: Image,
    *,
    equipped: bool = False,
    restart_s: int = 3600,
    timeout_s: float = 60.0,
    path: str | None = None,
) -> AsyncIterator[Bed]:
    """A guest that is heartbeating in a domain, outside the host's directory of channels.

    Args:
        libvirt: has the domain.
        image: what it boots.
        equipped: whether it has disks, a watchdog and a device for panics.
        restart_s: the most that RESTART may last.
        timeout_s: how long a command of the host may take.
        path: that of the channel's socket; empty: libvirt makes one.
    """
    async with open_scene() as scene:
        configure(scene, libvirt, restart_s, timeout_s)
        directory = scene.directory / "vm"
        directory.mkdir()
        devices = ""
        if equipped:
            devices = await trio.to_thread.run_sync(make_devices, libvirt, directory)
        domain = GuestDomain(
            "web-1",
            devices=devices,
            elements=ELEMENTS if equipped else "",
            socket=f"{directory}/beat.sock" if path is None else path,
            image=image,
            directory=directory,
        )
        with libvirt.seen_by_python():
            await scene.start_host()
        await trio.to_thread.run_sync(libvirt.define, domain)
        bed = Bed(libvirt, scene, domain)
        try:
            await bed.boot()
            yield bed
        except BaseException:
            print(bed.logs())
            raise
        finally:
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(libvirt.destroy_all)
