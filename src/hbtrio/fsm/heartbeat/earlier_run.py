"""What an earlier run of the host knew of an instance that was not heartbeating.

One that was is :meth:`~hbtrio.fsm.heartbeat.losses.Losses.presumed` to be there.
"""

from __future__ import annotations

from hbtrio.fsm.heartbeat.effects import Effect
from hbtrio.fsm.heartbeat.outage import Outage
from hbtrio.fsm.heartbeat.presence import PresenceEvent
from hbtrio.fsm.heartbeat.schedule import ChallengeSchedule
from hbtrio.fsm.heartbeat.situation import NOTHING, Situation
from hbtrio.fsm.heartbeat.table import HeartbeatEvent, HeartbeatState
from hbtrio.policy.profile import Profile


class EarlierRun:
    """Takes over what an earlier run of the host knew of one instance.

    Args:
        situation: is changed.
        schedule: follows the situation.
    """

    def __init__(self, situation: Situation, schedule: ChallengeSchedule) -> None:
        self._situation = situation
        self._schedule = schedule

    def frozen(
        self, profile: Profile, reason: str, event: str, was: HeartbeatState, now: float
    ) -> tuple[Effect, ...]:
        """Takes that a guest was frozen when an earlier run of this host ended.

        Its silence is expected until libvirt, an end notice or the VIM says that its VM runs; from
        then on it has RESTART to answer. Ignored once its connection has said anything else.

        Args:
            profile: what the guest had advertised.
            reason: why it was frozen.
            event: the event that froze it, or libvirt's state.
            was: its state. One that was back provisionally may still be frozen; the alarm about one
                that is unwatched was raised.
            now: the time.
        """
        situation = self._situation
        if situation.state not in (HeartbeatState.WAITING, HeartbeatState.PAUSED):
            return NOTHING
        if not situation.has_profile:
            situation.profile = profile
        if situation.state is HeartbeatState.PAUSED:  # as libvirt has said already
            situation.window = situation.window.closed()
            situation.learn(PresenceEvent.ANSWERED)
            situation.is_remembered = True
            return NOTHING
        outage = Outage.remembered(event, now)
        if was is HeartbeatState.PROVISIONAL:
            outage = outage.not_carried_out()
        effects = situation.suspend(HeartbeatEvent.FREEZES, outage)
        if was is HeartbeatState.UNWATCHED:
            situation.step(HeartbeatEvent.UNWATCHED)
        situation.reason = reason
        situation.learn(PresenceEvent.ANSWERED)
        situation.is_remembered = True
        self._schedule.start_over(now)
        return effects

    def had_left(
        self, profile: Profile, reason: str, within_s: float, now: float
    ) -> tuple[Effect, ...]:
        """Takes that a guest had said ``exit`` when an earlier run of the host ended.

        Ignored once anything else is known of it.

        Args:
            profile: what the guest had advertised.
            reason: why it is waited for.
            within_s: within how many seconds it has to come back.
            now: the time.
        """
        situation = self._situation
        if situation.state is not HeartbeatState.WAITING or situation.has_profile:
            return NOTHING
        situation.profile, situation.reason, situation.is_remembered = profile, reason, True
        situation.learn(PresenceEvent.ANSWERED)
        situation.learn(PresenceEvent.LEFT)
        situation.window = situation.window.extended(now, within_s)
        self._schedule.plan(now)
        return NOTHING

    def was_missing(
        self, profile: Profile, reason: str, now: float, *, unheard: bool
    ) -> tuple[Effect, ...]:
        """Takes that an earlier run of the host has reported that no guest is there.

        Ignored once anything else is known of it.

        Args:
            profile: what the last guest had advertised; the defaults if there was none.
            reason: as it was reported.
            now: the time.
            unheard: whether it was reported as unwatched, and not as absent.
        """
        situation = self._situation
        if situation.state is not HeartbeatState.WAITING or situation.has_profile:
            return NOTHING
        situation.step(HeartbeatEvent.STAYS_UNHEARD if unheard else HeartbeatEvent.STAYS_ABSENT)
        if profile != Profile():
            situation.profile = profile
        situation.reason, situation.is_remembered = reason, True
        self._schedule.plan(now)
        return NOTHING
