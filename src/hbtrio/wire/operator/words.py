"""The types of members: units, ranges and words, as the OpenAPI document states them.

Words and ranges are stated, not enforced: a client must be able to read what a newer daemon sends,
so that a word it does not know is taken as it is. Types are enforced.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from hbtrio.wire.vocabulary import (
    ACTION_TABLE,
    EVENT_TABLE,
    CorrectiveAction,
    Health,
    VoterAnswer,
    VoteResult,
    VoterHealth,
    WindowKind,
)


class Body(msgspec.Struct, frozen=True, kw_only=True):
    """A body, or a part of one, that is always sent with all its members.

    A member with a default may still be missing when it is read: other versions may not have it.
    """


class StreamLine(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A line of a stream: members that do not apply are left out."""


Count = Annotated[int, Meta(extra_json_schema={"minimum": 0})]
Seconds = Annotated[float, Meta(description="In seconds.", extra_json_schema={"minimum": 0})]
Milliseconds = Annotated[
    float, Meta(description="In milliseconds.", extra_json_schema={"minimum": 0})
]
Time = Annotated[
    str, Meta(description="RFC 3339, with offset.", extra_json_schema={"format": "date-time"})
]
#: A text that a tenant may have written; once decoded, escape it before it is shown.
Text = Annotated[str, Meta(description="May hold a tenant's words.")]

EventWord = Annotated[str, Meta(extra_json_schema={"enum": [str(word) for word in EVENT_TABLE]})]
VotedEventWord = Annotated[
    str,
    Meta(
        extra_json_schema={"enum": [str(word) for word, rule in EVENT_TABLE.items() if rule.voted]}
    ),
]
ActionWord = Annotated[str, Meta(extra_json_schema={"enum": [str(word) for word in ACTION_TABLE]})]
ResultWord = Annotated[str, Meta(extra_json_schema={"enum": [str(word) for word in VoteResult]})]
WindowWord = Annotated[str, Meta(extra_json_schema={"enum": [str(word) for word in WindowKind]})]
HealthWord = Annotated[str, Meta(extra_json_schema={"enum": [str(word) for word in Health]})]
VoterHealthWord = Annotated[
    str,
    Meta(
        description="silent: it has not answered its heartbeat for two intervals; none: it has no "
        "heartbeat.",
        extra_json_schema={"enum": [str(word) for word in VoterHealth]},
    ),
]
VoterAnswerWord = Annotated[
    str,
    Meta(
        description="open: it may still answer; none: it ended without this voter's answer.",
        extra_json_schema={"enum": [str(word) for word in VoterAnswer]},
    ),
]
CorrectiveWord = Annotated[
    str, Meta(extra_json_schema={"enum": [str(word) for word in CorrectiveAction]})
]
LinkWord = Annotated[
    str,
    Meta(
        description="up; down for less than link.grace_s; lost for longer; or never there.",
        extra_json_schema={"enum": ["up", "down", "lost", "never"]},
    ),
]
AgentCommandsWord = Annotated[
    str,
    Meta(
        description="What a host runs for actions of its agent: its own configured commands, or "
        "any; empty: it has no agent, or does not say.",
        extra_json_schema={"enum": ["configured", "any", ""]},
    ),
]

#: Seconds by window.
Windows = dict[str, Seconds]
