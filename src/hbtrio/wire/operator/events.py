"""Lines about what happened: a host's events, an agent's, and the pages of an agent's history."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from msgspec import Meta, field

from hbtrio.wire.operator.words import (
    Body,
    CorrectiveWord,
    Count,
    EventWord,
    ResultWord,
    StreamLine,
    Text,
    Time,
)

_Note = Annotated[
    str,
    Meta(
        description="What the host revealed after the requester was told the outcome. On the "
        "events stream, such a line repeats an earlier one."
    ),
]
_State = Annotated[
    str, Meta(description="libvirt's state and reason when it was asked: running: booted.")
]
_Outcome = Annotated[
    str,
    Meta(
        description="How a corrective command ended.",
        extra_json_schema={
            "enum": ["done", "failed", "not-started", "timed-out", "ended", "dry-run"]
        },
    ),
]
_Cause = Annotated[
    str,
    Meta(
        description="Why nothing was done; a newer host may have other words.",
        extra_json_schema={
            "enum": [
                "hold",
                "limit",
                "brake",
                "owner",
                "paused",
                "libvirt-silent",
                "confirm",
                "busy",
                "down",
                "policy",
                "unsure",
                "group",
            ]
        },
    ),
]
_Alarm = Annotated[bool, Meta(description="Somebody has to see to it.")]
_Who = Annotated[str, Meta(description="Who asked: vim, or an operator as far as known.")]


class EventLine(StreamLine, frozen=True, kw_only=True, omit_defaults=True):
    """An event of a host: a loss, the outcome of a vote, and so on.

    ``reason`` is always there. The ``kind`` lost says that this reader was too slow, and ends the
    stream.
    """

    time: Time = ""
    kind: str
    uuid: str = ""
    # The value of a factory is never left out, not even when it is empty.
    reason: Text = field(default_factory=str)
    name: Text = ""
    event: EventWord = ""
    result: ResultWord = ""
    corrective_action: CorrectiveWord = ""
    command_id: str = ""
    state: _State = ""
    outcome: _Outcome = ""
    cause: _Cause = ""
    alarm: _Alarm = False
    who: _Who = ""

    #: A host's events do not name it, and have no notes.
    hostname: ClassVar[str] = ""
    note: ClassVar[str] = ""


class FleetEventLine(StreamLine, frozen=True, kw_only=True, omit_defaults=True):
    """An event of an agent's fleet, or an entry of its history.

    ``reason`` is always there, ``id`` in the history only. The ``kind`` lost says that this reader
    was too slow, and ends the stream.
    """

    id: Count | None = None
    time: Time = ""
    kind: str
    uuid: str = ""
    hostname: str = ""
    event: EventWord = ""
    result: ResultWord = ""
    corrective_action: CorrectiveWord = ""
    who: _Who = ""
    asked_at: Time = ""
    reason: Text = field(default_factory=str)
    note: _Note = ""

    #: An agent's events name their instances by uuid alone.
    name: ClassVar[str] = ""


#: An event of whichever daemon was asked.
AnyEventLine = EventLine | FleetEventLine


class History(Body, frozen=True, kw_only=True):
    """A page of an agent's history, the newest entry first."""

    history: tuple[FleetEventLine, ...]
    before: Annotated[
        int | None, Meta(description="Where the next page begins; null at the end.")
    ] = None


class WholeHistory(Body, frozen=True, kw_only=True):
    """The same page, with all that the agent sent."""

    history: tuple[dict[str, Any], ...]
    before: int | None = None
