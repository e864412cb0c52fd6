"""What a user may be told when hbtrio can't go on: a line and an exit status, no traceback."""

from __future__ import annotations

import os
from enum import IntEnum


class ExitStatus(IntEnum):
    """Exit statuses of every ``hbtrio`` command; docs/exit-statuses.md is the reader's copy."""

    DONE = 0
    #: The lab differed from what it expected, or an outcome that is not a success.
    FAILED = 1
    #: A fault in the command line or in a configuration file.
    USAGE = 2
    #: The vote was rejected: nothing was done to the instance.
    REJECTED = 3
    #: The command of an action failed or ran out of time.
    COMMAND_FAILED = 4
    #: The daemon to talk to could not be reached, or went away in the middle.
    UNREACHABLE = 5
    #: The guest's device does not exist. 6 is what the deployed client uses, so that systemd's
    #: ``RestartPreventExitStatus=6`` reads it as "this VM has no heartbeat".
    NOT_CONFIGURED = 6
    #: Another process already serves that socket or holds that device.
    IN_USE = 7
    #: The permissions of a file, a socket or a directory forbid it.
    DENIED = 8
    #: A programming error: the traceback is in the log. sysexits' EX_SOFTWARE.
    INTERNAL = 70


class UserError(Exception):
    """A fault that the user can mend.

    Args:
        text: one line naming the place and the fault: ``host.toml: brake.share: not a number``.
        status: how the process exits for it.
    """

    def __init__(self, text: str, status: ExitStatus = ExitStatus.USAGE) -> None:
        super().__init__(text)
        self.status = status


class ConfigError(UserError):
    """Faults in a configuration, all of them at once.

    Args:
        faults: one line each, with the file and the line or path; at least one.
        status: how the process exits for it.
    """

    def __init__(self, faults: list[str], status: ExitStatus = ExitStatus.USAGE) -> None:
        super().__init__("\n".join(faults), status)
        self.faults = faults


def os_reason(error: OSError) -> str:
    """The operating system's words for an error, in lower case and without its path."""
    if error.errno is None:  # such as "AF_UNIX path too long", which has only a text
        return str(error)
    return os.strerror(error.errno).lower()
