"""Drains: what asks for one, its status, and the lines of its progress."""

from __future__ import annotations

from typing import Annotated, Final

import attrs
from msgspec import Meta, field

from hbtrio.wire.operator.requests import Argument
from hbtrio.wire.operator.words import ActionWord, Body, Count, Seconds, StreamLine, Text, Time

#: The most actions of a drain at once.
MOST_AT_ONCE: Final = 100

#: For how long an instance may refuse at most, in seconds: a week.
LONGEST_RETRY_S: Final = 604_800

_ITEM_STATES: Final = [
    "waiting",
    "asked",
    "rejected",
    "blocked",
    "told",
    "acting",
    "done",
    "skipped",
    "failed",
    "cancelled",
]

_State = Annotated[
    str,
    Meta(
        description="The state of an instance. blocked: its group, or another action, forbids it "
        "now.",
        extra_json_schema={"enum": _ITEM_STATES},
    ),
]
_Answer = Annotated[
    Text, Meta(description="What its guest answered before the drain, for information.")
]
_Outcome = Annotated[
    str,
    Meta(
        description="How it has ended; empty while it goes on. incomplete: instances were skipped, "
        "or their actions failed.",
        extra_json_schema={
            "enum": ["", "drained", "incomplete", "cancelled", "aborted", "dry-run"]
        },
    ),
]
_Appeared = Annotated[
    tuple[str, ...],
    Meta(description="Instances that came since it began; it does nothing to them."),
]


@attrs.frozen(kw_only=True)
class DrainRequest:
    """Performs an action on all instances of a host, or of several hosts of an agent."""

    action: ActionWord
    command: Annotated[
        tuple[Argument, ...],
        Meta(description="What performs it, as for act. An agent takes none."),
    ] = ()
    hosts: Annotated[
        tuple[str, ...], Meta(description="Their names; at a host its own, or none.")
    ] = ()
    parallel: Annotated[int, Meta(ge=1, le=MOST_AT_ONCE, description="Actions at once.")] = 1
    order: Annotated[
        str,
        Meta(
            description="name: by name. group: as far from the others of its group as possible.",
            extra_json_schema={"enum": ["name", "group"]},
        ),
    ] = "name"
    first: Annotated[
        tuple[str, ...], Meta(description="The uuids of those that come first, in order.")
    ] = ()
    retry_for_s: Annotated[
        float,
        Meta(ge=0, le=LONGEST_RETRY_S, description="For how long one that refuses is asked again."),
    ] = 1800.0
    on_reject: Annotated[
        str, Meta(extra_json_schema={"enum": ["wait", "skip", "force", "abort"]})
    ] = "wait"
    ignore_hold: Annotated[bool, Meta(description="Don't skip instances on hold.")] = False
    dry_run: Annotated[bool, Meta(description="Ask all guests, and do nothing.")] = False


@attrs.frozen(kw_only=True)
class PlanRequest:
    """Plans an action on an instance: it is asked from a time on, and not asked at the other."""

    action: ActionWord
    command: Annotated[tuple[Argument, ...], Meta(description="What performs it, as for act.")] = ()
    not_before: Annotated[
        str,
        Meta(
            description="When the guest is asked first, RFC 3339 with offset; empty: now. One that "
            "rejects is asked again every 30 s."
        ),
    ] = ""
    before: Annotated[
        str,
        Meta(
            description="When the action is performed without its vote, RFC 3339 with offset; "
            "within 30 days."
        ),
    ]
    ignore_hold: Annotated[bool, Meta(description="Act on an instance that is on hold, too.")] = (
        False
    )


class DrainInstanceLine(Body, frozen=True, kw_only=True):
    """An instance of a drain."""

    uuid: str
    name: Text = ""
    hostname: str = ""
    state: _State
    reason: Annotated[Text, Meta(description="Why it is in that state.")] = ""
    answer: _Answer = ""
    again_s: Annotated[
        Seconds | None, Meta(description="When it has its turn again; null if it does not refuse.")
    ] = None


class DrainBody(Body, frozen=True, kw_only=True):
    """A drain: one action on many instances, a bounded number at once."""

    id: str
    action: ActionWord
    who: Annotated[Text, Meta(description="Who asked for it.")]
    begun: Time
    ended: Annotated[Time | None, Meta(description="Null while it goes on.")] = None
    phase: Annotated[
        str,
        Meta(
            description="running, or that it takes no more turns.",
            extra_json_schema={"enum": ["running", "cancelled", "aborted"]},
        ),
    ]
    outcome: _Outcome = ""
    reason: Annotated[Text, Meta(description="Why it was cancelled or aborted.")] = ""
    parallel: Count
    retry_for_s: Seconds
    on_reject: str
    hosts: tuple[str, ...] = ()
    counts: Annotated[
        dict[str, int], Meta(description="Its instances by state; states without one are left out.")
    ] = field(default_factory=dict)
    stuck_s: Annotated[
        Seconds, Meta(description="For how long no instance has changed its state.")
    ] = 0.0
    appeared: _Appeared = ()
    instances: Annotated[
        tuple[DrainInstanceLine, ...],
        Meta(description="In their order; a list has none, but for planned actions."),
    ] = ()
    not_before: Annotated[
        Time | None, Meta(description="Of a planned action: when its guest is asked first.")
    ] = None
    before: Annotated[
        Time | None,
        Meta(description="Of a planned action: when it is performed without its vote."),
    ] = None


#: What a status has of drains.
DrainsInProgress = Annotated[
    tuple[DrainBody, ...],
    Meta(description="The drains in progress, without instances and appeared."),
]


class DrainList(Body, frozen=True, kw_only=True):
    """The drains in progress and those that ended last, the newest first."""

    drains: tuple[DrainBody, ...] = ()


class DrainLine(StreamLine, frozen=True, kw_only=True, omit_defaults=True):
    """A line about a drain: itself first, then each instance as it changes, then its end."""

    step: Annotated[
        str,
        Meta(
            description="What the line is about.",
            extra_json_schema={"enum": ["drain", "instance", "end"]},
        ),
    ]
    id: Annotated[str, Meta(description="The drain.")] = ""
    action: str = ""
    who: Text = ""
    parallel: int = 0
    total: Annotated[int, Meta(description="How many instances it has.")] = 0
    uuid: str = ""
    name: Text = ""
    hostname: str = ""
    state: str = ""
    reason: Text = ""
    answer: _Answer = ""
    outcome: _Outcome = ""
    appeared: _Appeared = ()
