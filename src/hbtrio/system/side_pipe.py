"""A pipe beside its outputs, on which a command says something while it runs."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import msgspec

from hbtrio.system.child import Capture


class SidePipe(msgspec.Struct, frozen=True):
    """A pipe that a command may write to.

    Args:
        variable: names the pipe's descriptor in the environment of the command.
        on_data: called with each piece of data as it arrives; must not block.
    """

    variable: str
    on_data: Callable[[bytes], None]


class SideEnds:
    """The ends of a side pipe while its command is started; without a pipe there are none.

    Args:
        side: the pipe.
        reading: the end that is read.
        writing: the end of the command.
    """

    def __init__(self, side: SidePipe | None = None, reading: int = -1, writing: int = -1) -> None:
        self._side = side
        self._reading = reading
        #: The descriptors that the command inherits, under the same numbers.
        self.passed = () if side is None else (writing,)
        #: The variables to start the command with.
        self.variables = {} if side is None else {side.variable: str(writing)}

    def take(self) -> Capture | None:
        """Returns what reads the pipe, and closes it; None without a pipe. Called once at most."""
        if self._side is None:
            return None
        capture = Capture(os.fdopen(self._reading, "rb", buffering=0), 0)
        self._reading = -1
        capture.on_output = self._side.on_data
        return capture

    def close(self) -> None:
        """Closes what was not taken, and the command's end, of which it has a copy."""
        for descriptor in (*self.passed, *([] if self._reading < 0 else [self._reading])):
            os.close(descriptor)


@contextmanager
def side_ends(side: SidePipe | None) -> Iterator[SideEnds]:
    """Opens a side pipe for the start of a command within the block.

    Raises:
        OSError: no more files may be open.
    """
    ends = SideEnds() if side is None else SideEnds(side, *os.pipe())
    try:
        yield ends
    finally:
        ends.close()
