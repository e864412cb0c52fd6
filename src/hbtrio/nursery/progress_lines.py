"""Lines of progress that anybody may watch from the first one on, while they are being made.

They are kept by whatever makes them and not by its watchers: one that comes late, or none at all,
changes nothing.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncGenerator
from typing import Final

from hbtrio.nursery.wakeup import WakeUp
from hbtrio.wire.operator import ProgressLine

#: Progress lines kept for whoever looks later; a whole action has about a dozen.
LINES: Final = 64


class ProgressLines:
    """The lines of one action."""

    def __init__(self) -> None:
        self._lines: deque[ProgressLine] = deque(maxlen=LINES)
        self._wakeup = WakeUp()
        self._closed = False

    def say(self, line: ProgressLine) -> None:
        """Adds a line."""
        self._lines.append(line)
        self._wakeup.set()

    def close(self) -> None:
        """Nothing more will be said; those who watch are let go."""
        self._closed = True
        self._wakeup.set()

    async def watch(self) -> AsyncGenerator[ProgressLine | None]:
        """Yields each line, from the first; ends when they are closed."""
        seen = 0
        while True:
            for line in tuple(self._lines)[seen:]:
                seen += 1
                yield line
            # Lines may have come while this one's consumer had the last.
            if seen >= len(self._lines):
                if self._closed:
                    return
                await self._wakeup.wait()
