"""Parts of an instance's state, as a host reports it to its agent: open windows, and voters.

The texts are those of a guest, which its host has made plain and cut.
"""

from __future__ import annotations

from typing import Annotated, Final

import attrs
import msgspec

from hbtrio.wire.channel_codec import MAX_NAME_BYTES, MAX_VOTER_REASON_BYTES
from hbtrio.wire.channel_messages import MAX_VOTERS
from hbtrio.wire.vocabulary import (
    CorrectiveAction,
    Event,
    NotificationType,
    VoterAnswer,
    VoterHealth,
)

VoterName = Annotated[str, msgspec.Meta(max_length=MAX_NAME_BYTES)]
Reason = Annotated[str, msgspec.Meta(max_length=MAX_VOTER_REASON_BYTES)]
#: RFC 3339, with offset, to the second.
Moment = Annotated[str, msgspec.Meta(max_length=40)]
Interval = Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)]
#: What is left of a window when it is reported, in seconds, at most.
MAX_REMAINING_S: Final = 86_400.0
#: By whom a window was extended, in words.
MAX_EXTENDED: Final = 300
Extended = Annotated[str, msgspec.Meta(max_length=MAX_EXTENDED)]
Remaining = Annotated[float, msgspec.Meta(ge=0, le=MAX_REMAINING_S)]


@attrs.frozen
class LinkRound:
    """A vote or notice that is open on an instance."""

    vote: bool
    event: Event
    remaining_s: Remaining
    extended: Extended = ""


@attrs.frozen
class LinkRequest:
    """The last vote or notice of a voter, and when the voter received it."""

    event: Event
    notification: NotificationType
    answer: VoterAnswer
    reason: Reason
    time: Moment


@attrs.frozen
class LinkVoter:
    """A voter of an instance; ``since`` is empty if it has no health.

    See :class:`~hbtrio.wire.channel_messages.VoterState`.
    """

    name: VoterName
    health: VoterHealth
    since: Moment
    interval_ms: Interval
    corrective_action: CorrectiveAction
    reason: Reason
    last: LinkRequest | None = None


#: All voters of an instance; None if they are not known.
Voters = Annotated[tuple[LinkVoter, ...], msgspec.Meta(max_length=MAX_VOTERS)] | None
