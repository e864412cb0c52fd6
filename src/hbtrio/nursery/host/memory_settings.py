"""Holds what a host's memory needs from outside."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

import attrs

from hbtrio.store.host_records import Moment
from hbtrio.store.host_store import HostStore
from hbtrio.system.file_identity import creation_of


@attrs.frozen(kw_only=True)
class MemorySettings:
    """What a memory needs from outside.

    Args:
        open_store: opens the store; None if there is no state directory.
        moment: returns the present moment.
        path: the store's file, for messages; "" if there is none.
        history_days: for how long the history is kept.
        socket_of: identifies the socket at a path as a file; "" if none is there.
    """

    open_store: Callable[[], AbstractAsyncContextManager[HostStore]] | None
    moment: Callable[[], Moment]
    path: str = ""
    history_days: float = 30.0
    socket_of: Callable[[str], str] = creation_of
