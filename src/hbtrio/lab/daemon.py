"""Runs one process of a scene, which can be stopped, frozen and killed but must not die."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import trio

#: How much of the end of a log is shown.
TAIL_LINES: Final = 25
_TAIL_BYTES: Final = 16_384

#: How long a daemon may take to end on TERM before it is killed, in seconds.
GRACE_S: Final = 5.0


class DaemonDied(Exception):
    """A daemon ended unexpectedly; the text contains the end of its log."""


class Daemon:
    """A running ``hbtrio`` daemon or application, started by :meth:`start`.

    The process leads its own session, so that Ctrl-C at the terminal reaches only the lab.
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
        env: Mapping[str, str] | None = None,
    ) -> Daemon:
        """Starts ``python -m`` with ``module`` and ``arguments``.

        Args:
            name: the name in messages.
            arguments: the subcommand, if any, and its options.
            log: the file for standard error; appended to, because a daemon may be restarted.
            module: the module to run.
            stdout: whether standard output is available as :attr:`stdout`; else it goes to the log.
            env: the whole environment; None is the lab's.
        """
        with open(log, "ab") as output:  # noqa: ASYNC230 - a local file, opened in microseconds
            process = await trio.lowlevel.open_process(
                [sys.executable, "-m", module, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE if stdout else output,
                stderr=output,
                start_new_session=True,
                env=env,
            )
        return cls(name, process, log)

    @property
    def pid(self) -> int:
        """The id of the process and of its session."""
        return self._process.pid

    @property
    def stdout(self) -> trio.abc.ReceiveStream | None:
        """Its standard output, or None."""
        return self._process.stdout

    @property
    def status(self) -> int | None:
        """Its exit status, negative for a signal; None while it runs."""
        return self._process.returncode

    async def watch(self) -> None:
        """Waits until the process was ended by :meth:`stop` or :meth:`kill`.

        Raises:
            DaemonDied: the process ended by itself.
        """
        status = await self._process.wait()
        if not self._released:
            how = f"signal {-status}" if status < 0 else f"status {status}"
            raise DaemonDied(
                f"{self.name} ended unexpectedly with {how}\n{log_tail(self.name, self.log)}"
            )

    def freeze(self) -> None:
        """Sends SIGSTOP; connections stay open."""
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Sends SIGCONT."""
        self._process.send_signal(signal.SIGCONT)

    def signal(self, number: int) -> None:
        """Sends another signal; use :meth:`stop` or :meth:`kill` to end the process."""
        self._process.send_signal(number)

    async def kill(self) -> None:
        """Sends SIGKILL and waits for the end."""
        self._released = True
        self._process.kill()
        await self._process.wait()

    async def stop(self) -> int:
        """Sends SIGTERM, and SIGKILL after :data:`GRACE_S`; returns the exit status.

        Cancellation kills the process first.
        """
        self._released = True
        try:
            self._process.terminate()
            self._process.send_signal(signal.SIGCONT)  # a frozen process doesn't handle SIGTERM
            with trio.move_on_after(GRACE_S):
                return await self._process.wait()
        finally:
            if self._process.returncode is None:
                self._process.kill()
                with trio.CancelScope(shield=True):
                    await self._process.wait()
        return await self._process.wait()


class RunsDaemon:
    """Runs one daemon at a time, which can be killed or stopped, and started again."""

    #: The running daemon, or None.
    daemon: Daemon | None = None

    async def kill(self) -> None:
        """Kills the daemon with SIGKILL and waits for its end."""
        daemon, self.daemon = self.daemon, None
        if daemon is not None:
            await daemon.kill()

    async def stop(self) -> None:
        """Stops the daemon with SIGTERM and waits for its end."""
        daemon, self.daemon = self.daemon, None
        if daemon is not None:
            await daemon.stop()


def log_tail(name: str, log: Path) -> str:
    """Returns the end of a daemon's log, below a heading."""
    with open(log, "rb") as file:
        file.seek(max(0, os.path.getsize(log) - _TAIL_BYTES))
        last = file.read(_TAIL_BYTES).decode("utf-8", "replace").splitlines()[-TAIL_LINES:]
    return "\n".join([f"the end of the log of {name}:", *(f"  {line}" for line in last)])
