"""One instance's channel on the host: its connection, its heartbeat and its one round at a time.

Everything here is a task of one nursery. The heartbeat machine decides; this module connects, reads
and sends for it, opens the windows and turns its effects into reports. When it fails, this instance
is reconnected and no other notices.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from contextlib import suppress

import attrs
import trio

from hbtrio.fsm import heartbeat as hb
from hbtrio.fsm.backoff import Backoff
from hbtrio.fsm.ballot import Ballot, Outcome, as_reported
from hbtrio.fsm.heartbeat import Heartbeat, HeartbeatSettings
from hbtrio.fsm.heartbeat_table import HeartbeatState
from hbtrio.fsm.ontime import OnTimeGuard
from hbtrio.fsm.quota import ByteBucket, Quota
from hbtrio.nursery.discovery import ChannelFile
from hbtrio.nursery.outbox import PortWriter
from hbtrio.nursery.pacer import Pacer
from hbtrio.nursery.port import ChannelFault, Dialer, Port
from hbtrio.nursery.reports import Report, ReportKind, Reports
from hbtrio.nursery.windows import Answer, Window, stay_silent
from hbtrio.wire.channel_codec import MessageError, decode
from hbtrio.wire.lines import LineReader
from hbtrio.wire.messages import ActionNotify, ActionResponse, Init, Message, Nack
from hbtrio.wire.vocabulary import (
    EVENT_TABLE,
    Aftermath,
    CorrectiveAction,
    Event,
    NotificationType,
    VoteResult,
    WindowKind,
    window_of,
)

_log = logging.getLogger("hbtrio.channel")

#: A message is at least this long; a flood of tiny lines is charged as if they were.
_LINE_COST = 128

#: More lines than this in one read are no messages any more.
_LINES_PER_READ = 64

#: The one voter that a host knows.
_GUEST = "guest"


class NotHeartbeating(Exception):
    """The instance takes no part: nothing is sent to it."""


class RoundOpen(Exception):
    """A vote or notice is open on this instance; deployed clients can't bear a second one."""


@attrs.frozen
class ChannelSetup:
    """What every channel of a host is handed: the world, and the host's settings."""

    dialer: Dialer
    pacer: Pacer
    guard: OnTimeGuard
    reports: Reports
    new_id: Callable[[], int]
    heartbeat: HeartbeatSettings
    line_bytes: int
    bytes_per_s: float
    burst_bytes: int
    #: Told of each loss and ill health that is reported, with the action wanted.
    on_failure: Callable[[Channel, CorrectiveAction, str], None]
    #: Told of each instance that begins (+1) or ceases (-1) to be heartbeating.
    on_beating: Callable[[int], None]
    #: Told of each instance whose state or profile has changed.
    on_change: Callable[[Channel], None]


