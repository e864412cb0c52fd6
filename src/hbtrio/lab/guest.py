"""Simulates a VM of a scene: its channel, guest daemon, scripted handlers and applications."""

from __future__ import annotations

import shlex
import uuid
from pathlib import Path
from typing import Final

import trio

from hbtrio.lab.application import LabApplication
from hbtrio.lab.bridge import Bridge, Tap
from hbtrio.lab.daemon import Daemon, RunsDaemon
from hbtrio.lab.handler_script import replace, write_response
from hbtrio.lab.launcher import Launcher
from hbtrio.lab.libvirt import LabLibvirt

#: Short times for a quick scene; tests override them.
CONF: Final[dict[str, str | int]] = {
    "HB_INTERVAL": 500,
    "HB_INIT_RETRY": 1000,
    "VOTE": 2,
    "SHUTDOWN_NOTICE": 2,
    "SUSPEND_NOTICE": 2,
    "RESUME_NOTICE": 2,
    "RESTART": 20,
    "CORRECTIVE_ACTION": "reboot",
    "HEALTH_CHECK_INTERVAL": 1,
}

#: Reports to the scene that it runs, then follows its script file.
_EVENT_SCRIPT: Final = """\
#!/bin/sh
cd {directory} || exit 1
echo "handler {name} $1 $2 $$" 1<>{fifo}
[ -f "response.$1.$2" ] || exit 0
read -r seconds status reason <"response.$1.$2"
sleep "$seconds"
echo "$reason"
exit "$status"
"""

_HEALTH_SCRIPT: Final = """\
#!/bin/sh
cd {directory} || exit 1
[ -f feeling ] || exit 0
read -r status reason <feeling
echo "$reason"
exit "$status"
"""


