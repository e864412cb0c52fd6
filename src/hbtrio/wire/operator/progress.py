"""Lines about a vote, a notice or an action in progress."""

from __future__ import annotations

from typing import Annotated

from msgspec import UNSET, Meta, UnsetType

from hbtrio.wire.operator.words import EventWord, StreamLine, Text, WindowWord

_Step = Annotated[
    str,
    Meta(
        description="What the line is about; end is the last line of an action. group: the rule of "
        "a group. lost, of an agent: the outcome is unknown.",
        extra_json_schema={
            "enum": ["group", "vote", "notice", "command", "restart", "down", "end", "lost"]
        },
    ),
]
# Not float alone: an agent passes on a host's whole numbers as whole numbers.
_Limit = Annotated[
    int | float | None,
    Meta(description="How long what has begun may take at most, in seconds."),
]
_Result = Annotated[
    str,
    Meta(
        description="How a step ended. Vote, notice: accept, reject, complete, timeout, error; "
        "command: done, failed; restart: back, expired; down: down, expired."
    ),
]
_Outcome = Annotated[
    str,
    Meta(
        description="How the action ended.",
        extra_json_schema={"enum": ["done", "rejected", "failed"]},
    ),
]


class ProgressLine(StreamLine, frozen=True, kw_only=True, omit_defaults=True):
    """A line about a vote, a notice or an action: a window was opened, or something ended."""

    step: _Step
    event: EventWord = ""
    window: WindowWord = ""
    argv: Annotated[tuple[str, ...], Meta(description="The command that was started.")] = ()
    waiting: Annotated[str, Meta(description="What else is open on the instance.")] = ""
    extended: Annotated[
        str, Meta(description="Why the open window ends later; seconds is what is left of it.")
    ] = ""
    skipped: Annotated[str, Meta(description="Why the instance takes no part.")] = ""
    seconds: _Limit = None
    result: _Result = ""
    outcome: _Outcome = ""
    #: These two are sent even when they are empty, where they apply.
    reason: Text | UnsetType = UNSET
    output: Text | UnsetType = UNSET
