"""What guests report of their voters."""

from __future__ import annotations

from typing import Any

from hbtrio.wire.channel_messages import VoterState
from hbtrio.wire.vocabulary import (
    CorrectiveAction,
    Event,
    NotificationType,
    VoterAnswer,
    VoterHealth,
)


def voter_state(place: int = 1, count: int = 1, **members: Any) -> VoterState:
    """One voter of a list, healthy and never asked by default; it is called ``v1``, ``v2``..."""
    values: dict[str, Any] = {
        "unlisted": 0,
        "name": f"v{place}",
        "health": VoterHealth.HEALTHY,
        "health_s": 0,
        "interval_ms": 1000,
        "corrective_action": CorrectiveAction.NONE,
        "reason": "",
        "event_type": Event.UNKNOWN,
        "notification_type": NotificationType.UNKNOWN,
        "answer": VoterAnswer.NONE,
        "answer_reason": "",
        "ago_s": 0,
    }
    return VoterState(place, count, **(values | members))


#: An ill application that has rejected a vote, and a script; the guest has three others.
ORDERS = voter_state(
    1,
    2,
    unlisted=3,
    name="orders",
    health=VoterHealth.ILL,
    health_s=60,
    corrective_action=CorrectiveAction.LOG,
    reason="disk \x1b[31mfull",
    event_type=Event.STOP,
    notification_type=NotificationType.REVOCABLE,
    answer=VoterAnswer.REJECT,
    answer_reason="3 orders are open",
    ago_s=30,
)
SCRIPT = voter_state(2, 2, unlisted=3, name="handler", health=VoterHealth.NONE, interval_ms=0)
