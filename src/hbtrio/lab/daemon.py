"""One real process of a scene, which may be stopped, frozen and killed, but not die."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import trio

#: What of a log is shown, from its end.
TAIL_LINES: Final = 25
_TAIL_BYTES: Final = 16_384

#: How long a daemon may take to end on TERM before it is killed, in seconds.
GRACE_S: Final = 5.0


class DaemonDied(Exception):
    """A daemon ended though nobody had asked it to; the text holds the end of its log."""


class Daemon:
    """A running ``hbtrio`` daemon, or an application; made by :meth:`start`.

    It leads a session of its own, so that Ctrl-C at the terminal is for the lab alone to deal with.
    """

    def __init__(self, name: str, process: trio.Process, log: Path) -> None:
        self.name = name
        self.log = log
        self._process = process
        self._released = False

    @classmethod
    async def start(
        cls,
        name: str,
        arguments: Sequence[str],
        log: Path,
        *,
        module: str = "hbtrio",
        stdout: bool = False,
    ) -> Daemon:
        """Starts ``python -m`` with ``module`` and ``arguments``.

        Args:
            name: what messages call it.
            arguments: the subcommand, if it has any, and its options.
            log: where its standard error goes; appended to, for it may be started again.
            module: what runs.
            stdout: whether its standard output is for :attr:`stdout`; else it goes to the log.
        """
        with open(log, "ab") as output:  # noqa: ASYNC230 - a local file, opened in microseconds
            process = await trio.lowlevel.open_process(
                [sys.executable, "-m", module, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE if stdout else output,
                stderr=output,
                start_new_session=True,
            )
        return cls(name, process, log)

    @property
    def pid(self) -> int:
        """Its process, which leads the session of the same number."""
        return self._process.pid

    @property
    def stdout(self) -> trio.abc.ReceiveStream | None:
        """Its standard output, if that was asked for."""
        return self._process.stdout

    @property
    def status(self) -> int | None:
        """Its exit status, negative for a signal; None while it runs."""
        return self._process.returncode

    async def watch(self) -> None:
        """Returns when it has ended as it was asked to.

        Raises:
            DaemonDied: it ended by itself.
        """
        status = await self._process.wait()
        if not self._released:
            how = f"signal {-status}" if status < 0 else f"status {status}"
            raise DaemonDied(
                f"{self.name} ended unexpectedly with {how}\n{log_tail(self.name, self.log)}"
            )

    def freeze(self) -> None:
        """SIGSTOP: it stays where it is, its connections stay open."""
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """SIGCONT."""
        self._process.send_signal(signal.SIGCONT)

    def signal(self, number: int) -> None:
        """Sends any other signal; one that ends it is :meth:`stop`'s or :meth:`kill`'s to send."""
        self._process.send_signal(number)

    async def kill(self) -> None:
        """``kill -9``; returns when it is gone."""
        self._released = True
        self._process.kill()
        await self._process.wait()

    async def stop(self) -> int:
        """SIGTERM, and SIGKILL if it does not end within :data:`GRACE_S`; returns its exit status.

        Cancelled, it kills the daemon first.
        """
        self._released = True
        try:
            self._process.terminate()
            self._process.send_signal(signal.SIGCONT)  # one that is frozen would not hear of it
            with trio.move_on_after(GRACE_S):
                return await self._process.wait()
        finally:
            if self._process.returncode is None:
                self._process.kill()
                with trio.CancelScope(shield=True):
                    await self._process.wait()
        return await self._process.wait()


def log_tail(name: str, log: Path) -> str:
    """The end of a daemon's log, headed by a line that says so."""
    with open(log, "rb") as file:
        file.seek(max(0, os.path.getsize(log) - _TAIL_BYTES))
        last = file.read(_TAIL_BYTES).decode("utf-8", "replace").splitlines()[-TAIL_LINES:]
    return "\n".join([f"the end of the log of {name}:", *(f"  {line}" for line in last)])
