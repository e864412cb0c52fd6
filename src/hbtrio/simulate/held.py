"""What a simulated process has of its kernel."""

from __future__ import annotations

from typing import Protocol

from hbtrio.simulate.observations import Resource


class Held(Protocol):
    """What a process has of its kernel."""

    @property
    def resource(self) -> Resource | None:
        """What that is; None if it was given to the process, and is not its own to give back."""

    def released(self) -> None:
        """Called when the process has died."""
