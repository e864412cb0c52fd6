"""Decides when the silence of a connected guest calls for a reconnect."""

from __future__ import annotations

import math

from hbtrio.fsm.heartbeat.rules import SLACK_S, WEDGED_AFTER, HeartbeatRules
from hbtrio.fsm.heartbeat.situation import Situation
from hbtrio.fsm.heartbeat.table import PATIENT, HeartbeatState


class Silence:
    """The silence on one channel.

    Args:
        rules: the host's settings.
    """

    __slots__ = ("_reconnect_after_s", "since")

    def __init__(self, rules: HeartbeatRules) -> None:
        self._reconnect_after_s = rules.reconnect_silent_s
        #: The start of the silence, or the time of the last reconnect.
        self.since = 0.0

    def end(self, situation: Situation, now: float, interval_s: float) -> str:
        """Returns the reason to reconnect now, and counts it as done; "" for none.

        Args:
            situation: of a connected instance.
            now: the time.
            interval_s: from one challenge to the next.
        """
        state = situation.state
        if state in PATIENT:
            return ""
        after_s = self._reconnect_after_s
        # Computed as in `due`: with the difference instead, rounding could make it due for ever.
        if now >= self.since + after_s:
            self.since = now
            return f"connected, but no heartbeat for {after_s:g} s ({state.shown})"
        wedged_at = self.since + WEDGED_AFTER * interval_s - SLACK_S
        if state is not HeartbeatState.RETURNING or now < wedged_at or situation.outage.reconnected:
            return ""
        situation.outage = situation.outage.reconnects()
        return f"no answer to {WEDGED_AFTER} challenges after its return"

    def due(self, situation: Situation, now: float, interval_s: float) -> float:
        """Returns when to check an instance that is not challenged; infinity for never.

        The alarm about a suspended one needs no connection.
        """
        if situation.state is HeartbeatState.SUSPENDED:
            return max(situation.unwatched_at, now + interval_s)
        if situation.state is HeartbeatState.PAUSED:
            return math.inf
        return self.since + self._reconnect_after_s if situation.connected else math.inf