@attrs.define(eq=False)
class Round:
    """A vote or notice on this instance, from its opening to its one outcome."""

    event: Event
    notification: NotificationType
    invocation_id: int
    window: Window
    #: The agent's command that opened it, or "".
    command_id: str = ""
    done: trio.Event = attrs.field(factory=trio.Event)
    outcome: Outcome | None = None

    @property
    def is_vote(self) -> bool:
        """Whether it is a vote; else a notice."""
        return self.notification is NotificationType.REVOCABLE


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
        #: The RESTART window while it is open.
        self.restart: Window | None = None
        #: Set when the RESTART window that was opened last is closed.
        self.restarted = trio.Event()
        #: The last report, for status.
        self.last: Report | None = None
        #: Set when the channel's file is gone while the instance is expected back.
        self.absent = False
        self.slot: int | None = None
        #: Messages that could not be used, and lines dropped in a flood.
        self.faulty = 0
        self._setup = setup
        self._writer: PortWriter | None = None
        self._connection = trio.CancelScope()
        self._nap = trio.CancelScope()
        self._nursery: trio.Nursery | None = None
        self._lines = LineReader(setup.line_bytes)
        self._nacks = Quota(5, 1.0)
        self._sequence = 0
        self._crash: Exception | None = None
        self._close_why = ""
        self._reconnect = False
        #: A guest was heard on this connection; and that none was heard has been said.
        self._heard = False
        self._said_silent = False
        self._counted = False

    @property
    def beating(self) -> bool:
        """Whether the instance is heartbeating."""
        return self.heartbeat.state is HeartbeatState.BEATING

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
                    self._open_restart(self.heartbeat.profile.restart_s)
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
                if str(fault) != said:
                    said = str(fault)
                    _log.warning("%s: %s: %s; retrying", self.uuid, self.path, fault)
            else:
                said = ""
                beats = self.heartbeat.beats
                await self._converse(port)
                if self.heartbeat.beats > beats:
                    backoff.reset()
                if self._reconnect:
                    continue
            with trio.CancelScope() as self._nap:
                await trio.sleep(backoff.next_delay_s())
            if self._nap.cancelled_caught:
                backoff.reset()

    def _dial(self) -> Port:
        if self.absent:
            raise ChannelFault("its socket is gone, the instance is expected back")
        return self._setup.dialer.dial(self.path)

    async def _converse(self, port: Port) -> None:
        """One connection, from its opening to its end."""
        self._lines.reset()
        self._sequence = 0
        self._close_why = ""
        self._reconnect = False
        self._heard = False
        try:
            with trio.CancelScope() as self._connection:
                async with trio.open_nursery() as nursery:
                    self._writer = PortWriter(port, nursery)
                    self._apply(self.heartbeat.opened(trio.current_time()))
                    self._pace()
                    # Not awaited here: each frame it hangs from costs at each of its wake-ups.
                    nursery.start_soon(self._read, port)
        except* ChannelFault as faults:
            self._close_why = str(faults.exceptions[0])
        finally:
            self._writer = None
            self._hear_last_words(port)
            port.close()
            why = self._close_why or "the host closed it"
            if self.heartbeat.state is not HeartbeatState.GONE:
                self._apply(self.heartbeat.closed(why))
                self._setup.pacer.schedule(self, self.heartbeat.due)
            self._end_round(f"the channel was closed: {why}")
        if self._crash is not None:
            crash, self._crash = self._crash, None
            raise crash

    def _hear_last_words(self, port: Port) -> None:
        # Who sends may find the connection broken before its reader has come to what the guest said
        # at the end: a reject must not turn into consent because the guest left after it.
        if self._reconnect or self._crash is not None or self.gone:
            return
        with suppress(ChannelFault):
            if data := port.receive_nowait():
                self._take(data, trio.current_time())

    def _break(self, why: str) -> None:
        """Ends the connection; what follows is for :meth:`_stay_connected` to say."""
        self._close_why = why
        self._connection.cancel()

    async def _read(self, port: Port) -> None:
        bucket = ByteBucket(self._setup.bytes_per_s, self._setup.burst_bytes, trio.current_time())
        while True:
            await port.wait_readable()
            data = port.receive_nowait()
            if data is None:
                continue
            if not data:
                self._break("closed by its peer")
                return
            now = trio.current_time()
            lines = self._take(data, now)
            # One read per wake-up keeps the neighbours on time, the bucket keeps the CPU.
            pause_s = bucket.take(max(len(data), lines * _LINE_COST), now)
            if pause_s > 0:
                await trio.sleep(pause_s)

    # -- messages ---------------------------------------------------------------------------

    def _take(self, data: bytes, now: float) -> int:
        self._heard = True
        self._said_silent = False
        lines = self._lines.feed(data)
        for line in lines[:_LINES_PER_READ]:
            try:
                message = decode(line)
            except MessageError as error:
                self._refuse(error, now)
            else:
                self._received(message, now)
        if len(lines) > _LINES_PER_READ:
            self.faulty += len(lines) - _LINES_PER_READ
        return len(lines)

    def _refuse(self, error: MessageError, now: float) -> None:
        self.faulty += 1
        if self._nacks.take(now):
            _log.warning("%s: %s", self.uuid, error.text)
            self._send(Nack(error.invocation_id, error.text))

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
        if self._writer is None:
            return
        self._sequence += 1
        try:
            self._writer.send(message, self._sequence)
        except ChannelFault as fault:
            # Whoever wanted to say something (the pacer, an operator's request) is not at fault.
            self._break(str(fault))

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
            self._connection.cancel()
        else:
            return self.heartbeat.due
        # What was due is still due, but nobody is to be told on this connection.
        return math.inf

    def _beat(self, now: float) -> None:
        late = self._setup.guard.is_late(now)
        unheard = self.heartbeat.owes_answer or not self.beating
        if unheard and self._writer is not None:
            # The answer, or the init, may have arrived and its reader not have run yet.
            data = self._writer.port.receive_nowait()
            if data:
                self._take(data, now)
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
            left_s = self.round.window.remaining_s(now)
            kind = "vote" if self.round.is_vote else "notice"
            raise RoundOpen(f"a {kind} on {self.round.event} is open for another {left_s:.1f} s")
        beat = self.heartbeat
        returns = EVENT_TABLE[event].aftermath is Aftermath.RETURNS
        if self._nursery is None or not beat.connected or not (beat.is_heartbeating or returns):
            raise NotHeartbeating(f"{self.uuid} is not heartbeating: {beat.why}")
        kind = window_of(event, notification)
        seconds = beat.profile.window_s(kind)
        ballot = Ballot(notification, [_GUEST])
        window = Window(kind, seconds, ballot, self._round_over, self._setup.guard)
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

    def act_upon(self, action: CorrectiveAction, why: str) -> None:
        """A corrective command restarts or stops the instance: expect its silence."""
        now = trio.current_time()
        if self.heartbeat.state is HeartbeatState.GONE:
            return
        if action is CorrectiveAction.REBOOT:
            self._apply(self.heartbeat.restarts(why, now))
        elif action is CorrectiveAction.STOP:
            self._apply(self.heartbeat.stops(why, now))
        self._pace()

    def call_off(self, why: str) -> None:
        """The event that was announced did not happen; the instance should be answering."""
        if self.heartbeat.state is not HeartbeatState.GONE:
            self._apply(self.heartbeat.called_off(why, trio.current_time()))
            self._pace()

    def _apply(self, effects: tuple[hb.Effect, ...]) -> None:
        # Every change of this kind has an effect, so that a plain beat costs nothing here.
        if effects and self.beating is not self._counted:
            self._counted = self.beating
            self._setup.on_beating(1 if self.beating else -1)
        for effect in effects:
            if type(effect) is hb.Send:  # nearly all are; a class pattern takes four times as long
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
                case hb.Reconnect(why):
                    _log.info("%s: reconnecting: %s", self.uuid, why)
                    self._say_silent()
                    self._reconnect = True
                    self._break(why)
                case hb.OpenRestart(seconds):
                    self._open_restart(seconds)
                case hb.Note(text):
                    _log.info("%s: %s", self.uuid, text)
        if self.restart is not None and self.heartbeat.state is not HeartbeatState.RESTARTING:
            self.restart.answer(_GUEST, Answer(VoteResult.COMPLETE))

    def _say_silent(self) -> None:
        # QEMU bears one client: a second one connects, and waits in the backlog without a sign.
        if not self._heard and not self._said_silent:
            self._said_silent = True
            text = "%s: nothing was heard: no guest runs, or another client holds the channel %s"
            _log.warning(text, self.uuid, self.path)

    def _open_restart(self, seconds: float) -> None:
        if self.restart is not None:
            self.restart.abort("it is being restarted again")
        ballot = Ballot(NotificationType.IRREVOCABLE, [_GUEST])
        window = Window(WindowKind.RESTART, seconds, ballot, self._restart_over, self._setup.guard)
        self.restart = window
        self.restarted = trio.Event()
        if self._nursery is not None:
            self._nursery.start_soon(window.hold, {_GUEST: stay_silent})

    def _restart_over(self, outcome: Outcome) -> None:
        self.restart = None
        over = self.restarted
        if outcome.result is VoteResult.TIMEOUT:
            self._expire_restart()
        over.set()

    def _expire_restart(self) -> None:
        self._apply(self.heartbeat.restart_expired(trio.current_time()))
        self._pace()
        if self.absent:
            self._forget("its socket did not come back")

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
            reason=why,
            event=event,
            result=result,
            corrective_action=corrective_action,
            command_id=command_id,
        )
        self._setup.reports.publish(self.last)
        self._setup.on_change(self)
