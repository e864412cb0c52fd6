"""Sends all logging of a process to its target while a block runs."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from hbtrio.errors import ExitStatus, UserError, os_reason
from hbtrio.log.journal import JOURNAL, Journal, is_standard_error
from hbtrio.log.limits import LineLimits
from hbtrio.log.lines import JsonLines, Lines, TextLines
from hbtrio.log.queue import LogQueue, note
from hbtrio.log.subject import NOBODY, Subject
from hbtrio.log.targets import LogTarget, StandardError, Syslog, syslog_fault

#: The syslog daemon's socket.
_DEV_LOG: Final = "/dev/log"

#: How long the queued records may take to be written at the end, in seconds.
_FLUSH_S: Final = 0.5


@contextmanager
def logging_to(
    target: str,
    *,
    ident: str,
    log_format: str = "text",
    level: str = "info",
    prefix: str = "",
    limits: LineLimits | None = None,
    own: Subject = NOBODY,
) -> Iterator[LogQueue]:
    """Sends all logging of the process to ``target`` while the block runs.

    Args:
        target: "stderr", or "syslog" (facility daemon, through /dev/log). What goes to standard
            error as text is sent to the journal with fields, if systemd reads standard error.
        ident: the name of the program in syslog, in the journal and in JSON.
        log_format: "text", or "json": an object on each line.
        level: debug, info, warning or error.
        prefix: text before each message that is text, for operators who search for it.
        limits: which lines are logged; by default, those of a daemon with many peers.
        own: whom lines are about that name nobody else: the host, or the VM that a guest runs in.

    Leaving the block writes the queued records, for up to 0.5 s; a writer that is still blocked
    then doesn't keep the process from ending. While syslog or the journal can't be reached,
    records go to standard error.

    Raises:
        UserError: FAILED; no thread can be started.
    """
    is_json = log_format == "json"
    lines: Lines = JsonLines(ident, own) if is_json else TextLines(prefix)
    output: LogTarget = StandardError(lines)
    fault = ""
    if target == "syslog":
        fault = syslog_fault(_DEV_LOG)
        output = Syslog(_DEV_LOG, ident, lines, instead=output)
    elif not is_json and is_standard_error(os.environ):
        output = Journal(JOURNAL, ident, lines, own, instead=output)
    records = LogQueue(limits or LineLimits())
    writer = threading.Thread(target=_write, args=(records, output), name="log", daemon=True)
    try:
        writer.start()
    except RuntimeError as error:
        raise UserError(f"log: {error}", ExitStatus.FAILED) from error
    root = logging.getLogger()
    handlers, before = root.handlers[:], root.level
    root.handlers[:] = [records]
    root.setLevel(level.upper())
    # Log only the problems of libraries.
    for name in ("httpx", "httpcore"):
        logging.getLogger(name).setLevel(logging.WARNING)
    if fault:
        logging.getLogger("hbtrio.log").error("syslog: %s; logging to standard error", fault)
    try:
        yield records
    finally:
        root.handlers[:] = handlers
        root.setLevel(before)
        records.shed(False)  # so that what was dropped is counted in the end
        records.end()
        # Don't wait longer for a stalled reader: the thread is a daemon thread.
        writer.join(_FLUSH_S)
        if not writer.is_alive():
            output.close()


def _write(records: LogQueue, output: LogTarget) -> None:
    lost, reason = 0, ""
    while (record := records.next()) is not None:
        try:
            if lost:
                output.write(note(f"{lost} log records could not be written: {reason}"))
                lost = 0
            output.write(record)
        except OSError as error:
            reason = os_reason(error)
        except Exception as error:  # noqa: BLE001 - one record must not end the log
            reason = repr(error)
        else:
            continue
        lost += 1
        records.lines_unwritten += 1
