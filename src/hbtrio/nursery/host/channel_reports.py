"""Makes and publishes a host's reports about one instance."""

from __future__ import annotations

import logging
from datetime import timedelta

import trio

from hbtrio.fsm.heartbeat import effects as hb
from hbtrio.fsm.heartbeat.machine import Heartbeat
from hbtrio.fsm.heartbeat.table import HEARTBEATING, HeartbeatState
from hbtrio.nursery.host.channel_setup import ChannelSetup
from hbtrio.nursery.host.reports import Report, ReportKind
from hbtrio.nursery.host.round import Round
from hbtrio.policy.more_time import Extension
from hbtrio.wire.vocabulary import CorrectiveAction, Event, VoteResult

_log = logging.getLogger("hbtrio.channel")


class ChannelReports:
    """Makes the reports about an instance and keeps the newest one.

    Args:
        uuid: the instance.
        heartbeat: its profile has the instance's name.
        setup: takes the reports, and has the callbacks for failures and changes.
    """

    __slots__ = ("_counted", "_heartbeat", "_setup", "_uuid", "last", "since", "state")

    def __init__(self, uuid: str, heartbeat: Heartbeat, setup: ChannelSetup) -> None:
        #: The newest report, for status.
        self.last: Report | None = None
        #: The instance's state as it was noted last, and since when it is in it, on trio's clock.
        self.state = heartbeat.state
        self.since = trio.current_time()
        self._counted = False
        self._uuid = uuid
        self._heartbeat = heartbeat
        self._setup = setup

    def note_state(self, state: HeartbeatState) -> None:
        """Notes in which state the instance is, and counts it while it is heartbeating."""
        if state is not self.state:
            self.state, self.since = state, trio.current_time()
        if (state in HEARTBEATING) is not self._counted:
            self._counted = not self._counted
            self._setup.on_heartbeating(1 if self._counted else -1)

    def time_of(self, at: float) -> str:
        """Returns the time of day of a time on trio's clock, in whole seconds."""
        ago = timedelta(seconds=trio.current_time() - at)
        return (self._setup.reports.now() - ago).isoformat(timespec="seconds")

    def publish(
        self,
        kind: ReportKind,
        reason: str,
        *,
        event: Event | None = None,
        result: VoteResult | None = None,
        corrective_action: CorrectiveAction | None = None,
        command_id: str = "",
        who: str = "",
        state: str = "",
        outcome: str = "",
        cause: str = "",
        alarm: bool = False,
    ) -> None:
        """Makes and publishes a report; the arguments are those of :class:`Report`."""
        self.last = Report(
            time=self._setup.reports.now(),
            kind=kind,
            uuid=self._uuid,
            name=self._heartbeat.profile.name,
            reason=reason,
            event=event,
            result=result,
            corrective_action=corrective_action,
            command_id=command_id,
            who=who,
            state=state,
            outcome=outcome,
            cause=cause,
            alarm=alarm,
        )
        self._setup.reports.publish(self.last)
        self._setup.on_change(self._uuid)

    def publish_outcome(self, current: Round) -> None:
        """Reports how a vote or notice ended."""
        assert current.outcome is not None
        self.publish(
            ReportKind.VOTE if current.is_vote else ReportKind.NOTICE,
            current.outcome.reason,
            event=current.event,
            result=current.outcome.result,
            command_id=current.command_id,
            who=current.who,
        )

    def publish_extension(self, current: Round, extension: Extension) -> None:
        """Reports that the window of a vote or notice was extended."""
        self._setup.counts.extended_s[current.window.kind] += extension.seconds
        self.publish(
            ReportKind.EXTENDED,
            f"the {current.kind} on {current.event} was {extension.words}",
            event=current.event,
            who=current.who,
        )

    def publish_override(self, event: Event, reason: str, who: str) -> None:
        """Reports that the guest's reject of an action was overridden."""
        self._setup.counts.overridden[event] += 1
        self.publish(ReportKind.OVERRIDDEN, reason, event=event, who=who)

    def publish_withdrawal(self, event: Event, name: str) -> None:
        """Reports that a voter of the guest would not reject an event any more."""
        self.publish(ReportKind.WITHDRAWN, f"{name} is ready for it" if name else "", event=event)

    def publish_effect(self, effect: hb.Effect) -> None:
        """Reports or logs an effect of the heartbeat machine; the rest is for the channel."""
        match effect:
            case hb.Note(text):
                _log.info("%s: %s", self._uuid, text)
            case hb.Heartbeating(reason):
                self.publish(ReportKind.HEARTBEATING, reason)
            case hb.Stopped(reason):
                self.publish(ReportKind.STOPPED, reason)
            case hb.Paused(reason, is_alarming):
                self.publish(ReportKind.PAUSED, reason, state=reason, alarm=is_alarming)
            case hb.Absent(reason):
                self.publish(ReportKind.ABSENT, reason)
            case hb.RestartExpired(reason):
                self.publish(ReportKind.RESTART_EXPIRED, reason)
            case hb.Lost(reason, action, state, seen):
                self.publish(ReportKind.LOSS, reason, corrective_action=action, state=state)
                self._setup.on_failure(self._uuid, action, reason, seen=seen)
            case hb.Ill(reason, action):
                self.publish(ReportKind.UNHEALTHY, reason, corrective_action=action)
                self._setup.on_failure(self._uuid, action, reason)
            case hb.Unwatched(reason, is_alarming):
                self.publish(ReportKind.UNWATCHED, reason, alarm=is_alarming)
