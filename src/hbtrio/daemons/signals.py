"""The signals of a daemon: SIGHUP is handled, any other one ends it."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractContextManager

#: Receives SIGTERM, SIGINT and SIGHUP as long as the block runs.
Signals = Callable[[], AbstractContextManager[AsyncIterator[int]]]


async def until_term(
    signals: AsyncIterator[int], hang_up: Callable[[], Awaitable[None]] | None = None
) -> None:
    """Waits for a signal that ends the daemon.

    Args:
        signals: the signals as they arrive.
        hang_up: called at each SIGHUP, whose default would end the daemon.
    """
    async for number in signals:
        if number != signal.SIGHUP:
            return
        if hang_up is not None:
            await hang_up()
