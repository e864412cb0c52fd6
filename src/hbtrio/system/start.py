"""Starts a command in a thread, which may hang: an exec from a dead file system never returns.

The process exists from the fork on, so it can be killed and registered with the reaper while the
thread still waits for the exec.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from contextlib import suppress

import trio

from hbtrio.system.child import Child, ForkedPopen


class Start:
    """The start of one command.

    Args:
        start: starts it, called in a thread with what has to be called with the new ``Popen``.
    """

    def __init__(self, start: Callable[[Callable[[ForkedPopen], None]], Child]) -> None:
        #: Set once the command runs, or failed to start.
        self.done = trio.Event()
        self._start = start
        self._popen: ForkedPopen | None = None
        self._child: Child | None = None
        self._fault: BaseException | None = None

    def begin(self, on_done: Callable[[], None]) -> None:
        """Starts the thread, which nobody waits for at the end of the process.

        Args:
            on_done: called with :attr:`done`.

        Raises:
            RuntimeError: no more threads are allowed.
        """
        token = trio.lowlevel.current_trio_token()

        def tell() -> None:
            self.done.set()
            on_done()

        def deliver(_: object) -> None:
            with suppress(trio.RunFinishedError):
                token.run_sync_soon(tell)

        trio.lowlevel.start_thread_soon(self._run, deliver)

    @property
    def pid(self) -> int | None:
        """The process; None before the fork."""
        return None if self._popen is None else self._popen.pid

    def child(self) -> Child:
        """Returns the running command, once :attr:`done` is set.

        Raises:
            ProcessNotStarted: it could not be started.
        """
        if self._fault is not None:
            raise self._fault
        assert self._child is not None
        return self._child

    def kill(self) -> None:
        """Kills the process that hangs in its exec, if there is one."""
        if self.pid is not None and not self.done.is_set():
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)

    def _run(self) -> None:
        try:
            self._child = self._start(self._note)
        except BaseException as fault:  # noqa: BLE001 - raised by child()
            self._fault = fault

    def _note(self, popen: ForkedPopen) -> None:
        self._popen = popen
