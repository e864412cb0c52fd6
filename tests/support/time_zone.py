"""The zone of the test's process, which is what `hbtrio ctl` shows moments in."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def time_zone(zone: str) -> Iterator[None]:
    """Another zone for a while, as TZ names it: ``IST-5:30`` is 5 and a half hours before UTC."""
    before = os.environ.get("TZ")
    _set(zone)
    try:
        yield
    finally:
        _set(before)


def _set(zone: str | None) -> None:
    if zone is None:
        del os.environ["TZ"]
    else:
        os.environ["TZ"] = zone
    time.tzset()
