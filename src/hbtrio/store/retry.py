"""Steps that must be taken, however long the disk makes them wait."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import TypeVar

import trio

from hbtrio.policy.backoff import Backoff
from hbtrio.store.worker import StoreFault

_log = logging.getLogger("hbtrio.store")

T = TypeVar("T")


async def retry_forever(step: Callable[[], Awaitable[T]]) -> T:
    """Repeats a step of the store, with growing pauses, until it succeeds or is cancelled."""
    backoff = Backoff()
    while True:
        try:
            return await step()
        except StoreFault as fault:
            delay_s = backoff.next_delay_s()
            _log.error("store: %s; trying again in %g s", fault, delay_s)
            await trio.sleep(delay_s)
