"""The signals of this process, and the wall clock that it sees."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator
from contextlib import AbstractContextManager
from datetime import UTC, datetime

import trio


def receive_signals() -> AbstractContextManager[AsyncIterator[int]]:
    """Receives SIGTERM, SIGINT and SIGHUP as long as the block runs."""
    return trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def local_time() -> datetime:
    """Returns the present time with its zone."""
    return datetime.now(UTC).astimezone()
