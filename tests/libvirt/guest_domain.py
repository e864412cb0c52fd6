"""A real guest in a domain of the private libvirtd, and a host daemon that watches it."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import attrs
import trio

from hbtrio.lab.scene import Scene, open_scene
from libvirt.private_libvirt import PrivateLibvirt, TinyDomain
from vm.initramfs import Image
from vm.machine import BOOT_S

#: What takes a second or two, on a machine that is very busy.
SOON_S: Final = 45.0

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
  <cpu mode='maximum'/>
  {self.elements}
  <devices>
    <emulator>{shutil.which("qemu-system-x86_64")}</emulator>
    <controller type='usb' model='none'/>
    <serial type='file'><source path='{self.directory}/console.log' append='on'/>
      <target port='0'/></serial>
    <channel type='unix'><source mode='bind' path='{self.socket}'/>
      <target type='virtio' name='cgcs.heartbeat'/></channel>
    <channel type='unix'><source mode='bind' path='{self.directory}/shell.sock'/>
      <target type='virtio' name='hbtrio.test'/></channel>
    <memballoon model='none'/>
  </devices>
</domain>
"""


class Bed:
    """A host daemon, and the domain that it watches; made by :func:`open_bed`."""

    def __init__(self, libvirt: PrivateLibvirt, scene: Scene, domain: GuestDomain) -> None:
        self.libvirt = libvirt
        self.scene = scene
        self.domain = domain

    async def virsh(self, *words: str) -> None:
        """Runs a command of libvirt's on the domain; its name stands behind the first word."""
        command, *others = words
        await trio.to_thread.run_sync(self.libvirt.virsh, command, self.domain.uuid, *others)

    async def inside(self, command: str) -> None:
        """Has a line of shell run inside; does not wait for its end."""
        stream = await trio.open_unix_socket(f"{self.domain.directory}/shell.sock")
        # An empty line ends what another may have left. It answers, or it goes down.
        await stream.send_all(f"\n1 {command}\n".encode())
        with trio.move_on_after(5):
            await stream.receive_some(100)
        await stream.aclose()

    @property
    def now(self) -> int:
        """The position behind the host's last event so far."""
        return self.scene.events.end

    async def event(self, kind: str, since: int, *, within_s: float = SOON_S) -> dict[str, Any]:
        """The host's first event of this kind from a position on."""
        wanted = {"kind": kind, "uuid": self.domain.uuid}
        return await self.scene.events.wait_for(
            lambda line: wanted.items() <= line.items(), within_s=within_s, since=since
        )

    def kinds(self, since: int) -> list[str]:
        """The kinds of the host's events from a position on."""
        return [line["kind"] for line in self.scene.events.since(since)]

    @property
    def commands(self) -> list[list[str]]:
        """What the host had run."""
        return [words for words in self.scene.script_lines.since(0) if words[0] == "virsh"]

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


@asynccontextmanager
async def open_bed(libvirt: PrivateLibvirt, image: Image) -> AsyncIterator[Bed]:
    """A guest that is heartbeating in a domain, outside the host's directory of channels."""
    async with open_scene() as scene:
        scene.settings["libvirt"] = {"enabled": "on", "uri": libvirt.read_only_uri}
        # It says what it does, and does it.
        script = f'{scene.directory}/virsh reset "$1"; exec virsh -c "{libvirt.uri}" reset "$1"'
        reset = ["sh", "-c", script, "reset", "{uuid}"]
        scene.settings["corrective-commands"] = {"reboot": reset}
        directory = scene.directory / "vm"
        directory.mkdir()
        socket = f"{directory}/beat.sock"
        domain = GuestDomain("web-1", socket=socket, image=image, directory=directory)
        await scene.start_host()
        await trio.to_thread.run_sync(libvirt.define, domain)
        bed = Bed(libvirt, scene, domain)
        try:
            await bed.virsh("start")
            await bed.until_beating(BOOT_S)
            yield bed
        except BaseException:
            print(scene.logs())
            print((directory / "console.log").read_text("utf-8", "replace")[-3000:])
            raise
        finally:
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(libvirt.destroy_all)
