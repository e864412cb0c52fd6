"""Says why a connection failed, from whatever a library has raised."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Final

from hbtrio.net.tls import connection_reason

#: Exceptions that are looked at below the first one.
_CHAIN: Final = 32


def os_text(error: BaseException) -> str:
    """Returns the text of the OSError in an exception's chain; "" if there is none."""
    for one in causes(error):
        if isinstance(one, OSError) and one.errno is not None:
            return connection_reason(one)
    return ""


def causes(error: BaseException) -> Iterator[BaseException]:
    """Yields an exception and those below it, at most ``_CHAIN``."""
    waiting: deque[BaseException | None] = deque([error])
    for _ in range(_CHAIN):
        if not waiting:
            return
        one = waiting.popleft()
        if one is not None:
            yield one
            waiting += [one.__cause__, one.__context__]
        if isinstance(one, BaseExceptionGroup):
            waiting += one.exceptions
