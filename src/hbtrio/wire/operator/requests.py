"""The bodies that clients send.

The daemons read them with :func:`hbtrio.config.toml.structure`, which names every fault at once;
so these are attrs classes.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Final

import attrs
from msgspec import Meta

from hbtrio.wire.operator.words import ActionWord, EventWord, VotedEventWord

Argument = Annotated[
    str,
    Meta(
        description="{uuid} stands for the instance, {{uuid}} for itself. Other words in braces "
        "are refused, and all of them in the first item, the program.",
        max_length=4096,
    ),
]


#: Names until when a request may begin: ``SECONDS BOOT_ID``, on the clock of ``GET /v1/clock``.
BEGIN_BY_HEADER: Final = "hbtrio-begin-by"


class Alarms(StrEnum):
    """What becomes of a host's alarms that were held back."""

    SEND = "send"
    WITHDRAW = "withdraw"


@attrs.frozen(kw_only=True)
class VoteRequest:
    """Asks an instance whether an event may happen."""

    event: VotedEventWord


@attrs.frozen(kw_only=True)
class NoticeRequest:
    """Tells an instance of an event."""

    event: EventWord


@attrs.frozen(kw_only=True)
class ActRequest:
    """Has a host perform an action on an instance."""

    action: ActionWord
    command: Annotated[
        tuple[Argument, ...],
        Meta(
            description="What performs it, run by the host; empty: the host's own for the action.",
            extra_json_schema={
                "maxItems": 64,
                "prefixItems": [{"type": "string", "minLength": 1, "maxLength": 4096}],
            },
        ),
    ] = ()
    force: Annotated[bool, Meta(description="Skip the vote, not the notices.")] = False
    take_over: Annotated[
        bool, Meta(description="End a corrective command that runs, instead of waiting for it.")
    ] = False
    ignore_group: Annotated[
        bool, Meta(description="Act also if the rule of a group forbids it.")
    ] = False
    ignore_hold: Annotated[bool, Meta(description="Act on an instance that is on hold, too.")] = (
        False
    )
    retry_for_s: Annotated[
        float,
        Meta(
            description="For how long it is asked for again after rejects, every 30 s; 0: not at "
            "all. Not with force, take_over or ignore_group, nor with a command at an agent.",
            extra_json_schema={"minimum": 0, "maximum": 604_800},
        ),
    ] = 0.0
    then: Annotated[
        str,
        Meta(
            description="What follows after that time. force: the action, without its vote.",
            extra_json_schema={"enum": ["give-up", "force"]},
        ),
    ] = "give-up"


@attrs.frozen(kw_only=True)
class HoldRequest:
    """Puts an instance on hold, in place of a hold that is in force."""

    seconds: Annotated[
        float,
        Meta(
            description="For how long from now on.",
            extra_json_schema={"minimum": 1, "maximum": 604_800},
        ),
    ]
    reason: Annotated[
        str,
        Meta(description="Why; one line.", extra_json_schema={"minLength": 1, "maxLength": 200}),
    ]


@attrs.frozen(kw_only=True)
class AlarmsRequest:
    """Lets go the alarms of a host that an agent holds back."""

    alarms: Annotated[str, Meta(extra_json_schema={"enum": [str(word) for word in Alarms]})]
