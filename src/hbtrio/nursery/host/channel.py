"""Runs one instance's channel on the host: connection, heartbeat, and one round at a time.

All tasks of a channel share one nursery. The heartbeat machine decides; this module gives it what
arrives on the link, opens the windows and turns its effects into reports. A failure here reconnects
this instance and affects no other.
"""

from __future__ import annotations

import math

import trio

from hbtrio.fsm.heartbeat import effects as hb
from hbtrio.fsm.heartbeat.machine import Heartbeat
from hbtrio.fsm.heartbeat.table import HEARTBEATING, HeartbeatState
from hbtrio.nursery.host.channel_link import ChannelLink
from hbtrio.nursery.host.channel_outages import ChannelOutages
from hbtrio.nursery.host.channel_reports import ChannelReports
from hbtrio.nursery.host.channel_setup import ChannelSetup
from hbtrio.nursery.host.connection import READS
from hbtrio.nursery.host.discovery import ChannelFile
from hbtrio.nursery.host.heartbeat_clock import HeartbeatClock
from hbtrio.nursery.host.restart_window import RestartWindow
from hbtrio.nursery.host.round import OF_ROUNDS, NotHeartbeating, Round, RoundSlot
from hbtrio.nursery.port import ChannelFault
from hbtrio.nursery.window_tasks import WindowTasks
from hbtrio.policy.more_time import Extensions
from hbtrio.policy.reported_voters import ReportedVoters
from hbtrio.policy.time_guard import BEHIND_S
from hbtrio.wire.channel_messages import ActionNotify, ChallengeResponse, Init, Message
from hbtrio.wire.vocabulary import EVENT_TABLE, Event, ExpectedEffect, NotificationType, window_of


