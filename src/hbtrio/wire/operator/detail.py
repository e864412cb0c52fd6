"""All about one instance: what its status leaves out, as it is of interest for one at a time."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from hbtrio.wire.operator.fleet import FleetInstanceLine
from hbtrio.wire.operator.host import InstanceLine, RoundEntry
from hbtrio.wire.operator.words import (
    Body,
    CorrectiveWord,
    Count,
    EventWord,
    Milliseconds,
    Text,
    Time,
    VoterAnswerWord,
    VoterHealthWord,
)

_Since = Annotated[
    Time | None,
    Meta(description="Since when it is in its state, as far as this process knows; null: unknown."),
]
_Action = Annotated[str, Meta(description="The operator's action in progress.")]


class NextLossLine(Body, frozen=True, kw_only=True):
    """What would follow if an instance were lost now, or asked for its corrective action."""

    reported: Annotated[bool, Meta(description="Whether a loss would be reported at all.")] = True
    action: Annotated[CorrectiveWord, Meta(description="What its guest asks for.")] = ""
    does: Annotated[
        str,
        Meta(
            description="command: the host runs one; dry-run: it would only report that; alarm: "
            "the agent sends one to the VIM; nothing: see why.",
            extra_json_schema={"enum": ["command", "dry-run", "alarm", "nothing"]},
        ),
    ]
    argv: Annotated[
        tuple[str, ...], Meta(description="The command; {uuid} stands for the instance's.")
    ] = ()
    asks: Annotated[
        tuple[str, ...], Meta(description="What is asked first, and may say no, in this order.")
    ] = ()
    cause: Annotated[str, Meta(description="As that of the event not-acted.")] = ""
    why: Annotated[str, Meta(description="Why nothing is done.")] = ""
    agent: Annotated[
        str, Meta(description="Of a host: the agent that is told of the loss, and may do more.")
    ] = ""


class CorrectiveLine(Body, frozen=True, kw_only=True):
    """The corrective commands of an instance."""

    used: Annotated[Count, Meta(description="Commands within the last hour that count.")] = 0
    per_hour: Count = 0
    next_at: Annotated[
        Time | None, Meta(description="When the limit allows the next one; null: now.")
    ] = None


class VoterRequestLine(Body, frozen=True, kw_only=True):
    """The last vote or notice that a voter received."""

    kind: Annotated[str, Meta(extra_json_schema={"enum": ["vote", "notice"]})]
    event: EventWord
    answer: VoterAnswerWord
    reason: Text = ""
    time: Annotated[Time, Meta(description="When the voter received it.")]


class VoterLine(Body, frozen=True, kw_only=True):
    """A voter in an instance, as its guest reports it: an application or an event script."""

    name: Text
    health: VoterHealthWord
    since: Annotated[
        Time | None, Meta(description="Since when its health is as it is; null: it has none.")
    ] = None
    interval_ms: Annotated[Count, Meta(description="Its heartbeat's; 0: it has none.")] = 0
    corrective_action: Annotated[
        CorrectiveWord,
        Meta(description="What it asks for; while it is healthy, what it would if it hung."),
    ] = ""
    reason: Text = ""
    last: VoterRequestLine | None = None


_Voters = Annotated[
    tuple[VoterLine, ...] | None,
    Meta(
        description="Its voters, those that are not healthy first; null: its guest does not report "
        "them, or not yet."
    ),
]
_Groups = Annotated[
    tuple[str, ...],
    Meta(description="Its groups at this daemon, in the order of the configuration."),
]
_Unlisted = Annotated[Count, Meta(description="How many other voters it has.")]


class InstanceDetail(InstanceLine, frozen=True, kw_only=True):
    """All that a host knows of one instance."""

    hostname: str = ""
    since: _Since = None
    action: _Action = ""
    next_loss: NextLossLine | None = None
    corrective: CorrectiveLine | None = None
    groups: _Groups = ()
    voters: _Voters = None
    voters_unlisted: _Unlisted = 0


class FleetInstanceDetail(FleetInstanceLine, frozen=True, kw_only=True):
    """All that an agent knows of one instance."""

    since: _Since = None
    action: _Action = ""
    rounds: Annotated[
        tuple[RoundEntry, ...],
        Meta(description="Its open votes and notices; remaining_s until silence is consent."),
    ] = ()
    next_loss: NextLossLine | None = None
    groups: _Groups = ()
    voters: _Voters = None
    voters_unlisted: _Unlisted = 0


class LookLine(Body, frozen=True, kw_only=True):
    """What an instance's host sees of it now, and does not report on its own."""

    uuid: str
    hostname: str
    why: Annotated[
        str, Meta(description="Why its host does not tell; nothing else is known then.")
    ] = ""
    beats: Count = 0
    missed: Count = 0
    late_answers: Count = 0
    round_trip_ms: Annotated[
        Milliseconds | None, Meta(description="From the last challenge to its answer.")
    ] = None
    not_acted: Annotated[
        Text, Meta(description="Why no corrective command runs for a failed instance at present.")
    ] = ""
