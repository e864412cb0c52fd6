"""File descriptors: a daemon has one for each of those that it serves."""

from __future__ import annotations

import resource


def allow_descriptors(enough: int | None = None) -> None:
    """Raises the soft limit of open files, which is often 1024, to the hard one.

    Args:
        enough: stop there. Programs that the process starts inherit the limit, and old ones among
            them close every descriptor up to it.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if enough is None:
        wanted = hard
    elif soft == resource.RLIM_INFINITY or soft >= enough:
        return
    else:
        wanted = enough if hard == resource.RLIM_INFINITY else min(enough, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