class Channel:
    """The channel of one instance.

    Args:
        file: the channel's socket.
        setup: what the host shares with all channels.
    """

    def __init__(self, file: ChannelFile, setup: ChannelSetup) -> None:
        self.uuid = file.uuid
        self.heartbeat = Heartbeat(setup.heartbeat, new_id=setup.new_id)
        # What each beat looks at, without the properties of the machine: they cost as much again.
        self._situation, self._schedule = self.heartbeat.situation, self.heartbeat.schedule
        self._clock = HeartbeatClock(self.heartbeat, setup.guard)
        #: The guest's voters, as it reports them.
        self.voters = ReportedVoters()
        #: Written by the pacer only.
        self.slot: int | None = None
        self._setup = setup
        self._windows = WindowTasks()
        self.link = ChannelLink(self.uuid, file.path, setup)
        self.dialling = self.link.dialling
        #: Reads what has arrived, as a source of windows.
        self.take_in = self.link.take_in
        #: Makes the reports about the instance, and has the last one.
        self.reports = ChannelReports(self.uuid, self.heartbeat, setup)
        self.restart = RestartWindow(
            self.uuid,
            self._windows,
            setup.guard,
            self.take_in,
            self._restart_expired,
        )
        self.rounds = RoundSlot(
            self.uuid, self._windows, setup, self.take_in, self._round_over, self.reports
        )
        #: Publishes a report about the instance.
        self.report = self.reports.publish
        self.outages = ChannelOutages(self.heartbeat, self._clock, self.dialling, self._expect)
        #: The state for which all is done that follows it.
        self._applied: HeartbeatState | None = None

    @property
    def path(self) -> str:
        """The path of the channel's socket."""
        return self.dialling.path

    @property
    def round(self) -> Round | None:
        """The open vote or notice, or None."""
        return self.rounds.current

    @property
    def heartbeating(self) -> bool:
        """Whether the instance is heartbeating."""
        return self.heartbeat.state in HEARTBEATING

    @property
    def round_trip_ms(self) -> float | None:
        """Milliseconds from the last challenge to its answer; None before the first."""
        seconds = self.heartbeat.round_trip_s
        return None if math.isnan(seconds) else round(seconds * 1000, 3)

    @property
    def why(self) -> str:
        """Why the instance is in its state; while waiting, why it can't be reached."""
        if self.dialling.fault and self.heartbeat.state is HeartbeatState.WAITING:
            return f"{self.dialling.fault}; retrying"
        return self.heartbeat.reason

    @property
    def beats(self) -> int:
        """How many challenges were answered so far."""
        return self.heartbeat.beats

    @property
    def gone(self) -> bool:
        """Whether the channel has ended for good."""
        return self.heartbeat.state is HeartbeatState.GONE

    # -- lifetime --------------------------------------------------------------------------

    async def run(self) -> None:
        """Keeps the channel connected until :meth:`remove` or cancellation."""
        if self.heartbeat.is_expected_back and self.restart.window is None:
            # The window ended with the run that failed; the instance is still expected back.
            self.restart.open(self.heartbeat.profile.restart_s, self.why)
        try:
            if self.gone:
                return
            async with self._windows.running():
                await self.link.run(self)
        finally:
            self.rounds.abort("the instance's channel was removed")

    def release(self) -> None:
        """Breaks the reference cycles of a channel that has ended; it can't run again.

        Its objects may be frozen (:mod:`hbtrio.nursery.host.heap_freezer`), and as a cycle they
        would then never be freed.
        """
        self.restart.release()
        self.rounds.release()
        self.outages.release()

    def remove(self, reason: str) -> None:
        """Ends the channel after its socket is gone, unless RESTART still expects the instance."""
        if self.heartbeat.expects_socket:
            self.dialling.absent = True
            self.link.end(reason)
            return
        self.forget(reason)

    def retarget(self, file: ChannelFile) -> None:
        """Connects to the instance's new socket, found while the instance was expected back."""
        self.dialling.retarget(file.path)

    def forget(self, reason: str) -> None:
        """Ends the channel for good."""
        if not self.gone:
            self._apply(self.heartbeat.removed(reason))
            self.changed()  # one that was never heard gets no report
            self.rounds.abort(f"the channel is gone: {reason}")
        self._setup.pacer.schedule(self, self.heartbeat.due)
        self._windows.end()

    # -- the link ---------------------------------------------------------------------------

    def connected(self) -> None:
        """Handles a new connection."""
        self._apply(self.heartbeat.opened(self._clock.now()))
        self._pace()

    def disconnected(self, reason: str) -> None:
        """Handles the end of the connection."""
        if not self.gone:
            if self.heartbeating and self._setup.domain_runs(self.uuid):
                self.outages.cut_off(reason)
            else:
                self._apply(self.heartbeat.closed(reason))
            self._setup.pacer.schedule(self, self.heartbeat.due)
        self.rounds.abort(f"the channel was closed: {reason}")

    def received(self, message: Message, now: float) -> None:
        """Handles a message of the guest."""
        beat, situation, schedule = self.heartbeat, self._situation, self._schedule
        if situation.state is HeartbeatState.GONE:
            return  # this very read had more than the message that ended it
        kind = type(message)
        if kind is not ChallengeResponse and isinstance(message, OF_ROUNDS):
            self.rounds.received(message, now, self.link.send)
            return
        due, health, beats = schedule.due, situation.health, beat.beats
        if situation.state is not HeartbeatState.HEARTBEATING or kind is Init:
            self._clock.account(now)  # to a plain answer it makes no difference
        self._apply(beat.received(message, now))
        if beat.beats != beats:
            self._setup.counts.round_trips.add(beat.round_trip_s)
        if schedule.due != due:
            self._pace(shared=kind is Init)
        news = kind is not ChallengeResponse and self.voters.received(message, now)
        if news or situation.health is not health:
            self.changed()

    # -- time -------------------------------------------------------------------------------

    def on_time(self, now: float) -> float:
        """Judges the last challenge and sends the next; the pacer calls this when it is due.

        Returns:
            When the next challenge is due, on trio's clock; infinity if the connection has ended.
        """
        schedule = self._schedule
        try:
            if now >= schedule.due:
                self._beat(now)
        except ChannelFault as fault:
            self.link.end(str(fault))
        except Exception as crash:  # noqa: BLE001 - raised again by this channel's own task
            self.link.fail(crash)
        else:
            return schedule.due
        # What was due is still due, but not on this connection.
        return math.inf

    def _beat(self, now: float) -> None:
        beat, schedule = self.heartbeat, self._schedule
        late = self._setup.guard.is_late(now)
        behind = self._clock.account(now) or now - schedule.due > BEHIND_S
        if schedule.challenges.number is not None or self._situation.state not in HEARTBEATING:
            # The answer, the init, or the end may have arrived before its reader has run. While
            # this process did not run, much may have arrived before it.
            self.link.read_now(now, READS if behind or late else 1)
            if self.link.is_ending:
                return
        if now >= schedule.due:
            missed = beat.missed
            self._apply(beat.tick(now, late=late))
            self._setup.counts.misses += beat.missed - missed

    def _pace(self, *, shared: bool = False) -> None:
        pacer, due = self._setup.pacer, self.heartbeat.due
        if shared:
            together = pacer.shared_slot(trio.current_time(), due)
            if together is not None:
                self.heartbeat.align(together)
        pacer.schedule(self, self.heartbeat.due)

    # -- rounds -----------------------------------------------------------------------------

    def open_round(
        self,
        event: Event,
        notification: NotificationType,
        command_id: str = "",
        who: str = "",
        *,
        begins_action: bool = False,
        planned_at: int = 0,
        objection: str = "",
        fixed: str = "",
    ) -> Round:
        """Opens a vote or notice and sends it; the arguments are those of :class:`Round`.

        With an ``objection`` a vote is rejected for that reason, and the guest is not asked; with
        ``fixed`` the window can't be extended, for that reason. A guest that shows that it knows
        extensions is told ``planned_at``.

        Raises:
            NotHeartbeating: the instance can't take part.
            RoundOpen: another round is open, or an action waits to open the next one.
        """
        now = self._clock.now()
        self.rounds.check_free(now)
        beat = self.heartbeat
        returns = EVENT_TABLE[event].effect is ExpectedEffect.RETURNS
        if not beat.connected or not (beat.is_heartbeating or returns):
            raise NotHeartbeating(f"{self.uuid} is not heartbeating: {self.why}")
        kind = window_of(event, notification)
        seconds = beat.profile.window_s(kind)
        most = Extensions(self._setup.heartbeat.extension_s.get(kind, 0), fixed)
        opened = self.rounds.open(
            event, notification, kind, seconds, most, command_id, who, begins_action=begins_action
        )
        if objection:
            self.rounds.object(objection)
            return opened
        if not opened.is_vote:
            self._apply(beat.announced.notice_opened(event, now))
        told = planned_at if self.voters.voters is not None else 0
        notify = ActionNotify(opened.invocation_id, event, notification, seconds * 1000, told)
        self.link.send(notify)
        self._pace()
        self.changed()
        return opened

    def _round_over(self, current: Round) -> None:
        self.reports.publish_outcome(current)
        if self.gone:
            return
        now = self._clock.now()
        if not current.is_vote:
            self._apply(self.heartbeat.announced.notice_over(current.event, now))
            self._pace()
        elif current.begins_action and current.is_accepted:
            self.heartbeat.announced.action_begins(now)

    # -- effects ----------------------------------------------------------------------------

    def changed(self) -> None:
        """Reports that the instance's state, reason or profile may have changed."""
        self._setup.on_change(self.uuid)

    def _expect(self, effects: tuple[hb.Effect, ...]) -> None:
        self._apply(effects)
        self._pace()
        self.changed()  # an instance that was not heartbeating gets no report

    def _apply(self, effects: tuple[hb.Effect, ...]) -> None:
        state = self._situation.state
        # In nearly every beat: all is done that follows the state, and it has no window.
        is_plain = state is HeartbeatState.HEARTBEATING is self._applied
        if not is_plain:
            self.reports.note_state(state)
        for effect in effects:
            # Nearly all effects are this one, and a class pattern takes four times as long.
            if type(effect) is hb.SendToGuest:
                self.link.send(effect.message)
                continue
            is_plain = False
            match effect:
                case hb.Reconnect(reason):
                    self.link.redial(reason)
                case hb.OpenRestart(seconds, why):
                    self.restart.open(seconds, why)
                    self.changed()  # its deadline is remembered
                case hb.Suspected():
                    self._setup.on_suspicion(self.uuid)
                case _:
                    self.reports.publish_effect(effect)
        if is_plain:
            return
        self._applied = state
        if self.restart.window is not None and not self.heartbeat.is_expected_back:
            self.restart.close()
        # Whatever ended RESTARTING, the socket is no longer awaited.
        if self.dialling.absent and not self.heartbeat.expects_socket:
            self.forget("its socket did not come back")

    def _restart_expired(self) -> None:
        self._apply(self.heartbeat.losses.restart_expired(self._clock.now()))
        self._pace()
