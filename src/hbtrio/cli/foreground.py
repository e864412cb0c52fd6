"""Runs a command in the foreground of this terminal, as env(1) would, and waits for it.

The command keeps standard input and output, the terminal, the working directory and all inherited
descriptors. It gets the signals that this process gets; those that a terminal sends (Ctrl-C), it
gets from the terminal, as it is in the same process group. It gets TERM if this process is killed.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final, NoReturn

import trio

#: The signals that are passed on.
PASSED_ON: Final = frozenset(
    {
        signal.SIGHUP,
        signal.SIGINT,
        signal.SIGQUIT,
        signal.SIGTERM,
        signal.SIGUSR1,
        signal.SIGUSR2,
    }
)

#: Those that a terminal sends to the whole process group.
_FROM_TERMINAL: Final = frozenset({signal.SIGINT, signal.SIGQUIT})

#: ``si_code`` of a signal that the kernel sent, such as for Ctrl-C.
_SI_KERNEL: Final = 128

#: prctl(2): the signal for this process when its parent ends.
_PR_SET_PDEATHSIG: Final = 1


@contextmanager
def holding_signals() -> Iterator[set[int]]:
    """Blocks :data:`PASSED_ON` until the end of the block; use it before any thread is started.

    What comes in the meantime is passed on by :func:`wait_passing_on`.

    Yields:
        The signals that were blocked before, for the command.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, PASSED_ON)
    try:
        yield {int(number) for number in before}
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def start_in_foreground(argv: Sequence[str], blocked: set[int]) -> subprocess.Popen[bytes]:
    """Starts a command; call it in the main thread, while no other thread runs.

    Args:
        argv: the program, looked for in PATH, and its arguments.
        blocked: the signals that it has blocked.

    Raises:
        OSError: it can't be started.
    """
    prctl, parent = ctypes.CDLL(None).prctl, os.getpid()

    def before_exec() -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM))
        if os.getppid() != parent:  # it was killed before
            os.kill(os.getpid(), signal.SIGTERM)

    # No thread runs that could hold a lock. A descriptor that was inherited is the command's, too.
    return subprocess.Popen(argv, close_fds=False, preexec_fn=before_exec)


async def wait_passing_on(command: subprocess.Popen[bytes]) -> int:
    """Waits for the end of a command and passes signals on; use it in :func:`holding_signals`.

    Returns:
        Its exit status, or 128 and the number of the signal that ended it.

    Cancelled, it waits on: a command is not left alone.
    """
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_pass_on, command)
        await trio.to_thread.run_sync(os.waitid, os.P_PID, command.pid, os.WEXITED | os.WNOWAIT)
        nursery.cancel_scope.cancel()
    status = command.wait()
    return status if status >= 0 else 128 - status


async def _pass_on(command: subprocess.Popen[bytes]) -> NoReturn:
    while True:
        came = await trio.to_thread.run_sync(signal.sigwaitinfo, PASSED_ON, abandon_on_cancel=True)
        if came.si_code != _SI_KERNEL or came.si_signo not in _FROM_TERMINAL:
            command.send_signal(came.si_signo)
