"""Starts a command and gives access to its process, its outputs and its status.

:mod:`hbtrio.system.runner` combines these parts and documents the guarantees.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import IO, Any, Final

import msgspec
import trio

#: Seconds between two looks at a child that has no pidfd.
_LOOK_S: Final = 0.02

# With vfork the parent holds the interpreter's lock until the exec is done: if the program is on a
# dead file system, for good, and no other thread runs.
subprocess._USE_VFORK = False  # type: ignore[misc]


class ProcessResult(msgspec.Struct, frozen=True):
    """The exit status and the output of a command.

    Args:
        exit_code: 0 to 255, or None if a signal ended the command.
        signal: the number of that signal, or None.
        stdout: the first ``max_output`` bytes of standard output.
        stderr: the first ``max_output`` bytes of standard error.
        truncated: whether one of the two was longer.
    """

    exit_code: int | None
    signal: int | None
    stdout: bytes
    stderr: bytes
    truncated: bool


class Capture:
    """Reads one output of a command: passes it on, keeps the first bytes and drops the rest.

    Args:
        pipe: where the output comes from.
        limit: how many bytes are kept.
    """

    def __init__(self, pipe: IO[bytes], limit: int) -> None:
        self._pipe = pipe
        self._limit = limit
        #: Gets each piece of output as it arrives; must not block.
        self.on_output: Callable[[bytes], None] | None = None
        self.kept = bytearray()
        self.truncated = False
        os.set_blocking(pipe.fileno(), False)

    async def collect(self) -> None:
        """Read until end of file. Cancellation loses no data."""
        more = True
        while more:
            await trio.lowlevel.wait_readable(self._pipe)
            more = self._read() != b""

    def drain(self) -> None:
        """Read the data in the pipe now, up to the limit: a background child may keep writing."""
        while not self.truncated and self._read():
            pass

    def _read(self) -> bytes | None:
        """Read once: None if there is no data now, b"" at the end of file."""
        chunk = self._pipe.read(65536)
        if chunk:
            if self.on_output is not None:
                self.on_output(chunk)
            room = self._limit - len(self.kept)
            self.kept += chunk[:room]
            self.truncated = self.truncated or len(chunk) > room
        return chunk

    def close(self) -> None:
        """Close the pipe."""
        self._pipe.close()


class Child:
    """A started command and all file descriptors held for it.

    Args:
        path: the command.
        popen: its process.
        pidfd: a descriptor that is readable once the process has exited; None without one.
        stdout: reads its standard output.
        stderr: reads its standard error.
        side: what the command writes to its side pipe; None if it has none.
    """

    def __init__(
        self,
        path: str,
        popen: subprocess.Popen[bytes],
        pidfd: int | None,
        stdout: Capture,
        stderr: Capture,
        side: Capture | None = None,
    ) -> None:
        self.path = path
        self._popen = popen
        self._pidfd = pidfd
        self.stdout = stdout
        self.stderr = stderr
        self.side = side

    @property
    def pid(self) -> int:
        """The id of the process and of its session."""
        return self._popen.pid

    async def exited(self) -> None:
        """Wait until the process has exited, without reaping it. Can be cancelled."""
        if self._pidfd is not None:
            await trio.lowlevel.wait_readable(self._pidfd)
        else:
            while not self.is_dead():  # noqa: ASYNC110
                await trio.sleep(_LOOK_S)

    def is_dead(self) -> bool:
        """Return whether the process has exited and can be reaped."""
        options = os.WEXITED | os.WNOWAIT | os.WNOHANG
        return os.waitid(os.P_PID, self.pid, options) is not None

    def reap(self) -> ProcessResult:
        """Reap the process, which must have exited, and return its result."""
        status = self._popen.wait()
        self.close()
        return ProcessResult(
            exit_code=status if status >= 0 else None,
            signal=-status if status < 0 else None,
            stdout=bytes(self.stdout.kept),
            stderr=bytes(self.stderr.kept),
            truncated=self.stdout.truncated or self.stderr.truncated,
        )

    def close(self) -> None:
        """Close all descriptors; doesn't affect the process."""
        self.stdout.close()
        self.stderr.close()
        if self.side is not None:
            self.side.close()
        if self._pidfd is not None:
            os.close(self._pidfd)
            self._pidfd = None


class ForkedPopen(subprocess.Popen[bytes]):
    """A Popen that others see before its exec is done: its ``pid`` is set after the fork.

    Args:
        on_new: called with the object first of all.
        arguments: as for Popen.
    """

    def __init__(self, on_new: Callable[[ForkedPopen], None], **arguments: Any) -> None:
        on_new(self)
        super().__init__(**arguments)


def _ignore(_: ForkedPopen) -> None:
    pass


def spawn(
    argv: Sequence[str],
    *,
    on_new: Callable[[ForkedPopen], None] = _ignore,
    blocked: Iterable[signal.Signals],
    stdin: int,
    output: int,
    cwd: str | None = None,
    env: Mapping[str, str] | None = None,
    pass_fds: Sequence[int] = (),
) -> subprocess.Popen[bytes]:
    """Start a process in its own session. Call this in a thread: it changes the signal mask.

    Returns after the exec, or raises its fault. While the file system of the program hangs, neither
    happens.
    """
    before = signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
    try:
        return ForkedPopen(
            on_new,
            args=argv,
            bufsize=0,
            stdin=stdin,
            stdout=output,
            stderr=output,
            cwd=cwd,
            env=env,
            pass_fds=pass_fds,
            start_new_session=True,
        )
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def open_pidfd(pid: int) -> int | None:
    """Return a descriptor that becomes readable when the process exits, or None."""
    try:
        return os.pidfd_open(pid)
    except (AttributeError, OSError):
        # A kernel before 5.3, a Python built on one, or too many open files. Child.exited() then
        # looks again and again.
        return None
