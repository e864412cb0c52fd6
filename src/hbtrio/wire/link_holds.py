"""The message of the link about a hold on an instance, which host and agent tell each other."""

from __future__ import annotations

from typing import Annotated, ClassVar, Final

import attrs
import msgspec

#: The most characters of who set a hold; and of its reason.
MAX_WHO: Final = 255
MAX_HOLD_REASON: Final = 2000

_Word = Annotated[str, msgspec.Meta(max_length=MAX_WHO)]
_Reason = Annotated[str, msgspec.Meta(max_length=MAX_HOLD_REASON)]
_Number = Annotated[int, msgspec.Meta(ge=0, le=2**53)]
#: Seconds since the epoch, up to the year 9999.
_WallClock = Annotated[float, msgspec.Meta(ge=0, le=253_402_300_799)]
#: As long as a hold may be.
_Left = Annotated[float, msgspec.Meta(ge=-604_800, le=604_800)]


@attrs.frozen
class HoldWord:
    """Either: the last word about an instance that is on hold, or was.

    See :class:`~hbtrio.policy.instance_hold.InstanceHold`. ``since_s`` and ``until_s`` are by the
    wall clock of the end at which it was set. ``left_s`` is what is left of it now, negative once
    it is over. A host sends all it knows before the snapshot, then each word of its operators; an
    agent sends the word about an instance when the host reports the instance, and when it changes.
    """

    TYPE: ClassVar[str] = "hold"
    uuid: _Word
    number: _Number
    since_s: _WallClock
    until_s: _WallClock
    left_s: _Left
    who: _Word
    reason: _Reason
    is_ended: bool = False
