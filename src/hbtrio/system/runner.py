"""Runs commands with bounded output and without leaving processes behind.

The runner gives three guarantees:

- *A command and the daemon never block each other.* The runner keeps a command's output up to a
  limit and drops the rest. Standard input is empty. When the command has exited, the runner reads
  what is in the pipes and returns, even if a background child holds the pipes open.
- *A cancelled command is gone when the cancellation is done.* The whole session gets TERM, then
  KILL after a grace, and is reaped; also children that the command has left behind.
- *A killed daemon leaves no command running.* The reaper ends them, see ``reaper.py``.

A command that ends by itself keeps its background children, as with the deployed C client: a
handler may start a service, and only the exit status counts. The children lose their standard
output, which was the runner's pipe.

Every command leads a new session, not only a new process group. Without a terminal a command can't
wait for a password at ``/dev/tty`` or be stopped for writing there while an operator runs the
daemon in the foreground. And the session still identifies the groups that ``timeout(1)`` and
``set -m`` create in a script.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from types import TracebackType
from typing import Protocol

import trio

from hbtrio.system.child import Capture, Child, ForkedPopen, ProcessResult, open_pidfd, spawn
from hbtrio.system.reaper import live_groups, signal_groups
from hbtrio.system.reaper_link import ReaperLink
from hbtrio.system.side_pipe import SideEnds, SidePipe, side_ends
from hbtrio.system.start import Start

__all__ = ["ProcessNotStarted", "ProcessResult", "ProcessRunner", "SystemProcesses"]

_log = logging.getLogger("hbtrio.processes")

#: How long a command may take to die after KILL, in seconds. Only a command that hangs in the
#: kernel (a dead disk or file server) takes longer and is reaped later.
_KILL_WAIT_S = 2.0
#: With this many commands that can't be killed, no further one is started: it would hang too.
_MAX_UNKILLABLE = 16
#: Commands that are being started at once; the others wait. One that hangs keeps its place.
_STARTS = 64
#: A start takes milliseconds. One that takes longer than this, in seconds, is logged.
_SLOW_START_S = 2.0


class ProcessNotStarted(Exception):
    """A command could not be started: missing, not executable, or too many processes.

    Args:
        path: the program.
        reason: why it could not be started, in a few words.
    """

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = path
        self.reason = reason


class ProcessRunner(Protocol):
    """Runs commands: the system's processes, or a fake on a fake clock."""

    @property
    def reaper_restarts(self) -> int:
        """How often the reaper was gone and another was started."""
        ...

    async def run(
        self,
        argv: Sequence[str],
        *,
        max_output: int = 4096,
        env: Mapping[str, str] | None = None,
        on_output: Callable[[bytes], None] | None = None,
        side: SidePipe | None = None,
    ) -> ProcessResult:
        """Run a command to its end.

        Args:
            argv: the program and its arguments; no shell is involved.
            max_output: how many bytes of each output to keep.
            env: variables beside the daemon's, or in their place.
            on_output: is called with each piece of standard output as it arrives; must not block.
            side: another pipe that the command may write to.

        Raises:
            ProcessNotStarted: the command could not be started.

        Cancellation ends the command and its children before this returns.
        """
        ...


