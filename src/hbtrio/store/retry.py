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

Called = Callable[[], Awaitable[object]]


async def retry_forever(step: Callable[[], Awaitable[T]], called: Called | None = None) -> T:
    """Retries a store operation until it succeeds or is cancelled.

    It is tried again when the store works again, and before that in turn with all others that wait
    for the store, see :mod:`hbtrio.store.recovery`. Its fault is logged after 1, 2, 4 s and so on,
    up to every 60 s.

    Args:
        step: the operation.
        called: returns once another task leaves its own turn to this operation.
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
            if called is None:
                await fault.recovery.wait()
            else:
                await _first(fault.recovery.wait, called)


async def _first(*waits: Called) -> None:
    async with trio.open_nursery() as nursery:

        async def until(wait: Called) -> None:
            await wait()
            nursery.cancel_scope.cancel()

        for wait in waits:
            nursery.start_soon(until, wait)
