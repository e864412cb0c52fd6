"""Errors that end a command with one line and an exit status, without a traceback."""

from __future__ import annotations

import os
from enum import IntEnum
from typing import Final

#: What a user is told of a unix socket that accepts nobody now (EAGAIN of connect(2)).
BACKLOG_FULL: Final = "its backlog is full: other clients are waiting to connect"


class ExitStatus(IntEnum):
    """The exit statuses of all ``hbtrio`` commands, as listed in docs/exit-statuses.md."""

    DONE = 0
    #: The lab found a difference, or the result of a command is not a success.
    FAILED = 1
    #: The command line or a configuration file is faulty.
    USAGE = 2
    #: The vote was rejected; nothing was done to the instance.
    REJECTED = 3
    #: The command of an action failed or timed out.
    COMMAND_FAILED = 4
    #: The daemon can't be reached, or the connection to it was lost.
    UNREACHABLE = 5
    #: The guest's device doesn't exist. As with the deployed client, status 6 and systemd's
    #: ``RestartPreventExitStatus=6`` mean that this VM has no heartbeat.
    NOT_CONFIGURED = 6
    #: Another process serves the socket or holds the device.
    IN_USE = 7
    #: The permissions of a file, a socket or a directory deny access.
    DENIED = 8
    #: A package that the command needs is not installed: ``pip install 'hbtrio[host]'``.
    MISSING_PACKAGE = 9
    #: ``hbtrio inhibit`` did not start its command, because nothing would inhibit for it. The next
    #: two are its command's, too: can't be executed, not found. The numbers are those of env(1).
    NOT_INHIBITED = 125
    NOT_EXECUTABLE = 126
    NOT_FOUND = 127
    #: A drain has ended, and some instances were skipped.
    INCOMPLETE = 10
    #: A drain was cancelled or aborted.
    ABORTED = 11
    #: Another agent has taken over the database, or may do so; start anew.
    FENCED = 12
    #: A programming error; the traceback is in the log. sysexits' EX_SOFTWARE.
    INTERNAL = 70


class UserError(Exception):
    """A fault that the user can correct.

    Args:
        text: one line with the place and the fault: ``host.toml:9: brake.share: not a number``.
        status: the exit status of the process.
    """

    def __init__(self, text: str, status: ExitStatus = ExitStatus.USAGE) -> None:
        super().__init__(text)
        self.status = status


class ConfigError(UserError):
    """All faults of a configuration.

    Args:
        faults: at least one line, each with the file and the line or path.
        status: the exit status of the process.
    """

    def __init__(self, faults: list[str], status: ExitStatus = ExitStatus.USAGE) -> None:
        super().__init__("\n".join(faults), status)
        self.faults = faults


def os_reason(error: OSError) -> str:
    """Returns the operating system's text for an error, in lower case and without the path."""
    if error.errno is None:  # for example "AF_UNIX path too long", which has only a text
        return str(error)
    return os.strerror(error.errno).lower()


def is_thread_shortage(error: RuntimeError) -> bool:
    """Returns whether no thread could be started, because the system allows no more of them.

    Python has no exception of its own for that.
    """
    return str(error) == "can't start new thread"
