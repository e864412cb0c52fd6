"""Writes to standard error such that a reader that has stopped never keeps the process from ending.

``sys.stderr`` holds a lock while it writes, and so does a handler of :mod:`logging`. If the reader
stops, a thread waits inside the write with the lock, and the interpreter waits for the lock when it
exits: ``logging.shutdown()`` for good. So the bytes go straight to the descriptor.
"""

from __future__ import annotations

import contextlib
import io
import os
import select
import sys
import threading
from typing import TextIO


def write_stderr(stream: TextIO | None, text: str) -> None:
    """Writes all of a text; blocks while nobody reads.

    Args:
        stream: ``sys.stderr``; None if the process was started without one: nothing is written.
        text: what to write.

    Raises:
        OSError: it can't be written, for example on a full disk.
    """
    if stream is None:
        return  # descriptor 2 may be another file by now
    try:
        fd = stream.fileno()
    except (AttributeError, io.UnsupportedOperation):
        # Replaced by a stream of this process, as in tests.
        stream.write(text)
        stream.flush()
        return
    left = memoryview(text.encode(stream.encoding or "utf-8", "backslashreplace"))
    while left:
        try:
            left = left[os.write(fd, left) :]
        except BlockingIOError:
            # Another process that shares the terminal or pipe has made it non-blocking.
            poll = select.poll()
            poll.register(fd, select.POLLOUT)
            poll.poll()


def write_stderr_within(text: str, within_s: float) -> None:
    """Writes a text, but gives up after ``within_s`` seconds; ignores faults of the file."""

    def write() -> None:
        with contextlib.suppress(OSError):  # there is no other place to report it
            write_stderr(sys.stderr, text)

    # A daemon thread, because the interpreter doesn't wait for it.
    thread = threading.Thread(target=write, name="stderr", daemon=True)
    try:
        thread.start()
    except RuntimeError:  # no more threads are allowed
        write()
    else:
        thread.join(within_s)
