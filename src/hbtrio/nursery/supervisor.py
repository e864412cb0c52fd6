"""A child that fails is restarted alone: logged with its traceback, counted, after a backoff.

Faults of the world (a connection that breaks, a file that is missing) are handled where they happen
and never get here. What does get here is a programming error, and it must neither be swallowed nor
take the neighbours down.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

import trio

from hbtrio.policy.backoff import Backoff

_log = logging.getLogger("hbtrio.supervision")

#: A child that ran this long before it failed starts over without the delays of its past.
_HEALTHY_S = 300.0


class Supervisor:
    """Runs children and counts their failures."""

    def __init__(self) -> None:
        #: How often any child has failed, for status and metrics.
        self.crashes = 0

    async def keep(self, name: str, child: Callable[[], Awaitable[None]]) -> None:
        """Runs ``child`` until it returns, again and again for as long as it raises.

        Args:
            name: what it is, for the log.
            child: its cancellation passes through.
        """
        backoff = Backoff()
        while True:
            started = trio.current_time()
            try:
                await child()
            except Exception:  # noqa: BLE001 - this is the boundary where programming errors end
                self.crashes += 1
                _log.exception("%s failed and will be restarted", name)
            else:
                return
            if trio.current_time() - started > _HEALTHY_S:
                backoff.reset()
            await trio.sleep(backoff.next_delay_s())
