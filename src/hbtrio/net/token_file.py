"""Reads bearer tokens from files, for the agent and ``hbtrio ctl``."""

from __future__ import annotations

import os
import re
import stat
from typing import Final

from hbtrio.errors import ExitStatus, UserError, os_reason
from hbtrio.text import printable

#: The syntax of a bearer token (RFC 6750, 2.1), with a length that can't be guessed.
_TOKEN: Final = re.compile(r"[A-Za-z0-9._~+/-]{16,1024}=*", re.ASCII)

_LARGEST: Final = 2048


def read_token(path: str, where: str) -> str:
    """Reads a token from a file, without surrounding white space.

    Args:
        path: the file.
        where: the place in the configuration or the command line, for faults.

    Raises:
        UserError: DENIED if the file can't be read, or is accessible to more than its owner and,
            for reading, its group; USAGE if the file doesn't exist or doesn't contain a token.
    """
    shown = f"{where}: {printable(path)}"
    try:
        with open(path, "rb", opener=_without_waiting) as file:
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode):
                raise UserError(f"{shown}: not a regular file")
            # Write access to the file decides who is admitted.
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
    # Otherwise opening a FIFO without a writer would block.
    return os.open(path, flags | os.O_NONBLOCK)


def checked_token(text: str, place: str) -> str:
    """Returns a token without surrounding white space.

    Raises:
        UserError: the text is not a token (status USAGE).
    """
    token = text.strip()
    if not _TOKEN.fullmatch(token):
        raise UserError(f"{place}: not a token: expected 16 to 1024 of A-Z a-z 0-9 . _ ~ + / -")
    return token
