"""Running commands: the output is bounded, the end is certain, and nothing is left behind.

Three promises, and what each one costs:

- *A command is never blocked by us and never blocks us.* Its output is kept up to a bound and
  drained beyond it; its standard input is empty; once it has exited we take what is in its pipes
  and return, though a background child of it may hold them open for days.
- *A cancelled command is gone when the cancellation is done.* TERM to all of it, KILL after a
  grace, reaped. This holds for its children too, also where it died first and left them.
- *A killed daemon leaves no command running.* The reaper sees to that: see ``reaper.py``.

A command that ends by itself keeps its background children: a handler may well start a service, the
deployed C client left them alone too, and the exit status is the whole answer. (They lose their
standard output: it was our pipe.)

Every command leads a new session, not merely a new process group. Without a terminal it cannot wait
at ``/dev/tty`` for a password, nor be stopped for writing there when an operator runs the daemon in
the foreground; and the session is what still names the groups that ``timeout(1)`` and ``set -m``
make inside of a script.
"""

from __future__ import annotations

import errno
import logging
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Protocol

import trio

from hbtrio.system.child import Capture, Child, ProcessResult, open_pidfd, spawn
from hbtrio.system.reaper import live_groups, signal_groups
from hbtrio.system.reaper_link import ReaperLink

__all__ = ["ProcessNotStarted", "ProcessResult", "ProcessRunner", "SystemProcesses"]

_log = logging.getLogger("hbtrio.processes")

#: How long a command may take to die of KILL, in seconds. Only one that hangs in the kernel (a dead
#: disk or file server) needs longer; it is then remembered and reaped later.
_KILL_WAIT_S = 2.0
#: So many that cannot be ended, and no further one is started: the next would hang just the same.
_MAX_UNKILLABLE = 16


class ProcessNotStarted(Exception):
    """A command could not be started at all: missing, not executable, too many processes.

    Args:
        path: what was to be run.
        reason: why not, a few words.
    """

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = path
        self.reason = reason


class ProcessRunner(Protocol):
    """Whatever runs commands for a task: the system, or a fake on a fake clock."""

    async def run(
        self, argv: Sequence[str], *, max_output: int = 4096, env: Mapping[str, str] | None = None
    ) -> ProcessResult:
        """Run a command to its end.

        Args:
            argv: the program and its arguments; no shell is involved.
            max_output: how many bytes of each output are kept.
            env: its whole environment; None: that of the daemon.

        Raises:
            ProcessNotStarted: it could not be started.

        Cancellation ends the command, its children included, before it returns.
        """
        ...


class SystemProcesses:
    """The real runner; use it within ``async with``, which owns the reaper.

    The reaper is started with the first command and exits with the block. Should it die in between,
    that is logged, and the next command starts another one.

    Args:
        grace_s: seconds between TERM and KILL when a command is cancelled, at least 0.
    """

    def __init__(self, *, grace_s: float = 1.0) -> None:
        self._grace_s = grace_s
        self._reaper = ReaperLink()
        self._unkillable: list[Child] = []

    async def __aenter__(self) -> SystemProcesses:
        # A disposition inherited over exec. With SIGCHLD ignored the kernel throws exit statuses
        # away, and subprocess then reports 0: a script's refusal would become its consent.
        if signal.getsignal(signal.SIGCHLD) is signal.SIG_IGN:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._reap_unkillable()
        await self._reaper.close()

    async def run(
        self, argv: Sequence[str], *, max_output: int = 4096, env: Mapping[str, str] | None = None
    ) -> ProcessResult:
        """Run a command to its end: see :meth:`ProcessRunner.run`.

        A cancelled command has ``grace_s`` between TERM and KILL, both of which go to its whole
        session. The start itself (fork and exec, in a thread) cannot be cancelled.
        """
        self._reap_unkillable()
        if len(self._unkillable) >= _MAX_UNKILLABLE:
            raise ProcessNotStarted(
                argv[0], f"{_MAX_UNKILLABLE} earlier commands hang in the kernel"
            )
        await self._reaper.ensure()
        child = await trio.to_thread.run_sync(self._start, argv, max_output, env)
        # From here to the try is no checkpoint: a started command cannot be lost.
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(child.stdout.collect)
                nursery.start_soon(child.stderr.collect)
                await child.exited()
                nursery.cancel_scope.cancel()
        except BaseException:
            with trio.CancelScope(shield=True):
                await self._end(child)
            raise
        # Output and exit may have come together, and the exit been seen first.
        child.stdout.drain()
        child.stderr.drain()
        return self._finish(child)

    def _start(self, argv: Sequence[str], max_output: int, env: Mapping[str, str] | None) -> Child:
        # In a thread: Popen waits for the exec. Registered in the same breath, not back on the
        # event loop, which may be late: what is not registered yet survives a kill -9.
        try:
            # No signal is blocked, whatever the daemon blocks: TERM must reach a script. That
            # SIGPIPE is not ignored, as Python has it, is Popen's restore_signals.
            popen = spawn(
                argv, blocked=(), stdin=subprocess.DEVNULL, output=subprocess.PIPE, env=env
            )
        except OSError as error:
            raise ProcessNotStarted(argv[0], _reason(error, argv[0])) from error
        self._reaper.add(popen.pid)
        assert popen.stdout is not None
        assert popen.stderr is not None
        return Child(
            argv[0],
            popen,
            open_pidfd(popen.pid),
            Capture(popen.stdout, max_output),
            Capture(popen.stderr, max_output),
        )

    def _finish(self, child: Child) -> ProcessResult:
        # In this order: as long as its leader is not reaped, a session's number is not used again,
        # so that the reaper never holds a number that may be someone else's.
        self._reaper.discard(child.pid)
        return child.reap()

    async def _end(self, child: Child) -> None:
        """TERM, grace, KILL, reap; bounded. To be called within a shield.

        The leader is reaped last, for it pins the number of its group: a signal to that group hits
        nobody else, even where everyone but the zombie is gone.
        """
        session = {child.pid}
        signal_groups(session, signal.SIGTERM)
        signal_groups(await _live_groups(session) - session, signal.SIGTERM)
        with trio.move_on_after(self._grace_s):
            await child.exited()
            delay_s = 0.01
            while await _live_groups(session):
                await trio.sleep(delay_s)
                delay_s = min(2 * delay_s, 0.1)
        # Also when nobody seems left: between our looks someone may have forked.
        signal_groups(session | await _live_groups(session), signal.SIGKILL)
        with trio.move_on_after(_KILL_WAIT_S) as killed:
            await child.exited()
        if killed.cancelled_caught:
            _log.error("%s: process %d does not die of KILL", child.path, child.pid)
            child.close()
            self._unkillable.append(child)
        else:
            self._finish(child)

    def _reap_unkillable(self) -> None:
        dead = [child for child in self._unkillable if child.is_dead()]
        for child in dead:
            self._unkillable.remove(child)
            self._finish(child)


async def _live_groups(session: set[int]) -> set[int]:
    # In a thread: on a large system there is a lot in /proc.
    return await trio.to_thread.run_sync(live_groups, session)


def _reason(error: OSError, path: str) -> str:
    if error.errno == errno.ENOENT and os.path.exists(path):
        return "the interpreter named in its first line does not exist"
    if error.errno == errno.ENOEXEC:
        return "not a program, and no #! in its first line"
    return error.strerror or str(error)
