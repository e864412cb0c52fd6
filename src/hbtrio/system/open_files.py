"""The limit of open files: raises it, and keeps the last descriptors for what must always work.

A daemon needs a descriptor for each peer: a channel, a link, an application. If peers could take
all of them, no operator could ask why, no command could be started and no log be opened again. So
peers are refused while descriptors are still left. Linux gives out the lowest free number, so a
descriptor's own number tells how many are open: nothing has to be counted.
"""

from __future__ import annotations

import contextlib
import os
import resource
from collections.abc import Iterator
from typing import Final

#: Descriptors that peers don't get; with a limit below twice that, half of the limit.
RESERVED: Final = 256


def allow_descriptors(enough: int | None = None) -> None:
    """Raises the soft limit of open files, often 1024, to the hard limit.

    Args:
        enough: don't go beyond this. Child processes inherit the limit, and old programs close
            every descriptor up to it.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if enough is None:
        wanted = hard
    elif soft == resource.RLIM_INFINITY or soft >= enough:
        return
    else:
        wanted = enough if hard == resource.RLIM_INFINITY else min(enough, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def is_reserved(fd: int) -> bool:
    """Returns whether a new descriptor is one of the last, which no peer gets."""
    limit = _limit()
    return limit != resource.RLIM_INFINITY and fd >= limit - min(RESERVED, limit // 2)


def limit_text() -> str:
    """Names the limit, which may be changed while the process runs (``prlimit``)."""
    return f"the limit of open files (ulimit -n, LimitNOFILE) is {_limit()}"


def _limit() -> int:
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


class SpareDescriptor:
    """A descriptor that is given up to accept, and refuse, one connection when there is no other.

    Otherwise the client would wait in the backlog, and the listener be readable all the time.
    """

    def __init__(self) -> None:
        self._fd: int | None = None
        self._open()

    @contextlib.contextmanager
    def lent(self) -> Iterator[None]:
        """Leaves the descriptor to the block, which has closed it at its end."""
        self.close()
        try:
            yield
        finally:
            self._open()

    def close(self) -> None:
        """Gives it up; safe to call twice."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def _open(self) -> None:
        with contextlib.suppress(OSError):
            self._fd = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
