"""Runs the guest's handler scripts and converts exit status and output to an answer.

The rules are PROTOCOL.md's: exit 0 accepts or succeeds, anything else rejects or fails, the first
line of standard output is the reason. A script that was killed or could not be run has not voted,
which counts as agreement; the cause is logged and is part of the outcome.
"""

from __future__ import annotations

import heapq
import logging
import os
import signal
import unicodedata
from collections.abc import Mapping, Sequence
from enum import Enum

import msgspec

from hbtrio.system.runner import ProcessNotStarted, ProcessRunner
from hbtrio.system.side_pipe import SidePipe

_log = logging.getLogger("hbtrio.scripts")

#: Scripts of one directory that are run, in parallel.
MAX_SCRIPTS = 64
#: Characters of a script's standard error that are logged.
_MAX_LOGGED = 200


class ScriptVerdict(Enum):
    """The meaning of how a script ended."""

    #: Exit status 0: accepts, succeeded or healthy.
    OK = "ok"
    #: Any other exit status: rejects, failed or unhealthy.
    REFUSED = "refused"
    #: Killed by a signal or could not be run: no vote, which counts as agreement.
    NO_ANSWER = "no-answer"


class ScriptAnswer(msgspec.Struct, frozen=True):
    """A script's verdict and reason.

    Args:
        verdict: how the script ended.
        reason: the first line of its standard output, stripped, without control characters; may be
            empty. For ``NO_ANSWER`` the cause, to follow the script's name: ``could not be run:
            Permission denied``. Its length is bounded by the runner only: the wire codec cuts it.
    """

    verdict: ScriptVerdict
    reason: str


async def run_script(
    runner: ProcessRunner,
    argv: Sequence[str],
    side: SidePipe | None = None,
    env: Mapping[str, str] | None = None,
) -> ScriptAnswer:
    """Run a handler script and read its answer; it may write to ``side``, too.

    ``env`` has variables for it, beside the daemon's or in their place.

    The first line of standard error is logged with the path. A script that cannot be run is logged
    as an error and results in ``NO_ANSWER``. Cancellation ends the script.
    """
    path = argv[0]
    try:
        result = await runner.run(argv, side=side, env=env)
    except ProcessNotStarted as error:
        _log.error("script %s cannot be run: %s", error.path, error.reason)
        return ScriptAnswer(ScriptVerdict.NO_ANSWER, f"could not be run: {error.reason}")
    stderr = _first_line(result.stderr)
    if stderr:
        _log.warning("script %s: stderr: %s", path, stderr[:_MAX_LOGGED])
    if result.signal is not None:
        cause = f"was killed by signal {_signal_name(result.signal)}"
        _log.error("script %s %s", path, cause)
        return ScriptAnswer(ScriptVerdict.NO_ANSWER, cause)
    verdict = ScriptVerdict.OK if result.exit_code == 0 else ScriptVerdict.REFUSED
    return ScriptAnswer(verdict, _first_line(result.stdout))


def executables(path: str) -> list[str]:
    """List the scripts that a configured path stands for at present.

    A directory stands for its executable regular files, sorted by name, without hidden files and
    editors' backups, at most 64. Any other path is a script itself, even if not executable, so that
    running it reports the error. A missing path or a directory without a script is logged as an
    error, and the list is empty.
    """
    if not os.path.isdir(path):
        if os.path.lexists(path):
            return [path]
        _log.error("script %s does not exist", path)
        return []
    try:
        with os.scandir(path) as entries:
            # Only the smallest names are kept, to bound memory for a directory of a million files.
            names = heapq.nsmallest(
                MAX_SCRIPTS + 1, (entry.name for entry in entries if _is_script(entry))
            )
    except OSError as error:
        _log.error("script directory %s cannot be read: %s", path, error.strerror)
        return []
    if not names:
        _log.error("script directory %s has no executable file", path)
    if len(names) > MAX_SCRIPTS:
        left_out = names.pop()
        _log.error(
            "script directory %s has more than %d scripts: those from %s on are ignored",
            path,
            MAX_SCRIPTS,
            left_out,
        )
    return [os.path.join(path, name) for name in names]


def _is_script(entry: os.DirEntry[str]) -> bool:
    if entry.name.startswith(".") or entry.name.endswith("~"):
        return False
    return entry.is_file() and os.access(entry.path, os.X_OK)


def _first_line(output: bytes) -> str:
    line = output.partition(b"\n")[0].decode("utf-8", errors="replace")
    # Category Cc is the C0 and C1 controls and DEL, which must not reach a log or the wire.
    return "".join(" " if unicodedata.category(c) == "Cc" else c for c in line).strip()


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return str(number)  # a real-time signal has no name
