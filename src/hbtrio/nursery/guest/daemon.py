"""The guest daemon's nursery: the channel, the session's driver, the health script and the windows.

    guest
      time            the on-time guard
      session         sleeps until the session's deadline
      channel         opens the device, reads; opens it again
        writer        sends what is queued
      health          runs the health script
      action          one for each vote or notice under way: its window with its handlers

The session machine decides what to say; this module carries it out.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Final, Protocol

import attrs
import trio

from hbtrio.fsm import guest_session as fsm
from hbtrio.fsm.ballot import Ballot, Outcome
from hbtrio.fsm.guest_session import GuestSession, SessionSettings, SessionState
from hbtrio.nursery.guest.device import ChannelStream, Device, DeviceFault, DeviceMissing
from hbtrio.nursery.guest.health_script import HealthScript
from hbtrio.nursery.guest.outbox import Outbox
from hbtrio.nursery.time_guard import run_guard
from hbtrio.nursery.windows import BallotWindow, Handler
from hbtrio.policy.backoff import Backoff
from hbtrio.policy.health_merge import HealthMerge, HealthStatus
from hbtrio.policy.quota import Quota
from hbtrio.policy.time_guard import OnTimeGuard
from hbtrio.wire.channel_codec import MessageError, decode
from hbtrio.wire.channel_messages import ActionNotify, ActionResponse, ChallengeResponse
from hbtrio.wire.lines import LineReader
from hbtrio.wire.vocabulary import EVENT_TABLE, Health, NotificationType, VoteResult, window_of

_log = logging.getLogger("hbtrio.guest")

#: The guest answers this much before the host gives up; shorter windows are used whole.
_PROPAGATION_MS: Final = 1000

#: Votes and notices whose handlers are still being ended. A host has one open at a time.
_LINGERING: Final = 64

#: Inits that a host may leave unanswered before the log has a word about it.
_UNHEARD_INITS: Final = 3

#: The longest wait for a device that is missing, in seconds: looking for it costs next to nothing,
#: and a VM whose port has come is not to be silent for another minute.
_MISSING_S: Final = 3.0

#: Corrective actions asked for that have a line in the log in a minute; a health that changes with
#: every beat asks for one with every beat.
_REQUESTS: Final = 10

#: How long a farewell may take on a channel that nobody reads.
_FAREWELL_S: Final = 1.0


class Voters(Protocol):
    """Who is asked and told in this VM: the event script, and registered applications."""

    def handlers(self, notify: ActionNotify) -> Mapping[str, Handler]:
        """The handlers for this vote or notice, by name, as of this moment."""

    def health(self) -> list[HealthStatus]:
        """The health of those that have one of their own."""


@attrs.frozen
class GuestSetup:
    """Everything a guest is handed: its device, its voters, its settings, its luck."""

    device: Device
    voters: Voters
    session: SessionSettings
    health_script: HealthScript
    new_id: Callable[[], int]


@attrs.define
class _Hearing:
    """What has come of an open channel so far."""

    heard: bool = False
    #: It can't be read any more: even one that outlives its host has to be opened anew.
    failed: bool = False


class Guest:
    """The guest daemon, without signals and files: those belong to its command.

    Args:
        setup: what it works with.
        guard: the process's on-time guard, which it ticks.
    """

    def __init__(self, setup: GuestSetup, guard: OnTimeGuard) -> None:
        now = trio.current_time()
        self._setup = setup
        self._guard = guard
        self.session = GuestSession(setup.session, new_id=setup.new_id, now=now)
        self._health = HealthMerge(setup.session.corrective_action)
        self._health_script = setup.health_script
        self._voters = setup.voters
        self._outbox = Outbox()
        self._timer = trio.CancelScope()
        self._window: BallotWindow | None = None
        self._lingering = 0
        self._unheard_inits = 0
        self._requests = Quota(_REQUESTS, 60.0)
        self._health_changed = trio.Event()
        self._nursery: trio.Nursery | None = None
        self._stopping = trio.Event()

    async def run(self) -> None:
        """Runs until :meth:`stop`, or until cancelled (then the host hears no farewell)."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            nursery.start_soon(run_guard, self._guard, self._resting)
            nursery.start_soon(self._drive_session)
            nursery.start_soon(self._run_channel)
            nursery.start_soon(self._run_health)
            await self._stopping.wait()
            with trio.move_on_after(_FAREWELL_S):
                await self._outbox.flushed()
            nursery.cancel_scope.cancel()

    def stop(self) -> None:
        """Says farewell to the host and ends :meth:`run`; from then on the session is over."""
        if not self._stopping.is_set():
            self._stopping.set()
            self._apply(self.session.shutdown(trio.current_time()))

    def reload(self, setup: GuestSetup) -> None:
        """Takes over a configuration read again, except the device, and tells the host."""
        self._voters = setup.voters
        self._health.configured = setup.session.corrective_action
        self._health.forget_script()
        self._health_script = setup.health_script
        self._health_changed.set()
        self._apply(self.session.reload(setup.session, trio.current_time()))

    def _resting(self) -> bool:
        """Neither host nor application is there whose silence could be misjudged."""
        return math.isinf(self.session.deadline) and not self._voters.health()

    # -- the session ------------------------------------------------------------------------

    async def _drive_session(self) -> None:
        while True:
            with trio.CancelScope(deadline=self.session.deadline) as self._timer:
                await trio.sleep_forever()
            # Tasks woken together run in any order: what has arrived by now is read first.
            await trio.lowlevel.checkpoint()
            now = trio.current_time()
            if now >= self.session.deadline:
                if self.session.state is SessionState.ENABLING:
                    self._count_unheard_init()
                self._apply(self.session.expired(now, late=self._guard.is_late(now)))

    def _count_unheard_init(self) -> None:
        self._unheard_inits += 1
        if self._unheard_inits == _UNHEARD_INITS:  # said once, until a host is heard again
            _log.warning(
                "no host has acknowledged %d inits: none is there, or another process holds the "
                "channel",
                _UNHEARD_INITS,
            )

    def _apply(self, effects: list[fsm.Effect]) -> None:
        for effect in effects:
            match effect:
                case fsm.SendToHost(message):
                    self._outbox.put(message)
                case fsm.AnswerChallenge(number):
                    self._answer_challenge(number)
                case fsm.StartAction(notify):
                    self._start_action(notify)
                case fsm.AbortAction(why):
                    if self._window is not None:
                        self._window.abort(why)
                case fsm.SessionStateChanged(old, new, event):
                    if new is SessionState.ENABLED:
                        self._unheard_inits = 0
                    _log.info("heartbeat state change from %s to %s, event=%s.", old, new, event)
        self._timer.deadline = self.session.deadline

    def _answer_challenge(self, number: int) -> None:
        now = trio.current_time()
        report = self._health.report(self._voters.health(), now)
        asks = report.health is Health.UNHEALTHY and report.action.is_actionable
        # Not left to those who are ill: their lines may have been too many to be shown.
        if asks and self._requests.take(now):
            _log.warning("asking the host for %s: %s", report.action, report.reason)
        self._outbox.put(ChallengeResponse(number, report.health, report.action, report.reason))

    # -- the channel ------------------------------------------------------------------------

    async def _run_channel(self) -> None:
        backoff = Backoff()
        said = ""
        first = True
        while True:
            longest_s = math.inf
            try:
                stream = await self._setup.device.open()
            except DeviceFault as fault:
                if str(fault) != said:
                    said = str(fault)
                    _log.warning("channel can't be opened: %s; retrying", fault)
                if isinstance(fault, DeviceMissing):
                    longest_s = _MISSING_S
                self._channel_down()
            else:
                if said:
                    _log.info("channel is open again")
                said = ""
                try:
                    heard = await self._converse(stream, quiet=first)
                finally:
                    await stream.aclose()
                if heard:
                    backoff.reset()
                _log.warning("channel is closed")
            first = False
            await trio.sleep(backoff.next_delay_s(longest_s))

    async def _converse(self, stream: ChannelStream, *, quiet: bool) -> bool:
        """Uses an open channel until it fails; whether anything was heard on it.

        Args:
            stream: the open channel.
            quiet: the daemon has just started: the session is released by its timer, and a host
                that has only just connected too is given that time.
        """
        hearing = _Hearing()
        try:
            while True:
                if not quiet:
                    await stream.wait_connected()
                    if self._stopping.is_set():
                        return hearing.heard
                    self._apply(self.session.channel_up(trio.current_time()))
                quiet = False
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._write, stream, nursery.cancel_scope)
                    await self._read(stream, hearing)
                    nursery.cancel_scope.cancel()
                if hearing.failed or not stream.persistent:
                    return hearing.heard
                self._channel_down()
        except DeviceFault as fault:
            _log.info("channel: %s", fault)
            return hearing.heard
        finally:
            self._channel_down()

    async def _read(self, stream: ChannelStream, hearing: _Hearing) -> None:
        """Reads until the host is gone or the channel fails."""
        lines = LineReader()
        try:
            while data := await stream.receive():
                hearing.heard = True
                self._received(lines.feed(data))
        except DeviceFault as fault:
            _log.info("channel: %s", fault)
            hearing.failed = True

    def _channel_down(self) -> None:
        if not self._stopping.is_set():
            self._apply(self.session.channel_down(trio.current_time()))
        # What was meant for that host, the answers just aborted too, is of no use to the next.
        self._outbox.clear()

    async def _write(self, stream: ChannelStream, connection: trio.CancelScope) -> None:
        sequence = 0
        while True:
            sequence += 1
            data = await self._outbox.next(sequence)
            try:
                await stream.send(data)
            except DeviceFault as fault:
                # A persistent channel only lost this message: its host may be back already, with
                # no end of data seen.
                _log.info("channel: %s", fault)
                if not stream.persistent:
                    connection.cancel()
            self._outbox.sent()

    def _received(self, lines: list[bytes]) -> None:
        if self._stopping.is_set():
            return  # nothing may follow the farewell, which may still be on its way
        for line in lines:
            try:
                message = decode(line)
            except MessageError as error:
                _log.warning("message dropped: %s", error.text)
            else:
                self._apply(self.session.received(message, trio.current_time()))

    # -- health -----------------------------------------------------------------------------

    async def _run_health(self) -> None:
        while True:
            script, self._health_changed = self._health_script, trio.Event()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(script.run, partial(self._judged, script), self._guard)
                await self._health_changed.wait()
                nursery.cancel_scope.cancel()

    def _judged(self, script: HealthScript, healthy: bool, reason: str) -> None:
        # A run may end in the moment of a reload, before it can be cancelled.
        if script is self._health_script:
            self._health.script_result(healthy, reason)

    # -- votes and notices ------------------------------------------------------------------

    def _start_action(self, notify: ActionNotify) -> None:
        if self._window is not None:
            self._window.abort("superseded by a newer action")
        if notify.event_type not in EVENT_TABLE or notify.notification_type is (
            NotificationType.UNKNOWN
        ):
            # Nobody here can have an opinion on what nobody knows.
            self._respond(notify, Outcome(VoteResult.COMPLETE, ""))
            return
        if self._nursery is None or self._lingering >= _LINGERING:
            self._respond(notify, Outcome(VoteResult.ERROR, "too many actions at once"))
            return
        handlers = self._voters.handlers(notify)
        timeout_ms = max(0, notify.timeout_ms)
        if timeout_ms > _PROPAGATION_MS:
            timeout_ms -= _PROPAGATION_MS
        window = BallotWindow(
            window_of(notify.event_type, notify.notification_type),
            timeout_ms / 1000,
            Ballot(notify.notification_type, handlers),
            lambda outcome: self._respond(notify, outcome),
            self._guard,
        )
        _log.info(
            "%s %s: %s window of %g s, asking %s",
            notify.notification_type,
            notify.event_type,
            window.kind,
            window.seconds,
            ", ".join(handlers) or "nobody",
        )
        self._lingering += 1
        self._window = window
        self._nursery.start_soon(self._hold, window, handlers)

    async def _hold(self, window: BallotWindow, handlers: Mapping[str, Handler]) -> None:
        try:
            await window.hold(handlers)
        finally:
            self._lingering -= 1
            if self._window is window:
                self._window = None

    def _respond(self, notify: ActionNotify, outcome: Outcome) -> None:
        _log.info(
            "%s %s: %s%s",
            notify.notification_type,
            notify.event_type,
            outcome.result,
            f" ({outcome.reason})" if outcome.reason else "",
        )
        self._outbox.put(
            ActionResponse(
                invocation_id=notify.invocation_id,
                event_type=notify.event_type,
                notification_type=notify.notification_type,
                vote_result=outcome.result,
                log_msg=outcome.reason,
            )
        )
