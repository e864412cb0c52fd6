"""An application of a lab's VM: answers as the files in its directory say, and tells of it.

    python -m hbtrio.lab.scripted_app NAME --guest VM --directory DIR --app-socket PATH --told FIFO

It writes to the FIFO, a line each:

    application VM NAME registered PID
    application VM NAME revocable|irrevocable EVENT PID

It is an application like anybody's: of hbtrio it has :mod:`hbtrio.app` alone. SIGTERM ends it.
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

#: How often the guest wants a sign of life: twice that is what a hang takes to be reported. Shorter
#: ones are for machines that are never late.
HEARTBEAT_S: Final = 1.0


class Puppet:
    """Handlers that do as they are told.

    Args:
        name: the application's.
        guest: its VM's.
        directory: where its wishes are, see :mod:`hbtrio.lab.handler_script`.
        told: the FIFO.
    """

    def __init__(self, name: str, guest: str, directory: Path, told: Path) -> None:
        self._head = f"application {guest} {name}"
        self._directory = directory
        self._told = told

    def tell(self, words: str) -> None:
        """Writes a line to the FIFO.

        Raises:
            OSError: nobody reads it, or it is full.
        """
        fd = os.open(self._told, os.O_WRONLY | os.O_NONBLOCK)
        try:
            # Shorter than what a pipe takes at once: never mixed with another's line.
            os.write(fd, f"{self._head} {words} {os.getpid()}\n".encode())
        finally:
            os.close(fd)

    async def vote(self, vote: Vote) -> Accept | Reject:
        """Answers as wished, and accepts what no wish is about."""
        status, reason = await self._obey("revocable", vote.event)
        return Reject(reason) if status else Accept()

    async def prepare(self, notice: Notice) -> None:
        """Takes as long as wished."""
        await self._obey("irrevocable", notice.event)

    async def _obey(self, notification: str, event: Event) -> tuple[int, str]:
        self.tell(f"{notification} {event}")
        after_s, status, reason = self._wish(f"wish.{notification}.{event}")
        await anyio.sleep(after_s)
        return status, reason

    def _wish(self, name: str) -> tuple[float, int, str]:
        try:
            text = (self._directory / name).read_text()
        except FileNotFoundError:
            return 0.0, 0, ""
        after_s, status, reason = text.rstrip("\n").split(" ", 2)
        return float(after_s), int(status), reason


async def run(options: argparse.Namespace) -> None:
    """Is an application until SIGTERM."""
    puppet = Puppet(options.name, options.guest, options.directory, options.told)
    app = Application(
        options.name,
        heartbeat_s=HEARTBEAT_S,
        on_vote=puppet.vote,
        on_notice=puppet.prepare,
        socket=options.app_socket,
    )

    async def announce() -> None:
        await app.wait_registered()
        puppet.tell("registered")

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
    parser.add_argument("--told", type=Path, required=True)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO)
    anyio.run(run, options, backend="asyncio")


if __name__ == "__main__":
    main()
