"""Restarts a failed child task alone: logs its traceback, counts it, and backs off.

Environment faults (a broken connection, a missing file) are handled where they happen and never get
here. An exception that does get here is a programming error. It must be neither swallowed nor
allowed to stop the other children.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

import trio

from hbtrio.policy.backoff import Backoff

_log = logging.getLogger("hbtrio.supervision")

#: A child that ran this many seconds before it failed restarts with the shortest delay again.
_HEALTHY_S = 300.0


class Supervisor:
    """Runs child tasks and counts their failures."""

    def __init__(self) -> None:
        #: How often any child has failed, for status and metrics.
        self.crashes = 0
        #: How often one was started again.
        self.restarts = 0

    def count_crash(self) -> None:
        """Counts the failure of what isn't restarted: an action, a connection, an API's request."""
        self.crashes += 1

    async def keep(self, name: str, child: Callable[[], Awaitable[None]]) -> None:
        """Runs ``child`` until it returns, and restarts it each time it raises.

        Args:
            name: the child, for the log.
            child: what to run. Cancellation is passed on to it and not counted as a failure.
        """
        backoff = Backoff()
        while True:
            started = trio.current_time()
            try:
                await child()
            except Exception:  # noqa: BLE001 - this is the boundary where programming errors end
                self.count_crash()
                # Word by word: an instance's uuid is an argument by itself, and gets its name.
                words = name.split()
                heads = " ".join(["%s"] * len(words))
                _log.exception(f"{heads} failed and will be restarted", *words)
            else:
                return
            if trio.current_time() - started > _HEALTHY_S:
                backoff.reset()
            await trio.sleep(backoff.next_delay_s())
            self.restarts += 1
