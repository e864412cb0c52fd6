"""Which instances of a host are heartbeating, and how many were when one of them failed.

A host tells of all that has changed before it reports any of it: when the first of a hundred losses
is reported, a hundred have ceased already. So that those that ceased within an interval still count
as heartbeating at that moment. So do those that were never heard of before: while nobody listened
they may have been, and what is reported of them now was not there to be counted.
"""

from __future__ import annotations

from collections.abc import Collection

import attrs


@attrs.define
class Beating:
    """The instances of one host."""

    _beating: set[str] = attrs.field(factory=set, init=False)
    #: Since when the others are known not to be.
    _ceased: dict[str, float] = attrs.field(factory=dict, init=False)

    def __len__(self) -> int:
        """How many are heartbeating."""
        return len(self._beating)

    def told(self, uuid: str, *, beating: bool, now: float) -> None:
        """An instance is heartbeating, or is not."""
        if beating:
            self._beating.add(uuid)
            self._ceased.pop(uuid, None)
        elif uuid not in self._ceased:
            self._beating.discard(uuid)
            self._ceased[uuid] = now

    def gone(self, uuid: str) -> None:
        """An instance is not on the host any more."""
        self._beating.discard(uuid)
        self._ceased.pop(uuid, None)

    def only(self, uuids: Collection[str]) -> None:
        """No other instance is on the host."""
        self._beating.intersection_update(uuids)
        self._ceased = {one: at for one, at in self._ceased.items() if one in uuids}

    def before(self, uuid: str, now: float, interval_s: float) -> int:
        """How many were heartbeating just before this one failed, itself included."""
        just_now = {one for one, at in self._ceased.items() if now - at <= interval_s}
        return len(self._beating | just_now | {uuid})
