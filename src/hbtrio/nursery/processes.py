"""Running commands: the output is bounded, the end is certain, and nothing is left behind.

Three promises, and what each one costs:

- *A command is never blocked by us and never blocks us.* Its output is kept up to a bound and
  drained beyond it; its standard input is empty; once it has exited we take what is in its pipes
  and return, though a background child of it may hold them open for days.
- *A cancelled command is gone when the cancellation is done.* TERM to all of it, KILL after a
  grace, reaped. This holds for its children too, also where it died first and left them.
- *A killed daemon leaves no command running.* The keeper sees to that: see ``keeper.py``.

A command that ends by itself keeps its background children: a handler may well start a service, the
deployed C client left them alone too, and the exit status is the whole answer. (They lose their
standard output: it was our pipe.)

Every command leads a new session, not merely a new process group. Without a terminal it cannot wait
at ``/dev/tty`` for a password, nor be stopped for writing there when an operator runs the daemon in
the foreground; and the session is what still names the groups that ``timeout(1)`` and ``set -m``
make inside of a script.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from types import TracebackType
from typing import IO, Protocol

import attrs
import trio

from hbtrio.nursery import keeper
from hbtrio.nursery.keeper import live_groups, signal_groups

_log = logging.getLogger("hbtrio.processes")

#: How long a command may take to die of KILL, in seconds. Only one that hangs in the kernel (a dead
#: disk or file server) needs longer; it is then remembered and reaped later.
_KILL_WAIT_S = 2.0
#: So many that cannot be ended, and no further one is started: the next would hang just the same.
_MAX_UNKILLABLE = 16
#: How long the keeper may take to exit after an orderly shutdown, in seconds.
_KEEPER_WAIT_S = 2.0

#: The keeper must outlive what ends the daemon: Ctrl-C, a closing terminal, systemd's stop.
_KEEPER_BLOCKS = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM)


@attrs.frozen
class ProcessResult:
    """How a command ended and what it said.

    Args:
        exit_code: 0 to 255, or None if a signal ended it.
        signal: the number of that signal, else None.
        stdout: the first ``max_output`` bytes of its standard output.
        stderr: likewise of its standard error.
        truncated: one of the two was longer.
    """

    exit_code: int | None
    signal: int | None
    stdout: bytes
    stderr: bytes
    truncated: bool


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
    """The real runner; use it within ``async with``, which owns the keeper.

    The keeper is started with the first command and exits with the block. Should it die in between,
    that is logged, and the next command starts another one.

    Args:
        grace_s: seconds between TERM and KILL when a command is cancelled, at least 0.
    """

    def __init__(self, *, grace_s: float = 1.0) -> None:
        self._grace_s = grace_s
        self._keeper = _Keeper()
        self._unkillable: list[_Child] = []

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
        with trio.CancelScope(shield=True):
            await self._keeper.close()

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
        await self._keeper.ensure()
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

    def _start(self, argv: Sequence[str], max_output: int, env: Mapping[str, str] | None) -> _Child:
        # In a thread: Popen waits for the exec. Registered in the same breath, not back on the
        # event loop, which may be late: what is not registered yet survives a kill -9.
        try:
            # No signal is blocked, whatever the daemon blocks: TERM must reach a script. That
            # SIGPIPE is not ignored, as Python has it, is Popen's restore_signals.
            popen = _spawn(
                argv, blocked=(), stdin=subprocess.DEVNULL, output=subprocess.PIPE, env=env
            )
        except OSError as error:
            raise ProcessNotStarted(argv[0], _reason(error, argv[0])) from error
        self._keeper.add(popen.pid)
        assert popen.stdout is not None
        assert popen.stderr is not None
        return _Child(
            argv[0],
            popen,
            _open_pidfd(popen.pid),
            _Capture(popen.stdout, max_output),
            _Capture(popen.stderr, max_output),
        )

    def _finish(self, child: _Child) -> ProcessResult:
        # In this order: as long as its leader is not reaped, a session's number is not used again,
        # so that the keeper never holds a number that may be someone else's.
        self._keeper.discard(child.pid)
        return child.reap()

    async def _end(self, child: _Child) -> None:
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


@attrs.define(eq=False)
class _Capture:
    """One output of a command: its first bytes kept, the rest drained."""

    _pipe: IO[bytes]
    _limit: int
    kept: bytearray = attrs.field(factory=bytearray, init=False)
    truncated: bool = attrs.field(default=False, init=False)

    def __attrs_post_init__(self) -> None:
        os.set_blocking(self._pipe.fileno(), False)

    async def collect(self) -> None:
        """Read until end of file; or until cancelled, nothing being lost."""
        more = True
        while more:
            await trio.lowlevel.wait_readable(self._pipe)
            more = self._read() != b""

    def drain(self) -> None:
        """Take what is in the pipe now; bounded, for a child left behind may go on writing."""
        while not self.truncated and self._read():
            pass

    def _read(self) -> bytes | None:
        """Read once: None if there is nothing now, no bytes at the end of file."""
        chunk = self._pipe.read(65536)
        if chunk:
            room = self._limit - len(self.kept)
            self.kept += chunk[:room]
            self.truncated = self.truncated or len(chunk) > room
        return chunk

    def close(self) -> None:
        self._pipe.close()


@attrs.define(eq=False)
class _Child:
    """A started command, and all descriptors that we hold for it."""

    path: str
    _popen: subprocess.Popen[bytes]
    _pidfd: int | None
    stdout: _Capture
    stderr: _Capture

    @property
    def pid(self) -> int:
        return self._popen.pid

    async def exited(self) -> None:
        """Wait until it has exited, without reaping it. Cancellation just stops the waiting."""
        if self._pidfd is not None:
            await trio.lowlevel.wait_readable(self._pidfd)
        else:
            wait = partial(os.waitid, os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)
            await trio.to_thread.run_sync(wait, abandon_on_cancel=True)

    def is_dead(self) -> bool:
        """Say whether it has exited and can be reaped."""
        options = os.WEXITED | os.WNOWAIT | os.WNOHANG
        return os.waitid(os.P_PID, self.pid, options) is not None

    def reap(self) -> ProcessResult:
        """Take its status. It must have exited."""
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
        self.stdout.close()
        self.stderr.close()
        if self._pidfd is not None:
            os.close(self._pidfd)
            self._pidfd = None


class _Keeper:
    """The daemon's end of the keeper: see ``keeper.py``.

    ``add`` is called in the threads that start commands, hence the lock. It is only ever held for a
    write that does not block.
    """

    def __init__(self) -> None:
        self._starting = trio.Lock()
        self._lock = threading.Lock()
        self._sessions: set[int] = set()
        self._process: subprocess.Popen[bytes] | None = None
        self._pipe: int | None = None
        self._start_failed = False

    async def ensure(self) -> None:
        """Start the keeper unless it lives. If it cannot be started, commands run without."""
        async with self._starting:
            if (
                self._process is not None
                and self._process.poll() is None
                and self._pipe is not None
            ):
                return
            with self._lock:
                self._lose()
            await trio.to_thread.run_sync(self._start)

    def add(self, session: int) -> None:
        with self._lock:
            self._sessions.add(session)
            self._tell(f"+{session}\n")

    def discard(self, session: int) -> None:
        with self._lock:
            self._sessions.discard(session)
            self._tell(f"-{session}\n")

    async def close(self) -> None:
        """Let the keeper exit, and reap it."""
        with self._lock:
            self._close_pipe()
        if self._process is not None:
            await trio.to_thread.run_sync(_reap_keeper, self._process, _KEEPER_WAIT_S)
            self._process = None

    def _start(self) -> None:
        if self._process is not None:
            _reap_keeper(self._process, 0.0)
            self._process = None
        try:
            process, pipe = _spawn_keeper()
        except OSError as error:
            if not self._start_failed:
                _log.error("no keeper, so scripts would outlive a killed daemon: %s", error)
            self._start_failed = True
            return
        self._start_failed = False
        with self._lock:
            self._process = process
            self._pipe = pipe
            for session in self._sessions:
                self._tell(f"+{session}\n")

    def _tell(self, line: str) -> None:
        if self._pipe is not None:
            try:
                os.write(self._pipe, line.encode("ascii"))
            except (BrokenPipeError, BlockingIOError):
                self._lose()

    def _lose(self) -> None:
        if self._pipe is not None:
            assert self._process is not None
            # Before the pipe is closed: one that merely hangs would take that for our death, and
            # end the scripts that are running.
            self._process.kill()
            self._close_pipe()
            _log.warning(
                "the keeper (process %d) is gone; the next command starts another",
                self._process.pid,
            )

    def _close_pipe(self) -> None:
        if self._pipe is not None:
            os.close(self._pipe)
            self._pipe = None


def _spawn_keeper() -> tuple[subprocess.Popen[bytes], int]:
    """Start the keeper: its process, and the write end of its pipe."""
    reading, writing = os.pipe()  # neither end is inherited over exec: no script holds the pipe
    try:
        os.set_blocking(writing, False)  # a keeper that was stopped must not stop the daemon
        argv = [sys.executable, "-I", "-S", keeper.__file__]
        process = _spawn(
            argv, blocked=_KEEPER_BLOCKS, stdin=reading, output=subprocess.DEVNULL, cwd="/"
        )
    except OSError:
        os.close(writing)
        raise
    finally:
        os.close(reading)
    return process, writing


def _reap_keeper(process: subprocess.Popen[bytes], patience_s: float) -> None:
    try:
        process.wait(patience_s)
    except subprocess.TimeoutExpired:
        process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_KILL_WAIT_S)


async def _live_groups(session: set[int]) -> set[int]:
    # In a thread: on a large system there is a lot in /proc.
    return await trio.to_thread.run_sync(live_groups, session)


def _spawn(
    argv: Sequence[str],
    *,
    blocked: Iterable[signal.Signals],
    stdin: int,
    output: int,
    cwd: str | None = None,
    env: Mapping[str, str] | None = None,
) -> subprocess.Popen[bytes]:
    """Start a process in a session of its own; in a thread, whose signal mask it inherits."""
    before = signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
    try:
        return subprocess.Popen(
            argv,
            bufsize=0,
            stdin=stdin,
            stdout=output,
            stderr=output,
            cwd=cwd,
            env=env,
            start_new_session=True,
        )
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _open_pidfd(pid: int) -> int | None:
    try:
        return os.pidfd_open(pid)
    except (AttributeError, OSError):
        # A kernel before 5.3, a Python that was built on one, or no descriptor left: see
        # _Child.exited.
        return None


def _reason(error: OSError, path: str) -> str:
    if error.errno == errno.ENOENT and os.path.exists(path):
        return "the interpreter named in its first line does not exist"
    if error.errno == errno.ENOEXEC:
        return "not a program, and no #! in its first line"
    return error.strerror or str(error)
