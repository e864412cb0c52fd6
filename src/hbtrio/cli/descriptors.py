"""File descriptors: a daemon has one for each of those that it serves."""

from __future__ import annotations

import resource


def allow_descriptors() -> None:
    """Raises the soft limit of open files, which is often 1024, to the hard one."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
