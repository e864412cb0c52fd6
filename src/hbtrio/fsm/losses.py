"""Which instances of a host are heartbeating, and how many were when one of them failed.

A host tells of all that has changed before it reports any of it: when the first of a hundred losses
is reported, a hundred have ceased already. So that those that ceased within an interval still count
as heartbeating at that moment.
"""

from __future__ import annotations

import attrs

from hbtrio.fsm.brake import FORGET_S


@attrs.define
class Beating:
    """The instances of one host."""

    _beating: set[str] = attrs.field(factory=set, init=False)
    #: When those that ceased did.
    _ceased: dict[str, float] = attrs.field(factory=dict, init=False)

    def __len__(self) -> int:
        """How many are heartbeating."""
        return len(self._beating)

    def told(self, uuid: str, *, beating: bool, now: float) -> None:
        """An instance is heartbeating, or is not."""
        if beating:
            self._beating.add(uuid)
            self._ceased.pop(uuid, None)
        elif uuid in self._beating:
            self._beating.remove(uuid)
            self._ceased[uuid] = now

    def gone(self, uuid: str) -> None:
        """An instance is not on the host any more."""
        self._beating.discard(uuid)
        self._ceased.pop(uuid, None)

    def before(self, uuid: str, now: float, interval_s: float) -> int:
        """How many were heartbeating just before this one failed, itself included."""
        self._ceased = {one: at for one, at in self._ceased.items() if now - at <= FORGET_S}
        just_now = {one for one, at in self._ceased.items() if now - at <= interval_s}
        return len(self._beating | just_now | {uuid})
