"""Starts the reaper (``reaper.py``) and registers sessions with it.

If this process is killed, the reaper ends the sessions: a daemon's scripts, or the lab's daemons.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator, Mapping

import trio

from hbtrio.log import LogOnce
from hbtrio.system import reaper
from hbtrio.system.child import spawn

_log = logging.getLogger("hbtrio.processes")

#: How long the reaper may take to exit after an orderly shutdown, in seconds.
_REAPER_WAIT_S = 2.0

#: How long it may take to die after KILL, in seconds.
_KILL_WAIT_S = 2.0

#: Seconds between two looks whether it has ended.
_LOOK_S = 0.01

#: The reaper must survive the signals that end the daemon: Ctrl-C, a closed terminal, systemd.
_REAPER_BLOCKS = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM)


class ReaperLink:
    """Controls the reaper: :meth:`ensure` starts it, :meth:`close` lets it exit.

    The threads that start commands call ``starting`` and ``add``, hence the lock. It is held only
    for writes that don't block.
    """

    def __init__(self) -> None:
        #: How often a reaper was started in the place of one that was gone.
        self.restarts = 0
        self._was_started = False
        self._starting = trio.Lock()
        self._lock = threading.Lock()
        self._sessions: set[int] = set()
        #: What is being started, each by a name that no other process uses.
        self._announced: set[str] = set()
        self._names = (f"{os.urandom(8).hex()}.{number}" for number in itertools.count())
        self._process: subprocess.Popen[bytes] | None = None
        self._pipe: int | None = None
        self._start_fault = LogOnce()
        self._closed = False

    async def ensure(self) -> None:
        """Starts the reaper unless it is running; logs a failure."""
        async with self._starting:
            if (
                self._process is not None
                and self._process.poll() is None
                and self._pipe is not None
            ):
                return
            with self._lock:
                self._closed = False
                self._lose()
            # Abandoned: the start may hang in its exec, as that of a script.
            try:
                await trio.to_thread.run_sync(self._start, abandon_on_cancel=True)
            except RuntimeError as error:  # no more threads are allowed
                self._log_fault(str(error))

    @contextlib.contextmanager
    def starting(self, env: Mapping[str, str] | None) -> Iterator[dict[str, str]]:
        """Announces a command, which is started and registered within the block.

        If this process is killed in between, the reaper finds the command by its environment.

        Args:
            env: variables beside those of this process, or in their place.

        Yields:
            the environment to start it with.
        """
        with self._lock:
            name = next(self._names)
            self._announced.add(name)
            self._send(f"?{name}\n")
        given = {**os.environ, **(env or {})}
        given.pop(reaper.COMMAND_VARIABLE, None)
        try:
            yield {reaper.COMMAND_VARIABLE: name, **given}
        finally:
            with self._lock:
                self._announced.discard(name)
                self._send(f"!{name}\n")

    def add(self, session: int) -> None:
        """Registers a session that the reaper ends if this process is killed."""
        with self._lock:
            self._sessions.add(session)
            self._send(f"+{session}\n")

    def discard(self, session: int) -> None:
        """Removes a session that has ended; call this before its leader is reaped."""
        with self._lock:
            self._sessions.discard(session)
            self._send(f"-{session}\n")

    async def close(self) -> None:
        """Lets the reaper exit and reaps it; not interrupted by cancellation."""
        with self._lock:
            self._closed = True
            self._close_pipe()
        if self._process is not None:
            with trio.CancelScope(shield=True):
                if not await _has_ended(self._process, _REAPER_WAIT_S):
                    self._process.kill()
                    await _has_ended(self._process, _KILL_WAIT_S)
            self._process = None

    def _start(self) -> None:
        if self._process is not None:
            _reap(self._process, 0.0)
            self._process = None
        try:
            process, pipe = _spawn_reaper()
        except OSError as error:
            self._log_fault(str(error))
            return
        self._start_fault.clear()
        with self._lock:
            if self._closed:
                os.close(pipe)
                return
            self._process = process
            self._pipe = pipe
            self.restarts += self._was_started
            self._was_started = True
            for name in self._announced:
                self._send(f"?{name}\n")
            for session in self._sessions:
                self._send(f"+{session}\n")

    def _log_fault(self, reason: str) -> None:
        if self._start_fault.is_new(reason):
            _log.error("no reaper, so scripts would outlive a killed daemon: %s", reason)

    def _send(self, line: str) -> None:
        if self._pipe is not None:
            try:
                os.write(self._pipe, line.encode("ascii"))
            except (BrokenPipeError, BlockingIOError):
                self._lose()

    def _lose(self) -> None:
        if self._pipe is not None:
            assert self._process is not None
            # Kill before closing the pipe: a reaper that only hangs would read end of file as the
            # daemon's death and end the running scripts.
            self._process.kill()
            self._close_pipe()
            _log.warning(
                "the reaper (process %d) is gone; the next command starts another",
                self._process.pid,
            )

    def _close_pipe(self) -> None:
        if self._pipe is not None:
            os.close(self._pipe)
            self._pipe = None


@contextlib.asynccontextmanager
async def open_reaper_link() -> AsyncIterator[ReaperLink]:
    """Runs the reaper while the block runs."""
    link = ReaperLink()
    await link.ensure()
    try:
        yield link
    finally:
        await link.close()


def _spawn_reaper() -> tuple[subprocess.Popen[bytes], int]:
    """Start the reaper; return its process and the write end of its pipe."""
    reading, writing = os.pipe()  # neither end is inherited over exec, so no script holds the pipe
    try:
        os.set_blocking(writing, False)  # a stopped reaper must not block the daemon
        argv = [sys.executable, "-I", "-S", reaper.__file__]
        process = spawn(
            argv, blocked=_REAPER_BLOCKS, stdin=reading, output=subprocess.DEVNULL, cwd="/"
        )
    except OSError:
        os.close(writing)
        raise
    finally:
        os.close(reading)
    return process, writing


async def _has_ended(process: subprocess.Popen[bytes], within_s: float) -> bool:
    """Reap a process; returns whether it has ended within that time."""
    # No thread, because there may be no more of them.
    with trio.move_on_after(within_s):
        while process.poll() is None:  # noqa: ASYNC110
            await trio.sleep(_LOOK_S)
    return process.returncode is not None


def _reap(process: subprocess.Popen[bytes], patience_s: float) -> None:
    try:
        process.wait(patience_s)
    except subprocess.TimeoutExpired:
        process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_KILL_WAIT_S)
