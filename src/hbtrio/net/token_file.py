"""The operators' bearer token in its file: read by the agent, and by ``hbtrio ctl`` to send it."""

from __future__ import annotations

import os
import re
import stat
from typing import Final

from hbtrio.config.source import printable
from hbtrio.errors import ExitStatus, UserError, os_reason

#: What a bearer token may be (RFC 6750, 2.1), and long enough not to be guessed.
_TOKEN: Final = re.compile(r"[A-Za-z0-9._~+/-]{16,1024}=*", re.ASCII)

_LARGEST: Final = 2048


def read_token(path: str, where: str) -> str:
    """The token in a file, without the white space around it.

    Args:
        path: the file.
        where: the place in the configuration or the command line, for faults.

    Raises:
        UserError: DENIED, others than its owner and group can get at it, or we can't; USAGE, there
            is no such file, or no token in it.
    """
    shown = f"{where}: {printable(path)}"
    try:
        with open(path, "rb", opener=_without_waiting) as file:
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode):
                raise UserError(f"{shown}: not a regular file")
            # Whoever can write to it decides who is admitted.
            if found.st_mode & (stat.S_IRWXO | stat.S_IWGRP):
                mode = stat.S_IMODE(found.st_mode)
                raise UserError(f"{shown}: open to others, mode {mode:04o}", ExitStatus.DENIED)
            text = file.read(_LARGEST + 1)
    except (OSError, ValueError) as error:
        status = ExitStatus.DENIED if isinstance(error, PermissionError) else ExitStatus.USAGE
        reason = os_reason(error) if isinstance(error, OSError) else "not a path"
        raise UserError(f"{shown}: {reason}", status) from error
    return checked_token(text.decode("ascii", "replace"), shown)


def _without_waiting(path: str, flags: int) -> int:
    # A FIFO without a writer would be waited for.
    return os.open(path, flags | os.O_NONBLOCK)


def checked_token(text: str, place: str) -> str:
    """A token without the white space around it.

    Raises:
        UserError: USAGE, it can't be one.
    """
    token = text.strip()
    if not _TOKEN.fullmatch(token):
        raise UserError(f"{place}: no token: 16 to 1024 of A-Z a-z 0-9 . _ ~ + / -")
    return token
