"""Handler scripts of the guest: what a script's end and output mean as an answer.

The rules are PROTOCOL.md's: exit 0 accepts or succeeds, anything else rejects or fails, the first
line of standard output is the reason. A script that was killed or could not be run has not voted,
which is agreement; the log says why.
"""

from __future__ import annotations

import heapq
import logging
import os
import signal
import unicodedata
from collections.abc import Sequence
from enum import Enum

import attrs

from hbtrio.system.runner import ProcessNotStarted, ProcessRunner

_log = logging.getLogger("hbtrio.scripts")

#: How many scripts one directory may hold; they run in parallel.
MAX_SCRIPTS = 64
#: How many characters of a script's complaint go to the log.
_MAX_LOGGED = 200


class ScriptVerdict(Enum):
    """What a script has said by the way it ended."""

    #: Exit 0: it accepts, succeeded, is healthy.
    OK = "ok"
    #: Any other exit status: it rejects, failed, is unhealthy.
    REFUSED = "refused"
    #: It was killed by a signal or could not be run: no vote, which is agreement.
    NO_ANSWER = "no-answer"


@attrs.frozen
class ScriptAnswer:
    """A script's verdict, and the reason it gave.

    Args:
        verdict: how it ended.
        reason: the first line of its standard output, without control characters and blanks around
            it; may be empty, and is as long as the runner's bound allows: the wire clips it.
    """

    verdict: ScriptVerdict
    reason: str


async def run_script(runner: ProcessRunner, argv: Sequence[str]) -> ScriptAnswer:
    """Run a handler script and read its answer.

    The first line of its standard error is logged under its path. Nothing is raised for a script
    that cannot be run: that is ``NO_ANSWER`` and an error in the log. Cancellation ends the script.
    """
    path = argv[0]
    try:
        result = await runner.run(argv)
    except ProcessNotStarted as error:
        _log.error("script %s cannot be run: %s", error.path, error.reason)
        return ScriptAnswer(ScriptVerdict.NO_ANSWER, "")
    complaint = _first_line(result.stderr)
    if complaint:
        _log.warning("script %s says: %s", path, complaint[:_MAX_LOGGED])
    reason = _first_line(result.stdout)
    if result.signal is not None:
        _log.error("script %s was killed by signal %s", path, _signal_name(result.signal))
        return ScriptAnswer(ScriptVerdict.NO_ANSWER, reason)
    verdict = ScriptVerdict.OK if result.exit_code == 0 else ScriptVerdict.REFUSED
    return ScriptAnswer(verdict, reason)


def executables(path: str) -> list[str]:
    """List the scripts that a configured path stands for, as they are at this moment.

    A directory stands for its executable regular files, sorted by name, without hidden files and
    editors' backups, and no more than 64. Anything else stands for itself, executable or not:
    running it will tell. Nothing there, or nothing in it, is an error in the log and an empty list.
    """
    if not os.path.isdir(path):
        if os.path.lexists(path):
            return [path]
        _log.error("script %s does not exist", path)
        return []
    try:
        with os.scandir(path) as entries:
            # The smallest names only: so also a directory of a million files is bounded.
            names = heapq.nsmallest(
                MAX_SCRIPTS + 1, (entry.name for entry in entries if _is_script(entry))
            )
    except OSError as error:
        _log.error("script directory %s cannot be read: %s", path, error.strerror)
        return []
    if not names:
        _log.error("script directory %s holds no executable file", path)
    if len(names) > MAX_SCRIPTS:
        left_out = names.pop()
        _log.error(
            "script directory %s holds more than %d scripts: left out from %s on",
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
    # Cc is the C0 and C1 controls and DEL: nothing of it belongs in a log or on the wire.
    return "".join(" " if unicodedata.category(c) == "Cc" else c for c in line).strip()


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return str(number)  # a real-time signal has no name
