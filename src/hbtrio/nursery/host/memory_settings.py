"""Holds what a host's memory needs from outside."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Final

import attrs

from hbtrio.store.host_records import Moment
from hbtrio.store.host_store import HostStore


@attrs.frozen(kw_only=True)
class MemorySettings:
    """What a memory needs from outside.

    Args:
        open_store: opens the store; None if there is no state directory.
        moment: returns the present moment.
        socket_of: identifies the socket at a path as a file; "" if none is there.
        path: the store's file, for messages; "" if there is none.
        history_days: for how long the history is kept.
    """

    open_store: Callable[[], AbstractAsyncContextManager[HostStore]] | None
    moment: Callable[[], Moment]
    socket_of: Callable[[str], str]
    path: str = ""
    history_days: float = 30.0


#: Of a memory without a state directory.
NOWHERE: Final = MemorySettings(
    open_store=None, moment=lambda: Moment("", 0.0, 0.0), socket_of=lambda _: ""
)
