"""One instance's channel on the host: its connection, its heartbeat and its one round at a time.

Everything here is a task of one nursery. The heartbeat machine decides; this module connects for
it, opens the windows and turns its effects into reports. When it fails, this instance is
reconnected and no other notices.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable

import attrs
import trio

from hbtrio.fsm.ballot import Ballot, Outcome, as_reported
from hbtrio.fsm.heartbeat import machine as hb
from hbtrio.fsm.heartbeat.machine import Heartbeat, HeartbeatRules
from hbtrio.fsm.heartbeat.table import HEARTBEATING, HeartbeatState
from hbtrio.nursery.host.connection import BadMessages, ChannelConnection, ReadLimits
from hbtrio.nursery.host.discovery import ChannelFile
from hbtrio.nursery.host.reports import Report, ReportKind, Reports
from hbtrio.nursery.host.restart_window import RestartWindow
from hbtrio.nursery.host.round import NotHeartbeating, Round, RoundOpen
from hbtrio.nursery.pacer import Pacer
from hbtrio.nursery.port import ChannelFault, Dialer, Port
from hbtrio.nursery.windows import Answer, BallotWindow, stay_silent
from hbtrio.policy.backoff import Backoff
from hbtrio.policy.time_guard import OnTimeGuard
from hbtrio.wire.channel_messages import ActionNotify, ActionResponse, Init, Message, Nack
from hbtrio.wire.vocabulary import (
    EVENT_TABLE,
    CorrectiveAction,
    Event,
    ExpectedEffect,
    NotificationType,
    VoteResult,
    window_of,
)

_log = logging.getLogger("hbtrio.channel")

#: The one voter that a host knows.
_GUEST = "guest"


@attrs.frozen
class ChannelSetup:
    """What every channel of a host is handed: the world, and the host's settings."""

    dialer: Dialer
    pacer: Pacer
    guard: OnTimeGuard
    reports: Reports
    new_id: Callable[[], int]
    heartbeat: HeartbeatRules
    limits: ReadLimits
    #: Told of each loss and ill health that is reported, with the action wanted.
    on_failure: Callable[[Channel, CorrectiveAction, str], None]
    #: Told of each instance that begins (+1) or ceases (-1) to be heartbeating.
    on_beating: Callable[[int], None]
    #: Told of each instance whose state or profile has changed.
    on_change: Callable[[Channel], None]


