"""Runs a host and its VMs as real hbtrio processes in a temporary directory, for lab and tests.

    DIR/host.toml host.sock host.log    the host's files; its events come from standard output
    DIR/ch/                             the VMs' channel sockets, which the host watches
    DIR/NAME/                           a VM: its device, configuration, scripts, log, applications
    DIR/virsh DIR/note                  the commands that the host runs
    DIR/script_lines                    a FIFO: lines from the commands and the VMs' handlers
    DIR/libvirt/                        what the host's libvirt says, see hbtrio.lab.libvirt

The scene simulates libvirt, too: ``virsh reset UUID`` and ``virsh destroy UUID`` do to the VM's
guest daemon what they would do to the VM. Where :attr:`Scene.has_libvirt` is set, the host asks it
for the VMs' states.

::

    async with open_scene() as scene:
        await scene.start_host()
        db = await scene.add_guest("db")
        await db.start()
        await scene.events.wait_for(event("heartbeating", db), within_s=10)
        db.will("revocable", "stop", status=1, says="busy")
        lines = await scene.post(f"/v1/instances/{db.uuid}/vote", {"event": "stop"})
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Final

import trio

from hbtrio.client.address import Address
from hbtrio.client.client import CtlClient
from hbtrio.errors import ExitStatus, UserError, os_reason
from hbtrio.lab.bridge import Tap
from hbtrio.lab.daemon import Daemon, log_tail
from hbtrio.lab.feed import Feed
from hbtrio.lab.guest import LabGuest, write_script
from hbtrio.lab.launcher import Launcher, until_it_serves, write_toml
from hbtrio.lab.libvirt import LabLibvirt
from hbtrio.system.reaper_link import open_reaper_link
from hbtrio.wire.lines import LineReader

#: sun_path of unix(7) has 108 bytes with its NUL.
_SOCKET_PATH_BYTES: Final = 107

#: The longest path of a socket in a scene, behind its directory.
LONGEST: Final = "/ch/cgcs.heartbeat.00000000-0000-0000-0000-000000000000.sock"

#: The longest line of an event: a reason of a few hundred bytes and some names, JSON-escaped.
_EVENT_BYTES: Final = 65_536

#: Seconds that a vote, notice or action may be silent: longer than any window of a scene.
_SILENT_S: Final = 60.0

_SCRIPT: Final = '#!/bin/sh\necho {name} "$@" 1<>{fifo}\n'


def event(kind: str, guest: LabGuest, **members: str) -> Callable[[dict[str, Any]], bool]:
    """Matches the host's events of this kind about this guest, for :meth:`Feed.wait_for`."""
    wanted = {"kind": kind, "uuid": guest.uuid, **members}
    return lambda line: wanted.items() <= line.items()


