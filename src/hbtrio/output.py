"""Standard output, whose faults are a user's to mend: a full disk, a closed descriptor."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator

from hbtrio.errors import ExitStatus, UserError, os_reason


def write_out(text: str) -> None:
    """Writes a text at once; blocks for as long as its reader does not read.

    Raises:
        UserError: FAILED, it is closed or takes no more.
        BrokenPipeError: its reader has gone.
    """
    with writing_out():
        sys.stdout.write(text)
        sys.stdout.flush()


@contextlib.contextmanager
def writing_out() -> Iterator[None]:
    """Where standard output is written to otherwise; raises what :func:`write_out` does."""
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
    """Sends what is left unwritten nowhere: the interpreter's exit would fail on it once more."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
