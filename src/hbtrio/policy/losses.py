"""Counts the heartbeating instances of a host, and how many there were when one of them failed.

A host sends all state changes before it reports any loss. When the first of a hundred losses is
reported, all hundred instances have stopped heartbeating already. Instances that stopped within the
last interval therefore still count. So do instances that are new to the agent: they may have been
heartbeating while the agent had no link.
"""

from __future__ import annotations

from collections.abc import Collection

import attrs


@attrs.define
class HeartbeatingInstances:
    """Tracks which instances of one host are heartbeating. Times are on the caller's clock."""

    _heartbeating: set[str] = attrs.field(factory=set, init=False)
    #: When each of the others was first seen not heartbeating.
    _stopped: dict[str, float] = attrs.field(factory=dict, init=False)

    def __len__(self) -> int:
        """Returns how many instances are heartbeating."""
        return len(self._heartbeating)

    def update(self, uuid: str, *, heartbeating: bool, now: float) -> None:
        """Records whether an instance is heartbeating."""
        if heartbeating:
            self._heartbeating.add(uuid)
            self._stopped.pop(uuid, None)
        elif uuid not in self._stopped:
            self._heartbeating.discard(uuid)
            self._stopped[uuid] = now

    def remove(self, uuid: str) -> None:
        """Removes an instance that has left the host."""
        self._heartbeating.discard(uuid)
        self._stopped.pop(uuid, None)

    def keep_only(self, uuids: Collection[str]) -> None:
        """Removes all instances but these."""
        self._heartbeating.intersection_update(uuids)
        self._stopped = {one: at for one, at in self._stopped.items() if one in uuids}

    def count_before(self, uuid: str, now: float, interval_s: float) -> int:
        """Counts the instances that were heartbeating just before this one failed, included.

        Args:
            uuid: the instance that failed.
            now: the time of the failure.
            interval_s: its heartbeat interval, in seconds.
        """
        just_stopped = {one for one, at in self._stopped.items() if now - at <= interval_s}
        return len(self._heartbeating | just_stopped | {uuid})
