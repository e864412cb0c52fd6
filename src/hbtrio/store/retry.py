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
    """Retries a store operation until it succeeds or is cancelled.

    It is tried again when the store works again, and before that in turn with all others that wait
    for the store, see :mod:`hbtrio.store.recovery`. Its fault is logged after 1, 2, 4 s and so on,
    up to every 60 s.
    """
    backoff, logged_again_at = Backoff(), trio.current_time()
    while True:
        try:
            return await step()
        except StoreFault as fault:
            now = trio.current_time()
            if now >= logged_again_at:
                _log.error("store: %s; trying again until it works", fault)
                logged_again_at = now + backoff.next_delay_s()
            await fault.recovery.wait()
