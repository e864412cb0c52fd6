"""An application in a lab's VM that follows the script files in its directory.

    python -m hbtrio.lab.scripted_app NAME --guest VM --directory DIR --app-socket PATH --fifo FIFO

The application reports to the FIFO, one line each:

    application VM NAME registered PID
    application VM NAME revocable|irrevocable EVENT PID

Like any application it uses only :mod:`hbtrio.app` of hbtrio. SIGTERM ends it.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
from pathlib import Path
from typing import Final

import anyio

from hbtrio.app import Accept, Application, Event, Notice, Reject, Vote

#: The heartbeat interval; a hang is reported after two intervals. A shorter interval would need a
#: machine that is never late.
HEARTBEAT_S: Final = 1.0


class ScriptedHandlers:
    """Handlers that follow the script files.

    Args:
        name: the application's name.
        guest: its VM's name.
        directory: the directory of the script files, see :mod:`hbtrio.lab.handler_script`.
        fifo: the FIFO.
    """

    def __init__(self, name: str, guest: str, directory: Path, fifo: Path) -> None:
        self._head = f"application {guest} {name}"
        self._directory = directory
        self._fifo = fifo

    def report(self, words: str) -> None:
        """Writes a line to the FIFO.

        Raises:
            OSError: the FIFO has no reader or is full.
        """
        fd = os.open(self._fifo, os.O_WRONLY | os.O_NONBLOCK)
        try:
            # Shorter than PIPE_BUF, so lines of several writers don't mix.
            os.write(fd, f"{self._head} {words} {os.getpid()}\n".encode())
        finally:
            os.close(fd)

    async def vote(self, vote: Vote) -> Accept | Reject:
        """Responds as scripted; accepts without a script file."""
        status, reason = await self._obey("revocable", vote.event)
        return Reject(reason) if status else Accept()

    async def prepare(self, notice: Notice) -> None:
        """Takes as long as scripted."""
        await self._obey("irrevocable", notice.event)

    async def _obey(self, notification: str, event: Event) -> tuple[int, str]:
        self.report(f"{notification} {event}")
        after_s, status, reason = self._scripted(f"response.{notification}.{event}")
        await anyio.sleep(after_s)
        return status, reason

    def _scripted(self, name: str) -> tuple[float, int, str]:
        try:
            text = (self._directory / name).read_text()
        except FileNotFoundError:
            return 0.0, 0, ""
        after_s, status, reason = text.rstrip("\n").split(" ", 2)
        return float(after_s), int(status), reason


async def run(options: argparse.Namespace) -> None:
    """Is an application until SIGTERM."""
    handlers = ScriptedHandlers(options.name, options.guest, options.directory, options.fifo)
    app = Application(
        options.name,
        heartbeat_s=HEARTBEAT_S,
        on_vote=handlers.vote,
        on_notice=handlers.prepare,
        socket=options.app_socket,
    )

    async def announce() -> None:
        await app.wait_registered()
        handlers.report("registered")

    with anyio.open_signal_receiver(signal.SIGTERM) as signals:
        async with app, anyio.create_task_group() as tasks:
            tasks.start_soon(announce)
            async for _ in signals:
                tasks.cancel_scope.cancel()
                break


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name")
    parser.add_argument("--guest", required=True)
    parser.add_argument("--directory", type=Path, required=True)
    parser.add_argument("--app-socket", required=True)
    parser.add_argument("--fifo", type=Path, required=True)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO)
    anyio.run(run, options, backend="asyncio")


if __name__ == "__main__":
    main()
