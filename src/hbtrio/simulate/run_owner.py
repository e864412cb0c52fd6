"""Says where a run that is stepped by hand stands still."""

from __future__ import annotations

from typing import Protocol


class Owner(Protocol):
    """Whoever steps a run, and says where it is to stand still.

    Asked within the run, see :meth:`~hbtrio.simulate.trio_internals.SteppedRun.step`: to leave it
    and come back costs as much as a short task step.
    """

    def pauses_before(self, task_name: str) -> bool:
        """Whether the run stands still before a task step, or takes it now."""

    def pauses_after_pass(self) -> bool:
        """Whether the run stands still where trio would wait for I/O, or begins the next pass."""


class Everywhere:
    """The owner of a run that stands still wherever it can."""

    def pauses_before(self, task_name: str) -> bool:
        """Always."""
        return True

    def pauses_after_pass(self) -> bool:
        """Always."""
        return True
