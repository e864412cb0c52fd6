"""Looks for the event scripts of a path without waiting for a file system that hangs."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Final

from hbtrio.nursery.guest.scripts import executables

_log = logging.getLogger("hbtrio.scripts")

#: How long looking for the scripts may take, in seconds: the heartbeat waits for it.
_LOOK_S: Final = 0.25

#: Makes, for a path, what returns the paths of its scripts; see :class:`ScriptSearch`.
Search = Callable[[str], Callable[[], list[str]]]


class ScriptSearch:
    """Looks for the scripts of a path in a thread.

    Args:
        path: a file or a directory.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        #: It has not ended on a file system that hangs.
        self._looking: threading.Thread | None = None

    def __call__(self) -> list[str]:
        """Returns the paths of the scripts, see :func:`executables`; takes at most 0.25 s."""
        # A dead file server never answers: the heartbeat would stop, and TERM would go unheard. So
        # the path itself then counts as the script, and its exec hangs until the window ends.
        found: list[str] = []

        def look() -> None:
            found.extend(executables(self._path))

        if self._looking is None or not self._looking.is_alive():
            looking = threading.Thread(target=look, name="scripts", daemon=True)
            try:
                looking.start()
            except RuntimeError:  # no more threads are allowed
                look()
                return found
            looking.join(_LOOK_S)
            if not looking.is_alive():
                return found
            self._looking = looking
        _log.error("script %s: its file system does not answer", self._path)
        return [self._path]
