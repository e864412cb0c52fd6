"""What host and agent provide to drains: where their actions run, and where they are stored."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from hbtrio.fsm.drain import Turn
from hbtrio.fsm.drain_records import DrainPlace, DrainRecord, StoredDrain


class Blocked(Exception):
    """The action must not begin now."""


class Skipped(Exception):
    """The action is not to begin at all."""


class Gone(Exception):
    """The instance has left, as the drain wants it to."""


class DrainSite(Protocol):
    """Where the actions of a drain run, and where it is stored."""

    def now(self) -> float:
        """The time by a clock that goes on while the daemon is restarted, in seconds."""

    def epoch_s(self) -> float:
        """The time in seconds since the epoch."""

    async def ask(self, record: DrainRecord, uuid: str) -> str:
        """Asks a guest, for information alone, and returns its answer in words."""

    async def ready(self, drain: str, uuid: str) -> None:
        """Waits until it is known how an instance is, within a bound."""

    async def begin(self, record: DrainRecord, turn: Turn) -> None:
        """Begins the action on an instance, and returns without waiting for its end.

        Raises:
            Blocked, Skipped, Gone: nothing was begun.
        """

    def call_off(self, drain: str, uuid: str, reason: str) -> None:
        """Ends a drain's action on an instance if its command has not begun."""

    async def put(self, drain: StoredDrain) -> None:
        """Stores a drain that begins."""

    def keep(self, record: DrainRecord) -> None:
        """Stores a drain that has changed, soon."""

    def keep_place(self, place: DrainPlace) -> None:
        """Stores an instance of a drain that has changed, soon."""

    def present(self, hostname: str) -> Mapping[str, str]:
        """Returns the names of the instances that are on a host now, by uuid."""