class SystemProcesses:
    """Runs the system's processes; use it with ``async with``, which owns the reaper.

    The reaper starts with the first command and exits with the block. If the reaper dies in
    between, that is logged and the next command starts another one.

    Args:
        grace_s: seconds between TERM and KILL when a command is cancelled, at least 0.
    """

    def __init__(self, *, grace_s: float = 1.0) -> None:
        self._grace_s = grace_s
        self._reaper = ReaperLink()
        self._unkillable: list[Child] = []
        #: Starts that didn't end although their process was killed.
        self._hung: list[Start] = []
        self._starts = trio.Semaphore(_STARTS)

    @property
    def reaper_restarts(self) -> int:
        """See :attr:`ProcessRunner.reaper_restarts`."""
        return self._reaper.restarts

    async def __aenter__(self) -> SystemProcesses:
        # An ignored SIGCHLD is inherited over exec. The kernel then discards exit statuses and
        # subprocess reports 0, which would turn a script's reject into consent.
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
        self,
        argv: Sequence[str],
        *,
        max_output: int = 4096,
        env: Mapping[str, str] | None = None,
        on_output: Callable[[bytes], None] | None = None,
        side: SidePipe | None = None,
    ) -> ProcessResult:
        """Run a command to its end, see :meth:`ProcessRunner.run`.

        A cancelled command has ``grace_s`` between TERM and KILL, which go to its whole session. A
        start that hangs in its exec is killed after that time.
        """
        self._reap_unkillable()
        if len(self._unkillable) + len(self._hung) >= _MAX_UNKILLABLE:
            raise ProcessNotStarted(
                argv[0], f"{_MAX_UNKILLABLE} earlier commands hang in the kernel"
            )
        await self._reaper.ensure()
        child = await self._begin(argv, max_output, env, side)
        child.stdout.on_output = on_output
        # No checkpoint from here to the try, so a started command can't be lost.
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(child.stdout.collect)
                nursery.start_soon(child.stderr.collect)
                if child.side is not None:
                    nursery.start_soon(child.side.collect)
                await child.exited()
                nursery.cancel_scope.cancel()
        except BaseException:
            with trio.CancelScope(shield=True):
                await self._end(child)
            raise
        # The exit may have been seen before the last output.
        child.stdout.drain()
        child.stderr.drain()
        return self._finish(child)

    async def _begin(
        self,
        argv: Sequence[str],
        max_output: int,
        env: Mapping[str, str] | None,
        side: SidePipe | None,
    ) -> Child:
        await self._starts.acquire()
        start = Start(partial(self._start, argv, max_output, env, side))
        try:
            start.begin(self._starts.release)
        except RuntimeError as error:
            self._starts.release()
            raise ProcessNotStarted(argv[0], str(error)) from error
        try:
            with trio.move_on_after(_SLOW_START_S):
                await start.done.wait()
            if not start.done.is_set():
                _log.error("%s: its file system does not answer", argv[0])
                if start.pid is not None:
                    self._reaper.add(start.pid)
                await start.done.wait()
        except trio.Cancelled:
            with trio.CancelScope(shield=True):
                await self._end_start(start, argv[0])
            raise
        return self._started(start)

    def _started(self, start: Start) -> Child:
        try:
            return start.child()
        except ProcessNotStarted:
            if start.pid is not None:
                self._reaper.discard(start.pid)
            raise

    async def _end_start(self, start: Start, path: str) -> None:
        """End a command that may hang in its exec; bounded in time. Call this within a shield."""
        with trio.move_on_after(self._grace_s):
            await start.done.wait()
        start.kill()
        with trio.move_on_after(_KILL_WAIT_S):
            await start.done.wait()
        if not start.done.is_set():
            _log.error("%s: its start does not end after KILL", path)
            self._hung.append(start)
            return
        with contextlib.suppress(ProcessNotStarted):
            await self._end(self._started(start))

    def _start(
        self,
        argv: Sequence[str],
        max_output: int,
        env: Mapping[str, str] | None,
        side: SidePipe | None,
        on_new: Callable[[ForkedPopen], None],
    ) -> Child:
        # In a thread, because Popen waits for the exec. Registered in the same thread, because the
        # event loop may be late.
        with self._reaper.starting(env) as environment, _opened(side, argv[0]) as ends:
            try:
                # Unblock all signals, because TERM must reach a script. Popen's restore_signals
                # resets SIGPIPE, which Python ignores.
                popen = spawn(
                    argv,
                    on_new=on_new,
                    blocked=(),
                    stdin=subprocess.DEVNULL,
                    output=subprocess.PIPE,
                    env={**environment, **ends.variables},
                    pass_fds=ends.passed,
                )
            except OSError as error:
                raise ProcessNotStarted(argv[0], _reason(error, argv[0])) from error
            self._reaper.add(popen.pid)
            side_capture = ends.take()
        assert popen.stdout is not None
        assert popen.stderr is not None
        return Child(
            argv[0],
            popen,
            open_pidfd(popen.pid),
            Capture(popen.stdout, max_output),
            Capture(popen.stderr, max_output),
            side_capture,
        )

    def _finish(self, child: Child) -> ProcessResult:
        # In this order: a session's number can't be reused until its leader is reaped, so the
        # reaper never has the number of another session.
        self._reaper.discard(child.pid)
        return child.reap()

    async def _end(self, child: Child) -> None:
        """Send TERM, wait, send KILL, reap; bounded in time. Call this within a shield.

        The leader is reaped last, because its zombie keeps the group's number from being reused: a
        signal to the group can't reach another process.
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
        # Also if no process was found: one may have forked between two looks.
        signal_groups(session | await _live_groups(session), signal.SIGKILL)
        with trio.move_on_after(_KILL_WAIT_S) as killed:
            await child.exited()
        if killed.cancelled_caught:
            _log.error("%s: process %d does not die after KILL", child.path, child.pid)
            child.close()
            self._unkillable.append(child)
        else:
            self._finish(child)

    def _reap_unkillable(self) -> None:
        for start in [start for start in self._hung if start.done.is_set()]:
            self._hung.remove(start)
            with contextlib.suppress(ProcessNotStarted):
                self._unkillable.append(self._started(start))
        dead = [child for child in self._unkillable if child.is_dead()]
        for child in dead:
            self._unkillable.remove(child)
            self._finish(child)


@contextlib.contextmanager
def _opened(side: SidePipe | None, path: str) -> Iterator[SideEnds]:
    with contextlib.ExitStack() as stack:
        try:
            ends = stack.enter_context(side_ends(side))
        except OSError as error:
            raise ProcessNotStarted(path, _reason(error, path)) from error
        yield ends


async def _live_groups(session: set[int]) -> set[int]:
    # In a thread, because /proc may be large.
    try:
        return await trio.to_thread.run_sync(live_groups, session)
    except RuntimeError:  # no more threads are allowed
        return live_groups(session)


def _reason(error: OSError, path: str) -> str:
    if error.errno == errno.ENOENT and os.path.exists(path):
        return "the interpreter named in its first line does not exist"
    if error.errno == errno.ENOEXEC:
        return "not a program, and no #! in its first line"
    if error.errno == errno.EAGAIN:
        return "no more processes are allowed (ulimit -u, TasksMax)"
    return error.strerror or str(error)
