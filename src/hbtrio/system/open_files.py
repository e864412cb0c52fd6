"""Raises the limit of open files: a daemon needs a descriptor per connection."""

from __future__ import annotations

import resource


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
