"""The messages of the link by which the agent looks at what changes with every heartbeat."""

from __future__ import annotations

from typing import Annotated, ClassVar

import attrs
import msgspec

_Name = Annotated[str, msgspec.Meta(max_length=255)]
_Number = Annotated[int, msgspec.Meta(ge=0, le=2**53)]
_Milliseconds = Annotated[float, msgspec.Meta(ge=0, le=2**53)]


@attrs.frozen
class Seen:
    """Host: the answer to a :class:`Look`.

    The counts are since the host has had the instance's channel. ``round_trip_ms`` is the time from
    the last challenge to its answer; None before the first. ``not_acted`` says why no corrective
    command runs for a failed instance at present. ``known``: whether there is such an instance.
    """

    TYPE: ClassVar[str] = "seen"
    uuid: _Name
    known: bool
    beats: _Number = 0
    missed: _Number = 0
    late_answers: _Number = 0
    round_trip_ms: _Milliseconds | None = None
    not_acted: Annotated[str, msgspec.Meta(max_length=2000)] = ""


@attrs.frozen
class Look:
    """Agent: asks for a :class:`Seen` of an instance, for an operator who looks at it."""

    TYPE: ClassVar[str] = "look"
    uuid: _Name
