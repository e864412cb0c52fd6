"""Retries store operations that must not fail."""

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
    """Retries a store operation, with delays of 1 to 60 s, until it succeeds or is cancelled."""
    backoff = Backoff()
    while True:
        try:
            return await step()
        except StoreFault as fault:
            delay_s = backoff.next_delay_s()
            _log.error("store: %s; retrying in %g s", fault, delay_s)
            await trio.sleep(delay_s)