class Channel:
    """The channel of one instance.

    Args:
        file: where its socket is.
        setup: the host's part.
    """

    def __init__(self, file: ChannelFile, setup: ChannelSetup) -> None:
        self.uuid = file.uuid
        self.path = file.path
        self.heartbeat = Heartbeat(setup.heartbeat, new_id=setup.new_id)
        self.round: Round | None = None
        self.restart = RestartWindow(setup.guard, self._take_in, self._restart_expired)
        #: The last report, for status.
        self.last: Report | None = None
        #: Set when the channel's file is gone while the instance is expected back.
        self.absent = False
        self.slot: int | None = None
        self._setup = setup
        self._connection: ChannelConnection | None = None
        self._nap = trio.CancelScope()
        self._nursery: trio.Nursery | None = None
        self._refusals = BadMessages()
        self._crash: Exception | None = None
        #: Why it could not be connected, until it is.
        self._unreachable = ""
        #: That nothing was heard has been said.
        self._said_silent = False
        self._counted = False

    @property
    def beating(self) -> bool:
        """Whether the instance is heartbeating."""
        return self.heartbeat.state in HEARTBEATING

    @property
    def why(self) -> str:
        """Why the instance is in its state; of one that is waited for, why it can't be reached."""
        if self._unreachable and self.heartbeat.state is HeartbeatState.WAITING:
            return f"{self._unreachable}; retrying"
        return self.heartbeat.why

    @property
    def faulty(self) -> int:
        """Messages that could not be used, and lines dropped in a flood."""
        return self._refusals.count

    @property
    def held_bytes(self) -> int:
        """Bytes of a message that is not complete."""
        return 0 if self._connection is None else self._connection.held_bytes

    @property
    def gone(self) -> bool:
        """Whether it has ended for good."""
        return self.heartbeat.state is HeartbeatState.GONE

    # -- its life ---------------------------------------------------------------------------

    async def run(self) -> None:
        """Keeps the channel connected until :meth:`remove`, or until cancelled."""
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                if self.heartbeat.state is HeartbeatState.RESTARTING:
                    # Its window went down with the nursery that failed; it is still expected.
                    self.restart.open(self.heartbeat.profile.restart_s, nursery)
                if self.heartbeat.state is not HeartbeatState.GONE:
                    await self._stay_connected()
        finally:
            self._nursery = None
            self._end_round("the instance's channel was removed")

    def remove(self, why: str) -> None:
        """Its socket is gone. It ends, unless the instance is expected back within RESTART."""
        if self.heartbeat.state is HeartbeatState.RESTARTING:
            self.absent = True
            self._break(why)
            return
        self._forget(why)

    def retarget(self, file: ChannelFile) -> None:
        """The instance's socket was made anew while it was expected back."""
        self.path = file.path
        self.absent = False
        self._nap.cancel()

    def _forget(self, why: str) -> None:
        if self.heartbeat.state is not HeartbeatState.GONE:
            self._apply(self.heartbeat.removed(why))
            self._end_round(f"the channel is gone: {why}")
        self._setup.pacer.schedule(self, self.heartbeat.due)
        if self._nursery is not None:
            self._nursery.cancel_scope.cancel()

    async def _stay_connected(self) -> None:
        backoff = Backoff()
        said = ""
        while True:
            try:
                port = self._dial()
            except ChannelFault as fault:
                # Once per kind of fault: a socket that refuses for a week is one line.
                if str(fault) != self._unreachable:
                    self._unreachable = str(fault)
                    _log.warning("%s: %s: %s; retrying", self.uuid, self.path, fault)
                at_once = False
            else:
                self._unreachable = ""
                beats = self.heartbeat.beats
                at_once = await self._converse(port)
                if self.heartbeat.beats > beats:
                    backoff.reset()
            if self.why != said:  # also where its state is the same
                said = self.why
                self._setup.on_change(self)
            if at_once:
                continue
            with trio.CancelScope() as self._nap:
                await trio.sleep(backoff.next_delay_s())
            if self._nap.cancelled_caught:
                backoff.reset()

    def _dial(self) -> Port:
        if self.absent:
            raise ChannelFault("its socket is gone, the instance is expected back")
        return self._setup.dialer.dial(self.path)

    async def _converse(self, port: Port) -> bool:
        """One connection, from its opening to its end; whether the next is to follow at once."""
        setup = self._setup
        connection = ChannelConnection(
            self.uuid, port, setup.limits, self._refusals, self._received
        )
        self._connection = connection
        try:
            await connection.carry(self._opened)
        finally:
            reconnects, crash, self._crash = connection.reconnect, self._crash, None
            connection.close(last_words=not (reconnects or crash is not None or self.gone))
            self._connection = None
            why = connection.why or "the host closed it"
            if self.heartbeat.state is not HeartbeatState.GONE:
                self._apply(self.heartbeat.closed(why))
                setup.pacer.schedule(self, self.heartbeat.due)
            self._end_round(f"the channel was closed: {why}")
        if crash is not None:
            raise crash
        if connection.heard:
            self._said_silent = False
        return reconnects

    def _opened(self) -> None:
        self._apply(self.heartbeat.opened(trio.current_time()))
        self._pace()

    def _break(self, why: str) -> None:
        """Ends the connection; what follows is for :meth:`_stay_connected` to say."""
        if self._connection is not None:
            self._connection.end(why)

    # -- messages ---------------------------------------------------------------------------

    def _received(self, message: Message, now: float) -> None:
        if type(message) is ActionResponse:
            self._responded(message)
            return
        due, health = self.heartbeat.due, self.heartbeat.health
        self._apply(self.heartbeat.received(message, now))
        if self.heartbeat.due != due:
            self._pace(shared=type(message) is Init)
        if type(message) is Init or self.heartbeat.health is not health:
            self._setup.on_change(self)

    def _responded(self, response: ActionResponse) -> None:
        # Only the id tells: a deployed client copies the other fields from its applications.
        if self.round is None or response.invocation_id != self.round.invocation_id:
            self._send(Nack(response.invocation_id, "no action with this invocation_id is open"))
            return
        self.round.window.answer(_GUEST, Answer(response.vote_result, response.log_msg))

    def _send(self, message: Message) -> None:
        if self._connection is not None:
            self._connection.send(message)

    # -- time -------------------------------------------------------------------------------

    def on_time(self, now: float) -> float:
        """The pacer's call: judges the last challenge and sends the next."""
        try:
            if now >= self.heartbeat.due:
                self._beat(now)
        except ChannelFault as fault:
            self._break(str(fault))
        except Exception as crash:  # noqa: BLE001 - raised again by this channel's own task
            self._crash = crash
            self._break("")
        else:
            return self.heartbeat.due
        # What was due is still due, but nobody is to be told on this connection.
        return math.inf

    def _take_in(self) -> bool:
        """What a window reads before its deadline decides; whether more is on its way."""
        if self._connection is not None:
            try:
                self._connection.read_now(trio.current_time())
            except ChannelFault as fault:
                self._break(str(fault))
        return False

    def _beat(self, now: float) -> None:
        late = self._setup.guard.is_late(now)
        unheard = self.heartbeat.owes_answer or not self.beating
        if unheard and self._connection is not None:
            # The answer, or the init, may have arrived and its reader not have run yet.
            self._connection.read_now(now)
        if now >= self.heartbeat.due:
            self._apply(self.heartbeat.tick(now, late=late))

    def _pace(self, *, shared: bool = False) -> None:
        pacer, due = self._setup.pacer, self.heartbeat.due
        if shared:
            together = pacer.shared_slot(trio.current_time(), due)
            if together is not None:
                self.heartbeat.align(together)
        pacer.schedule(self, self.heartbeat.due)

    # -- rounds -----------------------------------------------------------------------------

    def open_round(
        self, event: Event, notification: NotificationType, command_id: str = ""
    ) -> Round:
        """Opens a vote or notice and sends it.

        Raises:
            NotHeartbeating: the instance takes no part.
            RoundOpen: another round is open.
        """
        now = trio.current_time()
        if self.round is not None:
            raise RoundOpen(self.round.open_text(now))
        beat = self.heartbeat
        returns = EVENT_TABLE[event].effect is ExpectedEffect.RETURNS
        if self._nursery is None or not beat.connected or not (beat.is_heartbeating or returns):
            raise NotHeartbeating(f"{self.uuid} is not heartbeating: {self.why}")
        kind = window_of(event, notification)
        seconds = beat.profile.window_s(kind)
        ballot = Ballot(notification, [_GUEST])
        window = BallotWindow(
            kind, seconds, ballot, self._round_over, self._setup.guard, [self._take_in]
        )
        self.round = Round(event, notification, self._setup.new_id(), window, command_id)
        if not self.round.is_vote:
            self._apply(beat.notice_opened(event, now))
        self._nursery.start_soon(window.hold, {_GUEST: stay_silent})
        self._send(
            ActionNotify(self.round.invocation_id, event, notification, timeout_ms=seconds * 1000)
        )
        self._pace()
        return self.round

    def _round_over(self, outcome: Outcome) -> None:
        current = self.round
        if current is None:
            return
        self.round = None
        outcome = as_reported(current.window.ballot, current.window.seconds)
        current.outcome = outcome
        kind = ReportKind.VOTE if current.is_vote else ReportKind.NOTICE
        self._report(
            kind,
            outcome.reason,
            event=current.event,
            result=outcome.result,
            command_id=current.command_id,
        )
        if not current.is_vote and self.heartbeat.state is not HeartbeatState.GONE:
            self._apply(self.heartbeat.notice_over(current.event, trio.current_time()))
            self._pace()
        current.done.set()

    def _end_round(self, why: str) -> None:
        if self.round is not None:
            self.round.window.abort(why)

    # -- effects ----------------------------------------------------------------------------

    def restarts(self, what: str) -> None:
        """A command restarts the instance, which was not told: expect its silence and its return.

        Args:
            what: whose command it is, for reports: an event or a corrective action.
        """
        if self.heartbeat.state is not HeartbeatState.GONE:
            self._tell(self.heartbeat.restarts(what, trio.current_time()))

    def stops(self, what: str) -> None:
        """A command stops the instance, which was not told: expect its silence."""
        if self.heartbeat.state is not HeartbeatState.GONE:
            self._tell(self.heartbeat.stops(what, trio.current_time()))

    def call_off(self, what: str, why: str) -> None:
        """``what`` did not happen; the instance should be answering, unless its socket is gone."""
        # Without a socket it did go down, whatever the command says: RESTART tells the rest.
        if self.heartbeat.state is not HeartbeatState.GONE and not self.absent:
            self._tell(self.heartbeat.called_off(what, why, trio.current_time()))

    def carried_out(self, what: str) -> None:
        """The command that performs ``what`` has ended well: a return is final from now on."""
        self.heartbeat.carried_out(what, trio.current_time())

    def runs_again(self, why: str) -> None:
        """An orchestrator says that a pause, suspend or live migration is over."""
        before = self.heartbeat.state
        effects = self.heartbeat.runs_again(why, trio.current_time())
        if self.heartbeat.state is not before:
            self._tell(effects)

    def _tell(self, effects: tuple[hb.Effect, ...]) -> None:
        self._apply(effects)
        self._pace()
        self._setup.on_change(self)  # of one that was not heartbeating there is no report

    def _apply(self, effects: tuple[hb.Effect, ...]) -> None:
        # Every change of this kind has an effect, so that a plain beat costs nothing here.
        if effects and self.beating is not self._counted:
            self._counted = self.beating
            self._setup.on_beating(1 if self.beating else -1)
        for effect in effects:
            if (
                type(effect) is hb.SendToGuest
            ):  # nearly all are; a class pattern takes four times as long
                self._send(effect.message)
                continue
            match effect:
                case hb.Heartbeating(why):
                    self._report(ReportKind.HEARTBEATING, why)
                case hb.Stopped(why):
                    self._report(ReportKind.STOPPED, why)
                case hb.RestartExpired(why):
                    self._report(ReportKind.RESTART_EXPIRED, why)
                case hb.Lost(why, action):
                    self._report(ReportKind.LOSS, why, corrective_action=action)
                    self._setup.on_failure(self, action, why)
                case hb.Ill(why, action):
                    self._report(ReportKind.UNHEALTHY, why, corrective_action=action)
                    self._setup.on_failure(self, action, why)
                case hb.Unwatched(why):
                    name = self.heartbeat.profile.name
                    _log.warning("%s (%s): ALARM: unwatched: %s", self.uuid, name, why)
                    self._setup.on_change(self)
                case hb.Reconnect(why):
                    _log.info("%s: reconnecting: %s", self.uuid, why)
                    self._say_silent()
                    if self._connection is not None:
                        self._connection.reconnect = True
                    self._break(why)
                case hb.OpenRestart(seconds):
                    self.restart.open(seconds, self._nursery)
                case hb.Note(text):
                    _log.info("%s: %s", self.uuid, text)
        if self.heartbeat.state is not HeartbeatState.RESTARTING:
            self.restart.close()
            if self.absent:  # nobody waits for its socket any more, whatever ended that
                self._forget("its socket did not come back")

    def _say_silent(self) -> None:
        # QEMU bears one client: a second one connects, and waits in the backlog without a sign.
        heard = self._connection is not None and self._connection.heard
        if not heard and not self._said_silent:
            self._said_silent = True
            text = "%s: nothing was heard: no guest runs, or another client holds the channel %s"
            _log.warning(text, self.uuid, self.path)

    def _restart_expired(self) -> None:
        self._apply(self.heartbeat.restart_expired(trio.current_time()))
        self._pace()

    def _report(
        self,
        kind: ReportKind,
        why: str,
        *,
        event: Event | None = None,
        result: VoteResult | None = None,
        corrective_action: CorrectiveAction | None = None,
        command_id: str = "",
    ) -> None:
        self.last = Report(
            time=self._setup.reports.now(),
            kind=kind,
            uuid=self.uuid,
            name=self.heartbeat.profile.name,
            reason=why,
            event=event,
            result=result,
            corrective_action=corrective_action,
            command_id=command_id,
        )
        self._setup.reports.publish(self.last)
        self._setup.on_change(self)
