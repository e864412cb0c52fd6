"""Queues the reporting states that a host has not been told yet."""

from __future__ import annotations

from typing import Final

from hbtrio.wire.link_messages import Reporting

#: States that are sent together; a change meanwhile comes behind them.
_AT_ONCE: Final = 32


class ReportingStates:
    """The newest states of instances, and of the host itself as "", in the order they changed."""

    def __init__(self) -> None:
        self._queued: dict[str, tuple[bool, ...]] = {}

    def __len__(self) -> int:
        """Returns of how many a state is queued."""
        return len(self._queued)

    def put(self, uuid: str, *, enabled: bool) -> None:
        """Queues a state.

        It replaces a queued one, but a change to enabled never gets lost: it means that the VM runs
        again.
        """
        cycles = enabled and self._queued.get(uuid, ())[:1] == (False,)
        self._queued[uuid] = (False, True) if cycles else (enabled,)

    def take(self) -> list[Reporting]:
        """Removes and returns the first of them; [] if none is queued."""
        states: list[Reporting] = []
        while self._queued and len(states) < _AT_ONCE:
            uuid = next(iter(self._queued))
            states += [Reporting(uuid, enabled) for enabled in self._queued.pop(uuid)]
        return states
