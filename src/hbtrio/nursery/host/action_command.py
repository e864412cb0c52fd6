"""Runs the command of one action, within its time."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Final

import attrs
import trio

from hbtrio.nursery.windows import within
from hbtrio.policy.time_guard import OnTimeGuard
from hbtrio.system.runner import ProcessNotStarted, ProcessRunner

#: Bytes of a command's output, at most, in its progress line.
_OUTPUT_BYTES: Final = 2048


@attrs.frozen
class CommandEnd:
    """How a command has ended.

    Args:
        fault: why it failed; "" if it succeeded.
        output: what it printed, for its progress line.
    """

    fault: str
    output: str = ""


async def run_command(
    argv: Sequence[str], processes: ProcessRunner, timeout_s: float, guard: OnTimeGuard
) -> CommandEnd:
    """Runs a command to its end, or terminates it once its time is over.

    Cancelled, it terminates the command.

    Args:
        argv: the command.
        processes: runs it.
        timeout_s: how long it may take, in seconds.
        guard: the process's on-time guard.
    """
    run = partial(processes.run, argv, max_output=_OUTPUT_BYTES)
    try:
        result = await within(timeout_s, guard, run)
    except trio.TooSlowError:
        return CommandEnd(f"timed out after {timeout_s:g} s")
    except ProcessNotStarted as error:
        return CommandEnd(f"{error.path}: {error.reason}")
    fault = "" if result.exit_code == 0 else f"exit status {result.exit_code}"
    if result.signal is not None:
        fault = f"killed by signal {result.signal}"
    output = (result.stdout + result.stderr).decode("utf-8", "replace").strip()
    return CommandEnd(fault, output)
