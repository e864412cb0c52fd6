"""Runs an application in a VM of a scene, which registers with the VM's guest daemon."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from hbtrio.lab.daemon import RunsDaemon
from hbtrio.lab.handler_script import write_response
from hbtrio.lab.launcher import Launcher

_PROGRAM: Final = "hbtrio.lab.scripted_app"


class LabApplication(RunsDaemon):
    """An application, created by :meth:`hbtrio.lab.guest.LabGuest.add_application`.

    :mod:`hbtrio.lab.scripted_app` describes what it writes to the scene's
    :attr:`~hbtrio.lab.scene.Scene.script_lines`.

    Args:
        name: the name it registers with.
        guest: the name of its VM.
        directory: its own directory, which exists.
        app_socket: the socket of the VM's guest daemon.
        fifo: the FIFO to which it reports what it does.
        launcher: starts the process.
    """

    def __init__(
        self,
        name: str,
        guest: str,
        directory: Path,
        app_socket: Path,
        fifo: Path,
        launcher: Launcher,
    ) -> None:
        self.name = name
        self.label = f"application {name} in {guest}"
        self.log = directory / "application.log"
        self._directory = directory
        self._launcher = launcher
        self._arguments = [name, "--guest", guest, "--directory", str(directory)]
        self._arguments += ["--app-socket", str(app_socket), "--fifo", str(fifo)]

    def will(
        self, notification: str, event: str, *, after_s: float = 0, status: int = 0, says: str = ""
    ) -> None:
        """Sets how the application responds to a vote or notice of ``event``.

        The arguments are those of :meth:`hbtrio.lab.guest.LabGuest.will`.
        """
        write_response(
            self._directory, notification, event, after_s=after_s, status=status, says=says
        )

    async def start(self) -> None:
        """Starts the application, which registers as soon as its guest daemon serves."""
        self.daemon = await self._launcher.launch(
            self.label, self._arguments, self.log, module=_PROGRAM
        )
