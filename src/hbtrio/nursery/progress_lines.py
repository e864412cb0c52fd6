"""Keeps the progress lines of an action and streams them from the first one to any watcher.

The action owns the lines, not its watchers: the action runs the same with a late watcher or none.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncGenerator
from typing import Final

from hbtrio.nursery.wakeup import WakeUp
from hbtrio.wire.operator import ProgressLine

#: Progress lines kept for late watchers; a whole action has about a dozen.
LINES: Final = 64


class ProgressLines:
    """The lines of one action."""

    def __init__(self) -> None:
        self._lines: deque[ProgressLine] = deque(maxlen=LINES)
        self._wakeup = WakeUp()
        self._closed = False

    def add(self, line: ProgressLine) -> None:
        """Adds a line and wakes the watchers."""
        self._lines.append(line)
        self._wakeup.set()

    def close(self) -> None:
        """Ends :meth:`watch` for every watcher, after the last line."""
        self._closed = True
        self._wakeup.set()

    async def watch(self) -> AsyncGenerator[ProgressLine | None]:
        """Yields each line from the first one; ends after :meth:`close`."""
        seen = 0
        while True:
            for line in tuple(self._lines)[seen:]:
                seen += 1
                yield line
            # Lines may have been added while the consumer handled the last one.
            if seen >= len(self._lines):
                if self._closed:
                    return
                await self._wakeup.wait()