class Scene:
    """A host and its VMs; see :func:`open_scene`.

    Args:
        directory: for all files; exists and is empty.
        nursery: runs the tasks of the processes.
        launcher: starts the processes.
        name: the host's name in messages.
        events: receives the host's events; None for a new feed.
        script_lines: receives the lines of scripts; None for a new feed.
    """

    def __init__(
        self,
        directory: Path,
        nursery: trio.Nursery,
        launcher: Launcher,
        *,
        name: str = "the host",
        events: Feed[dict[str, Any]] | None = None,
        script_lines: Feed[list[str]] | None = None,
    ) -> None:
        self.directory = directory
        self.name = name
        self.channel_dir = directory / "ch"
        self.control_socket = directory / "host.sock"
        self.host_log = directory / "host.log"
        #: The host's events (``--events -``), a dict per line.
        self.events: Feed[dict[str, Any]] = Feed() if events is None else events
        #: Lines of scripts, split into words: ``virsh reset UUID``, ``note UUID REASON``, ``handler
        #: ...``; and applications: ``application ...``.
        self.script_lines: Feed[list[str]] = Feed() if script_lines is None else script_lines
        self.guests: dict[str, LabGuest] = {}
        #: The running host daemon, or None.
        self.host: Daemon | None = None
        #: The content of host.toml, except paths; change it before :meth:`start_host`.
        self.settings: dict[str, Any] = {
            # Nobody waits for what is in progress at the end of a scene.
            "stop_grace_s": 1,
            "corrective-commands": {
                "reboot": [str(directory / "virsh"), "reset", "{uuid}"],
                "stop": [str(directory / "virsh"), "destroy", "{uuid}"],
                "log": [str(directory / "note"), "{uuid}", "{reason}"],
            },
            "actions": {
                "reboot": [str(directory / "virsh"), "reset", "{uuid}"],
                "stop": [str(directory / "virsh"), "destroy", "{uuid}"],
            },
        }
        #: What the host's libvirt says of the VMs.
        self.libvirt = LabLibvirt(directory / "libvirt")
        #: Whether the host asks it; change it before :meth:`start_host`.
        self.has_libvirt = False
        self._nursery = nursery
        self._fifo = directory / "script_lines"
        self._launcher = launcher
        self.channel_dir.mkdir()
        os.mkfifo(self._fifo, 0o600)
        for name in ("virsh", "note"):
            text = _SCRIPT.format(name=name, fifo=shlex.quote(str(self._fifo)))
            write_script(directory / name, text)

    # -- processes --------------------------------------------------------------------------

    async def start_host(self) -> Daemon:
        """Starts the host, or restarts it after a stop; returns once it serves.

        Raises:
            UserError: it did not serve its control socket in time.
        """
        config = self.directory / "host.toml"
        sockets = {
            "channel_dir": str(self.channel_dir),
            "control_socket": str(self.control_socket),
        }
        # The lab's VMs are none of this machine's libvirt.
        libvirt = {"enabled": "on" if self.has_libvirt else "off"}
        write_toml(config, {**sockets, "libvirt": libvirt, **self.settings})
        path = os.environ.get("PATH", os.defpath)
        if self.has_libvirt:
            path = f"{self.libvirt.directory}:{path}"
        host = await self._launcher.launch(
            self.name,
            ["host", "--config", str(config), "--events", "-"],
            self.host_log,
            stdout=True,
            env={**os.environ, "PATH": path},
        )
        self.host = host
        self._nursery.start_soon(self._read_events, host)
        await until_it_serves(host, self.control_socket)
        return host

    async def add_guest(self, name: str, tap: Tap | None = None) -> LabGuest:
        """Adds a VM with its channel, on which ``tap`` reads along; no guest daemon is started."""
        directory = self.directory / name
        directory.mkdir()
        guest = LabGuest(
            name,
            directory,
            self.channel_dir,
            self.libvirt,
            self._fifo,
            self._nursery,
            self._launcher,
            tap,
        )
        await guest.plug()
        self.guests[guest.uuid] = guest
        return guest

    # -- observations -----------------------------------------------------------------------

    async def status(self) -> dict[str, Any]:
        """Returns ``GET /v1/status``: the host and all its instances.

        Raises:
            UserError: the host does not answer.
        """
        async with self.client() as client:
            return await client.status(dict[str, Any])

    async def post(self, path: str, body: dict[str, Any]) -> list[dict[str, Any]]:
        """Posts to the operator API and returns all lines of the answer once it has ended.

        Raises:
            UserError: the host refused, did not answer, or ended during the answer.
        """
        answer: list[dict[str, Any]] = []
        async with self.client() as client, client.lines("POST", path, body) as lines:
            while (line := await lines.next(dict[str, Any], _SILENT_S)) is not None:
                answer.append(line)
        return answer

    def client(self) -> CtlClient:
        """Makes a client of the host's operator API, for use in ``async with``."""
        return CtlClient(Address.parse(self.url))

    @property
    def url(self) -> str:
        """The URL for ``hbtrio ctl --url``."""
        return f"unix:{self.control_socket}"

    def logs(self) -> str:
        """Returns the ends of all daemons' logs, because the files are removed with the scene."""
        logs = [(self.name, self.host_log)]
        for guest in self.guests.values():
            logs += [(guest.name, guest.log)]
            logs += [(one.label, one.log) for one in guest.applications.values()]
        return "\n".join(log_tail(name, log) for name, log in logs if log.exists())

    async def _read_events(self, host: Daemon) -> None:
        assert host.stdout is not None
        reader = LineReader(_EVENT_BYTES)
        async with host.stdout as output:
            async for data in output:
                for line in reader.feed(bytes(data)):
                    self.events.put(json.loads(line))

    async def listen(self, *, task_status: trio.TaskStatus[None]) -> None:
        """Reads the scripts' lines and simulates libvirt until cancelled."""
        # Opened for writing, too: without a writer a FIFO would read as ended.
        fd = os.open(self._fifo, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        reader = LineReader()
        async with trio.lowlevel.FdStream(fd) as stream:
            task_status.started()
            async for data in stream:
                for line in reader.feed(bytes(data)):
                    words = line.decode("utf-8", "replace").split()
                    self.script_lines.put(words)
                    await self._simulate_libvirt(words)

    async def _simulate_libvirt(self, words: list[str]) -> None:
        match words:
            case ["virsh", "reset", uuid] if uuid in self.guests:
                await self.guests[uuid].reset()
            case ["virsh", "destroy", uuid] if uuid in self.guests:
                await self.guests[uuid].destroy()

    async def end(self) -> None:
        """Stops every process, the guests first, so that the host receives their farewells."""
        async with trio.open_nursery() as nursery:
            for guest in self.guests.values():
                nursery.start_soon(guest.stop)
        if self.host is not None:
            await self.host.stop()


@asynccontextmanager
async def open_scene() -> AsyncIterator[Scene]:
    """Opens an empty scene in a new directory below TMPDIR; stops and removes all at the end.

    Raises:
        UserError: the directory can't be made, or its path is too long for sockets.
        DaemonDied: a daemon ended by itself; the body is cancelled.

    A single exception of the body is raised as it is, not in a group. Cancelled, it ends in bounded
    time: :data:`hbtrio.lab.daemon.GRACE_S` for all applications, for all guests, and for
    the host.
    """
    with new_directory(LONGEST) as directory:
        try:
            async with open_reaper_link() as reaper, trio.open_nursery() as nursery:
                scene = Scene(directory, nursery, Launcher(nursery, reaper))
                try:
                    # A nursery of its own: a VM being reset must not be started again during the
                    # end.
                    async with trio.open_nursery() as hypervisor:
                        await hypervisor.start(scene.listen)
                        yield scene
                        hypervisor.cancel_scope.cancel()
                finally:
                    with trio.CancelScope(shield=True):
                        await scene.end()
                nursery.cancel_scope.cancel()
        except BaseExceptionGroup as group:
            raise alone(group) from None


@contextmanager
def new_directory(longest: str) -> Iterator[Path]:
    """Makes a directory below TMPDIR, and removes it at the end.

    Args:
        longest: the longest path of a socket in it, relative to the directory.

    Raises:
        UserError: the directory can't be made, or its path is too long for the socket.
    """
    parent = tempfile.gettempdir()
    # mkdtemp appends 8 characters.
    too_long = len(os.fsencode(parent)) + len("/hbt.12345678" + longest) - _SOCKET_PATH_BYTES
    if too_long > 0:
        raise UserError(
            f"{parent}: {too_long} bytes too long for the unix sockets in it; use TMPDIR=/tmp"
        )
    try:
        directory = Path(tempfile.mkdtemp(prefix="hbt.", dir=parent))
    except OSError as error:
        raise UserError(f"{parent}: {os_reason(error)}", ExitStatus.FAILED) from error
    try:
        yield directory
    finally:
        _remove(directory)


def _remove(directory: Path) -> None:
    try:
        shutil.rmtree(directory)
    except OSError:
        # A handler of a killed guest may have written a file meanwhile.
        shutil.rmtree(directory)


def alone(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """Returns the only exception of nested groups, or the innermost group with several."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error
