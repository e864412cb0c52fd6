"""What ends the daemons of a scene if the scene's own process is killed.

The lab ends what it started, as long as it can; after ``kill -9`` it can't. The reaper that daemons
have for their scripts does it then: see :mod:`hbtrio.system.reaper` for how it works.
"""

from __future__ import annotations

import os
import subprocess
import sys
from types import TracebackType
from typing import Final

from hbtrio.system import reaper as reaper

#: How long the reaper may take to exit when nothing is left to be kept, in seconds.
_EXIT_S: Final = 2.0


class Lifeline:
    """A reaper process and the pipe that ties it to this one; use it within ``with``."""

    def __enter__(self) -> Lifeline:
        reading, self._pipe = os.pipe()
        try:
            # A session of its own: Ctrl-C would otherwise end it when it is needed most.
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", reaper.__file__],
                stdin=reading,
                cwd="/",
                start_new_session=True,
            )
        finally:
            os.close(reading)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        os.close(self._pipe)
        try:
            self._process.wait(_EXIT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def add(self, session: int) -> None:
        """A daemon leads this session."""
        os.write(self._pipe, f"+{session}\n".encode())

    def discard(self, session: int) -> None:
        """It has ended."""
        os.write(self._pipe, f"-{session}\n".encode())