class LabGuest(RunsDaemon):
    """A VM, created by :meth:`hbtrio.lab.scene.Scene.add_guest`.

    When its event script starts, it writes ``handler NAME revocable|irrevocable EVENT PID`` to the
    scene's :attr:`~hbtrio.lab.scene.Scene.script_lines`. A test may replace the files
    :attr:`event_script` and :attr:`health_script`.

    Args:
        name: the guest's name.
        directory: its own directory, which exists.
        channel_dir: the directory in which the host looks for channels.
        libvirt: the host's; it says what happens to the VM.
        fifo: the FIFO to which its scripts report.
        nursery: runs its bridge.
        launcher: starts its daemon and its applications.
        tap: reads along on its channel.
    """

    def __init__(
        self,
        name: str,
        directory: Path,
        channel_dir: Path,
        libvirt: LabLibvirt,
        fifo: Path,
        nursery: trio.Nursery,
        launcher: Launcher,
        tap: Tap | None = None,
    ) -> None:
        self.name = name
        self._tap = tap
        self.uuid = str(uuid.uuid4())
        self.directory = directory
        self.event_script = directory / "event_script"
        self.health_script = directory / "health_script"
        self.config = directory / "guest_heartbeat.conf"
        #: Where its daemon serves applications.
        self.app_socket = directory / "api"
        self.log = directory / "guest.log"
        self.bridge = self._bridge_to(channel_dir)
        #: What boots with it, by name.
        self.applications: dict[str, LabApplication] = {}
        self._libvirt = libvirt
        self._fifo = fifo
        self._nursery = nursery
        self._launcher = launcher
        self._plugged: trio.CancelScope | None = None
        self._unplugged = trio.Event()
        words = {
            "directory": shlex.quote(str(directory)),
            "name": name,
            "fifo": shlex.quote(str(fifo)),
        }
        write_script(self.event_script, _EVENT_SCRIPT.format(**words))
        write_script(self.health_script, _HEALTH_SCRIPT.format(**words))
        self.configure()

    def configure(self, **keys: str | int) -> None:
        """Writes guest_heartbeat.conf: :data:`CONF`, both scripts, and what ``keys`` say."""
        conf = CONF | {
            "HEALTH_CHECK_SCRIPT": str(self.health_script),
            "EVENT_NOTIFICATION_SCRIPT": str(self.event_script),
        }
        lines = [f"{key}={value}\n" for key, value in (conf | keys).items()]
        replace(self.config, "".join(lines))

    def add_application(self, name: str) -> LabApplication:
        """Adds an application, which starts together with the guest daemon."""
        directory = self.directory / name
        directory.mkdir()
        application = LabApplication(
            name, self.name, directory, self.app_socket, self._fifo, self._launcher
        )
        self.applications[name] = application
        return application

    def will(
        self, notification: str, event: str, *, after_s: float = 0, status: int = 0, says: str = ""
    ) -> None:
        """Sets how its event script responds to a vote or notice of ``event``.

        Args:
            notification: ``revocable`` (a vote) or ``irrevocable`` (a notice).
            event: the event's name.
            after_s: how long the script takes.
            status: its exit status: 0 accepts.
            says: its output, one line.
        """
        write_response(
            self.directory, notification, event, after_s=after_s, status=status, says=says
        )

    def feels(self, status: int, says: str = "") -> None:
        """Sets the result of its health script: status 0 is healthy."""
        replace(self.directory / "feeling", f"{status} {says}\n")

    async def plug(self) -> None:
        """Creates its channel, as QEMU does at its start."""
        await self._plug(migrated=False)

    async def unplug(self) -> None:
        """Removes its channel, as QEMU does at its end."""
        await self._unplug(migrated=False)

    async def _plug(self, *, migrated: bool) -> None:
        if self._plugged is None:
            self._plugged = trio.CancelScope()
            self._unplugged = trio.Event()
            await self._nursery.start(self._serve, self._plugged)
            channel = self.bridge.channel_path
            self._libvirt.starts(self.uuid, self.name, channel, migrated=migrated)

    async def _unplug(self, *, migrated: bool) -> None:
        if self._plugged is not None:
            self._libvirt.ends(self.uuid, migrated=migrated)
            self._plugged.cancel()
            await self._unplugged.wait()

    async def migrate(self, channel_dir: Path, libvirt: LabLibvirt) -> None:
        """Moves its channel to another host, as a live migration does.

        Its guest daemon runs on and sees its device end and come back.
        """
        await self._unplug(migrated=True)
        self.move(channel_dir, libvirt)
        await self._plug(migrated=True)

    def move(self, channel_dir: Path, libvirt: LabLibvirt) -> None:
        """Makes another host its own while it is off: its next QEMU starts there."""
        self.bridge, self._libvirt = self._bridge_to(channel_dir), libvirt

    def pause(self) -> None:
        """Stops everything in it and tells nobody but libvirt, as ``virsh suspend`` does."""
        self._libvirt.pauses(self.uuid)
        for daemon in self._daemons():
            daemon.freeze()

    def resume(self) -> None:
        """Lets it go on, as ``virsh resume`` does."""
        for daemon in self._daemons():
            daemon.thaw()
        self._libvirt.resumes(self.uuid)

    def _daemons(self) -> list[Daemon]:
        owners = (self, *self.applications.values())
        return [owner.daemon for owner in owners if owner.daemon is not None]

    def _bridge_to(self, channel_dir: Path) -> Bridge:
        channel = channel_dir / f"cgcs.heartbeat.{self.uuid}.sock"
        return Bridge(str(channel), str(self.directory / "device"), self._tap)

    async def _serve(
        self, plugged: trio.CancelScope, *, task_status: trio.TaskStatus[None]
    ) -> None:
        with plugged:
            await self.bridge.run(task_status=task_status)
        self._plugged = None
        self._unplugged.set()

    async def start(self) -> None:
        """Starts its guest daemon and its applications, as at the VM's boot.

        Heartbeating takes a second or two. An application that still runs is left as it is.
        """
        await self.plug()
        arguments = ["guest", "--config", str(self.config), "--device", self.bridge.device_path]
        # Its own: the usual place would be this machine's.
        arguments += ["--app-socket", str(self.app_socket)]
        self.daemon = await self._launcher.launch(
            f"guest {self.name}", [*arguments, "--name", self.name], self.log
        )
        for application in self.applications.values():
            if application.daemon is None:
                await application.start()

    async def stop(self) -> None:
        """Stops the applications, then the daemon, with SIGTERM, as at a VM's shutdown."""
        daemon, self.daemon = self.daemon, None
        try:
            async with trio.open_nursery() as nursery:
                for application in self.applications.values():
                    nursery.start_soon(application.stop)
        finally:
            if daemon is not None:
                await daemon.stop()

    async def destroy(self) -> None:
        """Kills the guest and removes its channel, as ``virsh destroy`` does."""
        await self._lose_power()
        await self.unplug()

    async def reset(self) -> None:
        """Kills the guest and boots it again, as ``virsh reset`` does."""
        await self._lose_power()
        if self._plugged is not None:
            self._libvirt.resets(self.uuid)
        await self.start()

    async def _lose_power(self) -> None:
        await self.kill()
        for application in self.applications.values():
            await application.kill()


def write_script(path: Path, text: str) -> None:
    """Writes an executable script."""
    replace(path, text, 0o755)
