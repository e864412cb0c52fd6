"""Holds as hosts and their agent tell them each other, whose clocks differ."""

from __future__ import annotations

from datetime import UTC, datetime

from hbtrio.policy.instance_hold import MAX_HOLD_S, InstanceHold
from hbtrio.wire.link_holds import MAX_HOLD_REASON, MAX_WHO, HoldWord


def message_of(word: InstanceHold, now: float) -> HoldWord:
    """Converts a word to a message; ``now`` is the time on the clock of the word."""
    left_s = round(word.ends_at - now, 3)
    return HoldWord(
        uuid=word.uuid,
        number=word.number,
        since_s=word.since.timestamp(),
        until_s=word.until.timestamp(),
        left_s=max(-MAX_HOLD_S, min(left_s, MAX_HOLD_S)),
        who=word.who[:MAX_WHO],
        reason=word.reason[:MAX_HOLD_REASON],
        is_ended=word.is_ended,
    )


def word_of(message: HoldWord, now: float) -> InstanceHold:
    """Converts a message to a word that ends after what the sender says is left of it."""
    return InstanceHold(
        uuid=message.uuid.lower(),
        number=message.number,
        since=datetime.fromtimestamp(message.since_s, UTC),
        until=datetime.fromtimestamp(message.until_s, UTC),
        ends_at=now + message.left_s,
        who=message.who,
        reason=message.reason,
        is_ended=message.is_ended,
    )
