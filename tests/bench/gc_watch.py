"""Notes how long the garbage collector's full collections take."""

from __future__ import annotations

import gc
import time


class FullCollections:
    """Notes them from when it is made."""

    def __init__(self) -> None:
        self._taken_s: list[float] = []
        self._began = 0.0
        gc.callbacks.append(self._note)

    def taken(self) -> list[float]:
        """How many seconds each took since this was last called."""
        taken, self._taken_s = self._taken_s, []
        return taken

    def _note(self, phase: str, info: dict[str, int]) -> None:
        if info["generation"] == 2:
            if phase == "start":
                self._began = time.perf_counter()
            else:
                self._taken_s.append(time.perf_counter() - self._began)
