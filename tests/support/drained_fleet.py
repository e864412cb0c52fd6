"""An agent and its hosts as real processes, with many guests, for drains that are killed in.

The guests are the test's own, see :mod:`support.told_guests`, so that what they are told is known
in its order; the command of each migration notes for which VM it runs.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import trio

from hbtrio.client.address import Address
from hbtrio.client.client import CtlClient
from hbtrio.lab.daemon import Daemon, log_tail
from hbtrio.lab.guest import LabGuest, write_script
from hbtrio.lab.launcher import Launcher, until_it_serves, write_toml
from hbtrio.lab.scene import LONGEST, Scene, new_directory
from hbtrio.system.reaper_link import open_reaper_link
from support.real_processes import SOON_S, Ran, hbtrio, until
from support.told_guests import ToldGuests

#: The longest path of a socket, behind the directory.
_LONGEST: Final = f"/compute-0{LONGEST}"

#: It says for which VM it runs, and takes a moment.
_COMMAND: Final = """\
#!/bin/sh
echo $1 >>{directory}/started
sleep {seconds}
"""


class DrainedFleet:
    """An agent without a VIM, and its hosts.

    Args:
        directory: for all files.
        nursery: runs the tasks.
        launcher: starts the processes.
        hostnames: of the hosts.
        seconds: how long a migration takes.
    """

    def __init__(
        self,
        directory: Path,
        nursery: trio.Nursery,
        launcher: Launcher,
        hostnames: tuple[str, ...],
        seconds: float,
    ) -> None:
        self.directory = directory
        self.agent_log = directory / "agent.log"
        self.agent: Daemon | None = None
        #: What agent.toml has beside places; change it before :meth:`start_agent`.
        self.settings: dict[str, Any] = {}
        self.hosts: dict[str, Scene] = {}
        self.guests: dict[str, ToldGuests] = {}
        self._launcher = launcher
        for number, hostname in enumerate(hostnames):
            place = directory / hostname
            place.mkdir()
            (place / "state").mkdir(mode=0o700)
            scene = Scene(place, nursery, launcher, name=hostname)
            command = place / "migrate"
            write_script(command, _COMMAND.format(directory=directory, seconds=seconds))
            scene.settings |= {
                "hostname": hostname,
                "state_dir": str(place / "state"),
                "agent": {"connect": self._link, "host_uuid": str(uuid.uuid4())},
                "corrective-commands": {},
                "actions": {"live-migrate": [str(command), "{uuid}"]},
            }
            self.hosts[hostname] = scene
            self.guests[hostname] = ToldGuests(scene.channel_dir, nursery, 100 * number)

    @property
    def _link(self) -> str:
        return f"unix:{self.directory}/agent.link"

    @property
    def url(self) -> str:
        """The agent's, for ``hbtrio ctl --url``."""
        return f"unix:{self.directory}/agent.sock"

    @property
    def started(self) -> list[str]:
        """The uuids for which a command was run, in their order."""
        path = self.directory / "started"
        return path.read_text().split() if path.exists() else []

    async def start_agent(self) -> None:
        """Starts the agent, or starts it again; returns once it serves."""
        config, socket = self.directory / "agent.toml", self.directory / "agent.sock"
        places = {
            "vim": {"url": ""},
            "link": {"listen": self._link},
            "operator": {"listen": f"unix:{socket}"},
            "store": {"file": str(self.directory / "agent.db")},
        }
        write_toml(config, places | self.settings)
        arguments = ["agent", "--config", str(config)]
        self.agent = await self._launcher.launch("the agent", arguments, self.agent_log)
        await until_it_serves(self.agent, socket)

    async def kill_agent(self) -> None:
        """Kills the agent with SIGKILL."""
        assert self.agent is not None
        await self.agent.kill()
        self.agent = None

    async def kill_host(self, hostname: str) -> None:
        """Kills a host with SIGKILL."""
        host = self.hosts[hostname].host
        assert host is not None
        await host.kill()

    async def ctl(self, *words: str, at: str = "") -> Ran:
        """Runs ``hbtrio ctl`` at the agent, or at a host, to its end."""
        return await hbtrio("ctl", "--url", self.hosts[at].url if at else self.url, *words)

    async def to_the_end(self, within_s: float) -> Ran:
        """Watches the agent's drain to its end; what is printed is JSON."""
        return await hbtrio(
            "ctl", "--url", self.url, "drain", "--resume", "--json", within_s=within_s
        )

    async def start_ctl(self, *words: str) -> Daemon:
        """Starts ``hbtrio ctl`` at the agent; it goes on."""
        arguments = ["ctl", "--url", self.url, *words]
        return await Daemon.start("ctl", arguments, self.directory / "ctl.log")

    async def ask(self, path: str, at: str = "") -> dict[str, Any]:
        """Returns what ``GET path`` answers at the agent, or at a host."""
        async with CtlClient(Address.parse(self.hosts[at].url if at else self.url)) as client:
            answer: dict[str, Any] = await client.ask(path, "answer", json.loads)
        return answer

    async def heartbeating(self, count: int) -> None:
        """Waits until the agent knows of so many instances that are heartbeating."""
        with trio.fail_after(6 * SOON_S):
            while sum(one["heartbeating"] for one in await self._instances()) < count:  # noqa: ASYNC110
                await trio.sleep(0.2)

    async def _instances(self) -> list[dict[str, Any]]:
        instances: list[dict[str, Any]] = (await self.ask("/v1/status"))["instances"]
        return instances

    async def until_started(self, count: int) -> None:
        """Waits until commands have run for so many VMs."""
        await until(lambda: len(self.started) >= count, within_s=6 * SOON_S)

    async def actions(self, drain: str, at: str = "") -> dict[str, list[str]]:
        """What a history has of the actions of a drain: the outcomes by uuid, the oldest first."""
        history: list[dict[str, Any]] = []
        before: str | None = ""
        while before is not None:
            page = await self.ask(f"/v1/history?limit=1000{before}", at)
            history += page["history"]
            before = None if page.get("before") is None else f"&before={page['before']}"
        found: dict[str, list[str]] = {}
        for entry in reversed(history):
            if entry["kind"] == "action" and f"drain {drain} " in entry["who"]:
                what = entry["reason"].partition(": ")[2]
                if not what.startswith("asked"):
                    found.setdefault(entry["uuid"], []).append(what)
        return found

    async def add_guest(self, hostname: str, name: str) -> LabGuest:
        """Starts a real ``hbtrio guest`` in a VM of a host."""
        guest = await self.hosts[hostname].add_guest(name)
        guest.configure(HB_INTERVAL=1000, HEALTH_CHECK_INTERVAL=0, VOTE=8, SUSPEND_NOTICE=8)
        await guest.start()
        return guest

    def logs(self) -> str:
        """The ends of the daemons' logs."""
        logs = {"agent": self.agent_log}
        logs |= {name: scene.host_log for name, scene in self.hosts.items()}
        return "\n".join(log_tail(name, log) for name, log in logs.items() if log.exists())

    async def end(self) -> None:
        """Ends all processes."""
        for scene in self.hosts.values():
            await scene.end()
        if self.agent is not None:
            await self.agent.stop()


@asynccontextmanager
async def open_drained_fleet(*hostnames: str, seconds: float = 0.3) -> AsyncIterator[DrainedFleet]:
    """A fleet in which nothing runs yet; its processes end with the block.

    Args:
        hostnames: of the hosts.
        seconds: how long a migration takes.
    """
    with new_directory(_LONGEST) as directory:
        async with open_reaper_link() as reaper, trio.open_nursery() as nursery:
            launcher = Launcher(nursery, reaper)
            fleet = DrainedFleet(directory, nursery, launcher, hostnames, seconds)
            try:
                async with trio.open_nursery() as listeners:
                    for scene in fleet.hosts.values():
                        await listeners.start(scene.listen)
                    yield fleet
                    listeners.cancel_scope.cancel()
            except BaseException:
                print(fleet.logs())  # the files are removed
                raise
            finally:
                with trio.CancelScope(shield=True):
                    await fleet.end()
            nursery.cancel_scope.cancel()
