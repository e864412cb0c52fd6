"""Runs a small cloud of real hbtrio processes for the tour: an agent, hosts and their VMs.

    DIR/agent.toml token agent.link agent.db agent.log         the agent's files
    DIR/HOST/                                                  a host's files, see hbtrio.lab.scene

This process simulates the VIM, QEMU and libvirt.
"""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final

import trio

from hbtrio.lab.agent import LabAgent
from hbtrio.lab.daemon import log_tail
from hbtrio.lab.fake_vim import FakeVim
from hbtrio.lab.feed import Feed
from hbtrio.lab.guest import LabGuest
from hbtrio.lab.launcher import Launcher
from hbtrio.lab.scene import LONGEST, Scene, alone, new_directory
from hbtrio.lab.vim import LabVim
from hbtrio.lab.vim_request import ask_agent
from hbtrio.system.reaper_link import open_reaper_link
from hbtrio.wire.operator import FleetStatus

HOSTNAMES: Final = ("compute-0", "compute-1")

#: Requests to the VIM that are kept; their bodies are in :attr:`LabVim.received`.
_KEPT: Final = 100

#: The longest path of a socket, behind the directory.
_LONGEST: Final = f"/{HOSTNAMES[0]}{LONGEST}"


class Cloud:
    """See :func:`open_cloud`.

    Args:
        directory: the directory of all files.
        nursery: runs the tasks of the processes.
        launcher: starts the processes.
        agent: the agent, not started.
    """

    def __init__(
        self, directory: Path, nursery: trio.Nursery, launcher: Launcher, agent: LabAgent
    ) -> None:
        self.directory = directory
        self.agent = agent
        self._vim_server = FakeVim(kept=_KEPT)
        self.vim = LabVim(
            self._vim_server,
            partial(ask_agent, agent.vim_port),
            lambda text: self.said.put(("VIM", text)),
            self._repair,
        )
        #: The events of all hosts, a dict for each line.
        self.events: Feed[dict[str, Any]] = Feed()
        #: The lines that scripts on all hosts and in all VMs reported, split into words.
        self.script_lines: Feed[list[str]] = Feed()
        #: What the agent and the VIM do and receive: who, and a text.
        self.said: Feed[tuple[str, str]] = Feed()
        self.hosts: dict[str, Scene] = {}
        #: All VMs, wherever they are.
        self.guests: dict[str, LabGuest] = {}
        for hostname in HOSTNAMES:
            place = directory / hostname
            place.mkdir()
            host = Scene(
                place,
                nursery,
                launcher,
                name=hostname,
                events=self.events,
                script_lines=self.script_lines,
            )
            host_uuid = str(uuid.uuid4())
            host.settings["hostname"] = hostname
            host.has_libvirt = True
            host.settings["agent"] = {"connect": agent.link, "host_uuid": host_uuid}
            # In a cloud the VIM reboots and stops instances.
            host.settings["corrective-commands"] = {
                "log": host.settings["corrective-commands"]["log"]
            }
            self.hosts[hostname] = host
            self.vim.add_host(host_uuid, hostname)

    async def start(self) -> None:
        """Starts the agent and the hosts, and waits until all serve.

        Raises:
            UserError: a daemon did not serve in time.
        """
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.start_agent)
            for host in self.hosts.values():
                nursery.start_soon(host.start_host)

    async def start_agent(self) -> None:
        """Starts or restarts the agent.

        Raises:
            UserError: the agent did not serve in time.
        """
        await self.agent.start(self._vim_server.url)
        self.said.put(("agent", "is running"))

    async def kill_agent(self) -> None:
        """Kills the agent with SIGKILL."""
        await self.agent.kill()
        self.said.put(("agent", "was killed (kill -9)"))

    async def add_guest(self, name: str, hostname: str) -> LabGuest:
        """Adds a VM to a host and to the VIM; doesn't start its guest daemon."""
        guest = await self.hosts[hostname].add_guest(name)
        self.guests[guest.uuid] = guest
        await self.vim.add_instance(guest.uuid, name, hostname)
        return guest

    async def migrate(self, guest: LabGuest, hostname: str) -> None:
        """Moves a VM to another host, as QEMU's live migration does, without notifying the VIM."""
        target = self.hosts[hostname]
        del self.host_of(guest.uuid).guests[guest.uuid]
        await guest.migrate(target.channel_dir, target.libvirt)
        target.guests[guest.uuid] = guest

    def pause(self, guest: LabGuest) -> None:
        """Pauses a VM as an administrator does on its host: hbtrio and the VIM are not told."""
        guest.pause()
        self.said.put((guest.name, "is paused (virsh suspend)"))

    def resume(self, guest: LabGuest) -> None:
        """Resumes a paused VM."""
        guest.resume()
        self.said.put((guest.name, "is resumed (virsh resume)"))

    def host_of(self, uuid: str) -> Scene:
        """Returns the host of a VM."""
        return next(host for host in self.hosts.values() if uuid in host.guests)

    def name_of(self, uuid: str) -> str:
        """Returns the name of a VM, or the uuid of an unknown one."""
        guest = self.guests.get(uuid)
        return uuid if guest is None else guest.name

    async def status(self) -> FleetStatus:
        """Asks the agent for the status of its fleet.

        Raises:
            UserError: the agent does not answer.
        """
        async with self.agent.client() as client:
            return await client.status(FleetStatus)

    async def _repair(self, uuid: str, action: str) -> None:
        guest = self.guests[uuid]
        if action == "reboot":
            await guest.reset()
        else:
            await guest.destroy()

    def logs(self) -> str:
        """Returns the ends of all daemons' logs, whose files are removed with the cloud."""
        tails = [log_tail("the agent", self.agent.log)] if self.agent.log.exists() else []
        return "\n".join([*tails, *(host.logs() for host in self.hosts.values())])

    async def end(self) -> None:
        """Stops guests, hosts, then the agent, so that each end is reported."""
        async with trio.open_nursery() as nursery:
            for host in self.hosts.values():
                nursery.start_soon(host.end)
        await self.agent.stop()


@asynccontextmanager
async def open_cloud() -> AsyncIterator[Cloud]:
    """Opens a cloud in which only the VIM runs; leaving it ends all processes and removes files.

    Errors and cancellation are those of :func:`hbtrio.lab.scene.open_scene`.
    """
    with new_directory(_LONGEST) as directory:
        try:
            async with open_reaper_link() as reaper, trio.open_nursery() as nursery:
                launcher = Launcher(nursery, reaper)
                with LabAgent(directory, launcher) as agent:
                    cloud = Cloud(directory, nursery, launcher, agent)
                    try:
                        # An own nursery, so that a VM being reset isn't started again during the
                        # shutdown.
                        async with trio.open_nursery() as players:
                            await players.start(cloud.vim.run)
                            for host in cloud.hosts.values():
                                await players.start(host.listen)
                            yield cloud
                            players.cancel_scope.cancel()
                    finally:
                        with trio.CancelScope(shield=True):
                            await cloud.end()
                nursery.cancel_scope.cancel()
        except BaseExceptionGroup as group:
            raise alone(group) from None
