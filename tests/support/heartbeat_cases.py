"""What the tests of machine share."""

from __future__ import annotations

from hbtrio.fsm.heartbeat.effects import (
    Effect,
    Lost,
    Note,
    Reconnect,
    SendToGuest,
)
from hbtrio.fsm.heartbeat.table import HeartbeatState
from hbtrio.policy.profile import Profile
from hbtrio.wire.channel_messages import (
    OFFERED,
    Challenge,
    InitAck,
)
from hbtrio.wire.vocabulary import (
    CorrectiveAction,
)

S = HeartbeatState


NONE, LOG, REBOOT, STOP, UNKNOWN = (
    CorrectiveAction.NONE,
    CorrectiveAction.LOG,
    CorrectiveAction.REBOOT,
    CorrectiveAction.STOP,
    CorrectiveAction.UNKNOWN,
)


#: What the bench's ``init`` asks for.
PROFILE = Profile(
    name="vm1",
    interval_s=1.0,
    vote_s=9,
    shutdown_notice_s=10,
    suspend_notice_s=11,
    resume_notice_s=14,
    restart_s=121,
    corrective_action=REBOOT,
)


ACK = SendToGuest(InitAck(1804289383, OFFERED))


MISSED = Note("heartbeat missed")


LEFTOVER = Note("ignoring a stale init: no challenge was answered after it")


LOSS = Lost("no answer for 3 s", REBOOT)


TOO_LONG = Reconnect("connected, but no heartbeat for 120 s (waiting)")


def challenge(number: int) -> SendToGuest:
    return SendToGuest(Challenge(number))


def kinds(came: list[tuple[float, Effect]], *wanted: type[Effect]) -> list[tuple[float, Effect]]:
    return [(when, effect) for when, effect in came if isinstance(effect, wanted)]
