"""What ends the benchmark early, each with an exit status of its own."""

from __future__ import annotations

from typing import Final

#: Exit statuses: a beat of a healthy guest was missed; a measured process failed; a farm died. 2 is
#: the command line's.
MISSED: Final = 1
FARM_DIED: Final = 3
FAILED: Final = 4


class BenchFailed(Exception):
    """A measured process failed, or the machine does not bear what is to be measured."""
