"""Writes to standard output and turns its faults (a full disk, a closed file) into UserError."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator

from hbtrio.errors import ExitStatus, UserError, os_reason


def write_out(text: str) -> None:
    """Writes and flushes a text; blocks while the reader does not read.

    Raises:
        UserError: standard output is closed or can't be written (status FAILED).
        BrokenPipeError: the reader has closed the pipe.
    """
    with writing_out():
        sys.stdout.write(text)
        sys.stdout.flush()


@contextlib.contextmanager
def writing_out() -> Iterator[None]:
    """Wraps other writes to standard output; raises the errors of :func:`write_out`."""
    if sys.stdout is None:
        raise UserError("standard output: closed", ExitStatus.FAILED)
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        discard_output()
        raise UserError(f"standard output: {os_reason(error)}", ExitStatus.FAILED) from error


def discard_output() -> None:
    """Redirects standard output to /dev/null, because the flush at exit would fail again."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
