"""What holds whatever happens: one heartbeat under a driver and a guest that act by chance."""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Callable
from itertools import count

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from hbtrio.fsm.domain import DomainChange
from hbtrio.fsm.heartbeat.challenges import PROBES
from hbtrio.fsm.heartbeat.domain_changes import ENDS_S
from hbtrio.fsm.heartbeat.effects import (
    Absent,
    Effect,
    Heartbeating,
    Lost,
    OpenRestart,
    Paused,
    Reconnect,
    RestartExpired,
    SendToGuest,
    Stopped,
    Unwatched,
)
from hbtrio.fsm.heartbeat.inits import INITS, INITS_PERIOD_S
from hbtrio.fsm.heartbeat.machine import Heartbeat
from hbtrio.fsm.heartbeat.outage import CALL_OFF_MIGRATION_S, CALL_OFF_S
from hbtrio.fsm.heartbeat.presence import GUEST_KNOWN
from hbtrio.fsm.heartbeat.rules import EXCUSED, SLACK_S, HeartbeatRules
from hbtrio.fsm.heartbeat.table import EXPECTED_BACK, FREEZING, HEARTBEATING, PROBED, HeartbeatState
from hbtrio.wire.channel_messages import OFFERED, Challenge, Exit, InitAck
from hbtrio.wire.vocabulary import EVENT_TABLE, CorrectiveAction, Event, ExpectedEffect, Health
from support.heartbeat_bench import answer, init

S = HeartbeatState
EVENTS = list(EVENT_TABLE)
FREEZES = [event for event, rule in EVENT_TABLE.items() if rule.effect is ExpectedEffect.FREEZES]
RECONNECT_SILENT_S = 30.0
#: How long a step of the driver may take at most before it is a busy loop.
MAX_TICKS = 2000

intervals_ms = st.sampled_from([0, 400, 650, 1000, 3000, 10_000])
spans_s = st.floats(0.0, 40.0) | st.sampled_from([0.4, 1.0, 2.0, 5.0, 30.0])


class Driver(RuleBasedStateMachine):
    """The driver's part is deterministic and legal, the guest's part and the time are not.

    It ticks a little after ``due``, having delivered before it what has arrived, closes on a
    reconnect, and keeps the RESTART window.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.numbers = count(1)
        #: Challenges that the guest will answer, and when; and all that were ever sent.
        self.replies: list[tuple[float, int]] = []
        self.sent: list[int] = []
        self.sent_at = -math.inf
        #: How long the guest takes to answer; None when it does not.
        self.delay_s: float | None = None
        #: How much later than due the driver ticks, and whether it says that it is late.
        self.jitter_s = 0.0
        self.late = False
        #: For how long it has been late since the last answer.
        self.late_s = 0.0
        self.notice: Event | None = None
        self.restart_at = math.inf

        # What the checks know.
        self.up = False
        self.suspended_by = ""
        #: What is in progress, or was last, by name.
        self.what = ""
        #: What is in progress, or was last, freezes the VM, and is called off then.
        self.freezes = False
        self.call_off_at = math.inf
        #: Since when its command has ended; since when it is known to be over.
        self.carried_out_at = math.inf
        self.over = True
        #: Whether it came back since, and whether an alarm was raised about it.
        self.returned = self.alarmed = False
        #: A guest was up and did not exit since, unless told to; and so when a notice was opened.
        self.guest = self.guest_told = False
        self.expiring = False
        #: The present step is a change that libvirt reports.
        self.by_libvirt = False
        #: Since when it has ended or is ending, until that is reported.
        self.ending_since = math.inf
        self.extended = False
        self.allowed_losses = 0
        self.acks: deque[float] = deque(maxlen=INITS + 1)
        self.proof_at = -math.inf  # the last answer that counted, or the first init after it
        self.init_since = False
        self.shortest_s = math.inf
        self.probes = 0

    @initialize(
        now=st.integers(0, 10**6),
        threshold=st.integers(0, 3),
        reporting=st.booleans(),
        beats=st.booleans(),
    )
    def start(self, now: int, threshold: int, reporting: bool, beats: bool) -> None:
        self.now = now / 10  # no binary fractions: rounding is part of the game
        self.threshold = threshold
        self.beat = Heartbeat(
            HeartbeatRules(threshold, RECONNECT_SILENT_S), new_id=lambda: next(self.numbers)
        )
        self.beat.situation.reporting = reporting
        if beats:
            self.open()
            self.live()

    # -- checks -----------------------------------------------------------------------------

    def take(self, effects: tuple[Effect, ...], before: HeartbeatState) -> None:
        """Carries out the effects as the driver does, and checks each."""
        for effect in effects:
            match effect:
                case SendToGuest(Challenge(number)):
                    assert self.beat.connected
                    self.challenged(number, before)
                case SendToGuest(InitAck()):
                    assert self.beat.connected
                    self.acks.append(self.now)
                    if len(self.acks) > INITS:
                        assert self.now - self.acks[0] >= INITS_PERIOD_S
                case SendToGuest(message):
                    raise AssertionError(message)
                case Heartbeating():
                    assert not self.up
                    assert self.beat.state in HEARTBEATING
                    if before is S.PAUSED:
                        self.over = True  # libvirt saw it stand still
                    provisional = before is S.SUSPENDED and self.freezes and not self.is_final
                    assert (self.beat.state is S.PROVISIONAL) == provisional
                    self.up = self.guest = self.returned = True
                    self.suspended_by = ""
                    self.allowed_losses = 1
                case Stopped():
                    if before is S.STOPPED and self.beat.state is S.STOPPED and not self.by_libvirt:
                        assert self.now >= self.ending_since + ENDS_S - 1e-6
                    else:
                        assert self.up or self.beat.state is S.GONE or self.by_libvirt
                    self.up, self.ending_since = False, math.inf
                case Paused():
                    assert self.beat.state is S.PAUSED
                    self.up = False
                case Absent():
                    assert self.expiring or before is S.WAITING
                    assert self.beat.state is S.ABSENT
                case Unwatched(is_alarming=False):
                    assert before is S.WAITING
                    assert self.beat.state is S.UNHEARD
                case Unwatched():
                    self.unwatched(before)
                case Lost():
                    self.lost(before)
                case RestartExpired():
                    assert self.expiring
                    assert self.suspended_by == "restart" or before is S.RETURNING
                case OpenRestart(seconds):
                    assert not (self.expiring and self.extended)
                    self.extended = self.expiring
                    self.restart_at = self.now + seconds
                    self.allowed_losses = 1
                case Reconnect():
                    assert effect is effects[-1]
                    assert self.beat.connected
        if not self.beat.is_expected_back:
            self.restart_at = math.inf
        if effects and isinstance(effects[-1], Reconnect):
            self.close()

    def challenged(self, number: int, before: HeartbeatState) -> None:
        new = number not in self.sent[-1:]
        if new:
            self.sent_at = self.now
        self.sent.append(number)
        if self.delay_s is not None:
            heapq.heappush(self.replies, (self.now + self.delay_s, number))
        if new and before in PROBED and self.beat.state in PROBED and not self.late:
            self.probes += 1
            assert self.probes <= PROBES + self.allowed_probes

    @property
    def is_over(self) -> bool:
        """Whether what freezes the VM is known to be over, or its command to have ended."""
        return not self.freezes or self.over or self.now >= self.call_off_at

    @property
    def is_final(self) -> bool:
        """Whether an answer to the last challenge makes a return final."""
        return self.is_over or self.sent_at >= self.carried_out_at

    def unwatched(self, before: HeartbeatState) -> None:
        """Once for each event, of one that came back, with nobody saying that it is over."""
        assert before in (S.PROVISIONAL, S.SUSPENDED)
        assert self.beat.state is S.UNWATCHED
        assert not self.up
        assert self.freezes
        assert self.returned
        assert not self.over
        assert math.isinf(self.carried_out_at)
        assert self.now >= self.call_off_at
        assert not self.alarmed
        excused_s = EXCUSED * self.beat.profile.interval_s if self.late else 0.0
        assert self.now >= self.call_off_at + excused_s - 1e-6
        self.alarmed = True
        self.probes = 0

    def lost(self, before: HeartbeatState) -> None:
        assert self.beat.reporting
        assert not self.late or self.expiring or self.no_excuse
        assert self.beat.state is S.LOST
        if self.by_libvirt:
            self.up = False
            return
        assert before in (S.HEARTBEATING, S.RESTARTING, S.RETURNING)
        assert self.allowed_losses > 0
        self.allowed_losses -= 1
        if self.expiring:
            assert before in EXPECTED_BACK
            assert self.guest
            assert not self.up
            least_s = 2 * self.beat.profile.interval_s
        else:
            assert before is S.HEARTBEATING
            assert self.up
            assert not self.suspended_by
            assert self.is_over or self.carried_out_at < self.now
            least_s = (self.threshold + 1) * (self.shortest_s - SLACK_S)
            self.up = False
        if not (self.expiring and self.init_since):
            assert self.now - self.proof_at >= least_s - 1e-6

    @property
    def no_excuse(self) -> bool:
        """Whether it has been late for so long that lateness may excuse nothing any more."""
        return self.late_s >= EXCUSED * self.shortest_s

    @property
    def alive(self) -> bool:
        return self.beat.state is not S.GONE

    @property
    def connected(self) -> bool:
        return self.alive and self.beat.connected

    @property
    def allowed_probes(self) -> int:
        """An init asks for a challenge of its own."""
        return PROBES if self.init_since else 0

    @invariant()
    def due_is_sane(self) -> None:
        if not hasattr(self, "beat"):
            return
        beat = self.beat
        if not beat.connected:
            suspended = beat.state is S.SUSPENDED and self.returned
            waits = beat.situation.awaits_guest or beat.situation.awaits_end
            assert beat.due == math.inf or suspended or waits
            assert not beat.owes_answer
        if beat.due == math.inf:
            assert not beat.owes_answer
            assert not beat.connected or beat.state in (S.SUSPENDED, S.PAUSED)
        if beat.state in HEARTBEATING:
            assert beat.connected
            assert beat.due <= self.now + beat.profile.interval_s
        assert beat.is_heartbeating == (
            beat.connected
            and beat.state
            not in (
                S.WAITING,
                S.UNWATCHED,
                S.UNHEARD,
                S.LOST,
                S.PAUSED,
                S.STOPPED,
                S.ABSENT,
                S.GONE,
            )
        )
        assert self.up == (beat.state in HEARTBEATING) or not beat.reporting

    # -- time -------------------------------------------------------------------------------

    def tick(self) -> None:
        before = self.beat.state
        effects = self.beat.tick(self.now, late=self.late)
        assert self.beat.due > self.now
        if self.late:
            self.probes = 0
        self.take(effects, before)

    def receive(self, number: int) -> None:
        before, beats, late = self.beat.state, self.beat.beats, self.beat.late_answers
        effects = self.beat.received(
            answer(number, Health.UNHEALTHY, CorrectiveAction.LOG, "load"), self.now
        )
        if self.beat.beats > beats:
            assert number == self.sent[-1]
            self.proof_at = self.now
            self.late_s = 0.0
            self.init_since = False
            self.shortest_s = self.beat.profile.interval_s
            if before is S.PROVISIONAL:
                assert self.beat.state is (S.HEARTBEATING if self.is_final else S.PROVISIONAL)
        else:
            assert not any(isinstance(effect, Heartbeating) for effect in effects)
        if self.beat.beats > beats or self.beat.late_answers > late:
            self.probes = 0
        self.take(effects, before)

    def pass_time(self, span_s: float) -> None:
        end = self.now + span_s
        for _ in range(MAX_TICKS):
            tick_at = max(self.now, self.beat.due + self.jitter_s)
            reply_at = self.replies[0][0] if self.replies else math.inf
            at = min(tick_at, reply_at, self.restart_at)
            if at > end:
                break
            self.now = max(self.now, at)
            if reply_at <= at:
                self.receive(heapq.heappop(self.replies)[1])
            elif self.restart_at <= at:
                self.restart_at = math.inf
                before, self.expiring = self.beat.state, True
                self.take(self.beat.losses.restart_expired(self.now), before)
                self.expiring = False
            else:
                self.tick()
        else:
            raise AssertionError("a busy loop")
        self.now = end

    @precondition(lambda self: self.alive)
    @rule(span_s=spans_s)
    def wait(self, span_s: float) -> None:
        self.pass_time(span_s)

    @precondition(lambda self: self.alive)
    @rule(span_s=spans_s, jitter_s=st.sampled_from([0.0, 0.015, 0.3, 0.7]))
    def wait_with_a_driver_that_is_not_punctual(self, span_s: float, jitter_s: float) -> None:
        self.jitter_s = jitter_s
        self.pass_time(span_s)
        self.jitter_s = 0.0

    @precondition(lambda self: self.alive)
    @rule(stall_s=st.floats(0.8, 100.0), guest_too=st.booleans())
    def stall(self, stall_s: float, guest_too: bool) -> None:
        """The whole host is not scheduled; then it is late for two seconds."""
        if guest_too:
            self.delay_s = None
            self.replies.clear()
        self.now += stall_s
        self.beat.stood_still(stall_s)
        self.proof_at += stall_s
        self.call_off_at += stall_s
        self.ending_since += stall_s
        self.late = True
        self.late_s += 2.0
        self.pass_time(2.0)
        self.late = False
        self.probes = 0

    @precondition(lambda self: self.alive)
    @rule(stall_s=st.floats(0.0, 0.8))
    def stall_shortly(self, stall_s: float) -> None:
        """For too short a time to be late."""
        self.now += stall_s
        self.beat.stood_still(stall_s)
        self.proof_at += stall_s
        self.call_off_at += stall_s
        self.ending_since += stall_s

    @precondition(lambda self: self.connected)
    @rule(earlier_s=st.floats(0.0, 5.0))
    def align(self, earlier_s: float) -> None:
        if self.beat.due < math.inf:
            self.beat.align(max(self.now, self.beat.due - earlier_s))

    # -- the guest --------------------------------------------------------------------------

    @rule(delay=st.none() | st.sampled_from([0.0, 0.01, 0.2, 0.5, 1.5, 7.0]))
    def behave(self, delay: float | None) -> None:
        self.delay_s = delay

    @precondition(lambda self: self.connected)
    @rule(interval_ms=intervals_ms, restart_secs=st.sampled_from([0, 5, 60]))
    def say_init(self, interval_ms: int, restart_secs: int) -> None:
        before, acks = self.beat.state, len(self.acks)
        effects = self.beat.received(
            init(interval_ms=interval_ms, restart_secs=restart_secs), self.now
        )
        heard = SendToGuest(InitAck(1804289383, OFFERED)) in effects
        assert heard or acks >= INITS
        if heard:
            if not self.init_since:
                self.proof_at = max(self.proof_at, self.now) if self.up else -math.inf
            self.init_since = True
            self.shortest_s = min(self.shortest_s, self.beat.profile.interval_s)
            self.probes = 0
        assert not any(isinstance(effect, Heartbeating | Stopped | Lost) for effect in effects)
        self.take(effects, before)

    @precondition(lambda self: self.connected)
    @rule(span_s=st.sampled_from([1.7, 2.0, 5.0]), times=st.integers(1, 12))
    def greet_again_and_again(self, span_s: float, times: int) -> None:
        for _ in range(times):
            if not self.connected:
                break
            self.say_init(1000, 60)
            self.pass_time(span_s)

    @precondition(lambda self: self.connected)
    @rule(back=st.integers(1, 12))
    def answer_in_one_burst(self, back: int) -> None:
        """All of the last challenges at once, the old ones first, whenever they were sent."""
        for number in self.sent[-back:]:
            self.receive(number)

    @precondition(lambda self: self.connected)
    @rule(number=st.integers(-3, 2**31))
    def answer_nonsense(self, number: int) -> None:
        if number not in self.sent[-1:]:
            beats = self.beat.beats
            self.receive(number)
            assert self.beat.beats == beats

    @precondition(lambda self: self.connected)
    @rule()
    def say_exit(self) -> None:
        before = self.beat.state
        effects = self.beat.received(Exit("bye"), self.now)
        self.forget()
        if before is not S.RESTARTING and not self.is_told_to_restart:
            self.guest = False
        if before in FREEZING:
            self.suspended_by = ""
            self.over = True
        self.take(effects, before)

    @property
    def is_told_to_restart(self) -> bool:
        """Whether the guest was notified of a restart: if it exits then, it is expected back."""
        notice = self.notice
        restarts = notice and EVENT_TABLE[notice].effect is ExpectedEffect.RESTARTS
        return bool(restarts) and self.guest_told

    def forget(self) -> None:
        self.proof_at = -math.inf
        self.init_since = False
        self.shortest_s = math.inf
        self.probes = 0

    # -- the connection ---------------------------------------------------------------------

    @precondition(lambda self: self.alive and not self.beat.connected)
    @rule()
    def open(self) -> None:
        before = self.beat.state
        self.forget()
        self.replies.clear()
        self.take(self.beat.opened(self.now), before)

    @precondition(lambda self: self.connected)
    @rule()
    def close(self) -> None:
        before = self.beat.state
        effects = self.beat.closed("reset")
        self.forget()
        self.replies.clear()
        self.take(effects, before)

    @precondition(lambda self: self.alive)
    @rule(sure=st.integers(0, 9))
    def remove(self, sure: int) -> None:
        if sure == 0:
            before = self.beat.state
            self.replies.clear()
            self.restart_at = math.inf
            self.take(self.beat.removed("gone"), before)
            assert not self.up

    # -- events around the VM ---------------------------------------------------------------

    @precondition(lambda self: self.alive and self.notice is None)
    @rule(event=st.sampled_from(EVENTS))
    def open_notice(self, event: Event) -> None:
        before = self.beat.state
        effects = self.beat.announced.notice_opened(event, self.now)
        self.notice, self.guest_told = event, self.guest
        if EVENT_TABLE[event].effect is ExpectedEffect.RETURNS and before is not S.RESTARTING:
            self.suspended_by = ""
            self.over = True
        elif EVENT_TABLE[event].effect is not ExpectedEffect.RETURNS:
            assert effects == ()
        self.take(effects, before)

    @precondition(lambda self: self.alive and self.notice is not None)
    @rule()
    def end_notice(self) -> None:
        assert self.notice is not None
        event, self.notice = self.notice, None
        effect = EVENT_TABLE[event].effect
        before = self.beat.state
        effects = self.beat.announced.notice_over(event, self.now)
        if effect is ExpectedEffect.RETURNS:
            assert effects == ()
        else:
            if effect is ExpectedEffect.RESTARTS:
                self.guest = self.guest or self.guest_told
            self.suspend("restart" if effect is ExpectedEffect.RESTARTS else "suspension", event)
            if effect is ExpectedEffect.FREEZES:
                moves = event is Event.LIVE_MIGRATE_BEGIN
                self.freezes, self.over = True, False
                self.call_off_at = self.now + (CALL_OFF_MIGRATION_S if moves else CALL_OFF_S)
        self.take(effects, before)

    @precondition(lambda self: self.alive and self.notice is None)
    @rule(event=st.sampled_from(FREEZES))
    def announce_a_freeze(self, event: Event) -> None:
        self.open_notice(event)
        self.end_notice()

    @precondition(lambda self: self.alive)
    @rule(stops=st.booleans())
    def correct(self, stops: bool) -> None:
        """A corrective command, whatever the state."""
        before = self.beat.state
        method = self.beat.announced.stops if stops else self.beat.announced.restarts
        effects = method("by command", self.now)
        self.suspend("suspension" if stops else "restart", "by command")
        self.take(effects, before)

    def suspend(self, how: str, what: str) -> None:
        self.suspended_by, self.what = how, what
        self.freezes, self.over, self.returned, self.alarmed = False, True, False, False
        self.call_off_at = self.carried_out_at = math.inf
        self.proof_at = -math.inf
        self.init_since = False
        # A challenge on its way is a probe of its own.
        self.probes = 0
        self.allowed_losses = 1

    @precondition(lambda self: self.alive and self.what)
    @rule(other=st.booleans())
    def call_off(self, other: bool) -> None:
        before = self.beat.state
        what = "something else" if other else self.what
        effects = self.beat.announced.called_off(what, "it failed", self.now)
        if other:
            assert effects == ()
            assert self.beat.state is before
        else:
            assert self.beat.state not in (S.SUSPENDED, S.PROVISIONAL, S.RESTARTING)
            self.suspended_by = ""
            self.over = True
        self.take(effects, before)

    @precondition(lambda self: self.alive and self.what)
    @rule()
    def carry_out(self) -> None:
        before = self.beat.state
        self.beat.announced.carried_out(self.what, self.now)
        assert self.beat.state is before
        self.carried_out_at = min(self.carried_out_at, self.now)

    @precondition(lambda self: self.alive)
    @rule()
    def enable(self) -> None:
        before = self.beat.state
        effects = self.beat.announced.runs_again("enabled", self.now)
        if self.freezes and before in FREEZING:
            assert self.beat.state in (S.HEARTBEATING, S.RETURNING)
            self.suspended_by = ""
            self.over = True
        else:
            assert effects == ()
            assert self.beat.state is before
        self.take(effects, before)

    # -- libvirt ----------------------------------------------------------------------------

    @precondition(lambda self: self.alive)
    @rule(change=st.sampled_from(DomainChange), twice=st.booleans())
    def change_the_domain(self, change: DomainChange, twice: bool) -> None:
        for _ in range(2 if twice else 1):
            self.reported(lambda: self.beat.domain.changed(change, change.value, self.now))
        if change is DomainChange.PAUSED:
            assert self.beat.state is S.PAUSED
        elif change in (DomainChange.FAILED, DomainChange.PANICKED):
            assert self.beat.state in (S.LOST, S.STOPPED, S.RESTARTING)

    @precondition(lambda self: self.alive)
    @rule(times=st.integers(1, 5))
    def reset(self, times: int) -> None:
        for _ in range(times):
            self.reported(lambda: self.beat.domain.reset(self.now))

    def reported(self, report: Callable[[], tuple[Effect, ...]]) -> None:
        before, self.by_libvirt = self.beat.state, True
        effects = report()
        after, outage = self.beat.state, self.beat.situation.outage
        self.guest = self.beat.situation.presence in GUEST_KNOWN
        self.guest_told = self.guest_told and self.guest
        if after is not before:
            self.forget()
            self.what = outage.event
            self.over = after is not S.SUSPENDED and not self.beat.situation.is_in(S.SUSPENDED)
            self.freezes = outage.freezes
            self.suspended_by = {S.RESTARTING: "restart", S.SUSPENDED: "suspension"}.get(after, "")
        if after is S.STOPPED is not before:
            # It may be ending, and is reported once libvirt says how it ended.
            self.up = self.up and any(isinstance(effect, Stopped) for effect in effects)
            self.ending_since = self.now
        if any(isinstance(effect, OpenRestart) for effect in effects):
            self.probes = 0  # each reset opens RESTART anew, and has probes of its own
        self.take(effects, before)
        self.by_libvirt = False

    @precondition(lambda self: self.alive)
    @rule(span_s=st.sampled_from([5.0, 60.0, 400.0]))
    def stand_still(self, span_s: float) -> None:
        """A VM that libvirt calls paused is not lost, and nothing is opened for it."""
        self.change_the_domain(DomainChange.PAUSED, False)
        self.delay_s = None
        self.replies.clear()
        self.pass_time(span_s)
        assert self.beat.state is S.PAUSED
        assert self.restart_at == math.inf

    # -- what must come ---------------------------------------------------------------------

    @precondition(lambda self: self.connected and self.freezes and self.beat.state in FREEZING)
    @rule(frozen_s=st.sampled_from([5.0, 60.0, 200.0]))
    def freeze(self, frozen_s: float) -> None:
        """The VM stands still; once it runs it answers what waited, and then in time."""
        self.delay_s = None
        self.replies.clear()
        intervals = self.threshold + 1 + PROBES
        before, sent = self.beat.state, len(self.sent)
        self.pass_time(frozen_s)
        assert self.beat.state is not S.LOST
        if not self.connected:
            return
        if self.beat.state is before is S.SUSPENDED:
            # One may be in progress, with nothing missed so far; an init has one of its own.
            assert len(self.sent) - sent <= PROBES + 2
        waited = self.sent[max(0, sent - 1) :]
        self.delay_s = 0.1
        for number in waited:
            self.receive(number)
        self.pass_time(8.0)
        if frozen_s > (intervals + 1) * self.beat.profile.interval_s:
            assert self.beat.state in HEARTBEATING

    @precondition(lambda self: self.connected and self.beat.state in HEARTBEATING)
    @rule(greets=st.booleans())
    def die(self, greets: bool) -> None:
        """The guest falls silent for good, or hears nothing any more and greets all the while."""
        self.delay_s = None
        self.replies.clear()
        final = self.beat.state is S.HEARTBEATING
        if greets:
            for _ in range(11):  # with an interval of 10 s, so that each comes before the next miss
                if self.connected:
                    self.say_init(10_000, 60)
                self.pass_time(5.0)
        else:
            self.pass_time((self.threshold + 2) * self.beat.profile.interval_s + 0.1)
        silent = {S.LOST} if final else {S.SUSPENDED, S.UNWATCHED}
        assert self.beat.state in silent or not self.beat.connected

    @precondition(lambda self: self.alive)
    @rule()
    def live(self) -> None:
        """A guest that says init and answers in time beats, whatever went before."""
        self.pass_time(INITS_PERIOD_S)  # nothing is owed to one that greets too often
        self.delay_s = 0.1
        self.late = True
        self.pass_time(0.0)
        if not self.connected:
            self.open()
        self.say_init(1000, 60)
        self.pass_time(0.5)
        self.late = False
        assert self.beat.state in HEARTBEATING
        if self.is_over or not math.isinf(self.carried_out_at):
            assert self.beat.state is S.HEARTBEATING
        losses = self.allowed_losses
        self.pass_time(10.0)
        assert self.beat.state in HEARTBEATING
        assert self.allowed_losses == losses


def test_each_reset_within_a_freeze_has_probes_of_its_own() -> None:
    """Found by chance once: two resets, and a guest that is silent all the while."""
    driver = Driver()
    driver.start(now=0, threshold=1, reporting=True, beats=True)
    driver.announce_a_freeze(event=Event.PAUSE)
    driver.behave(delay=None)
    driver.replies.clear()
    for _ in range(3):
        driver.reset(times=1)
        assert driver.beat.state is S.RESTARTING
        driver.wait(span_s=5.0)
        assert driver.probes == PROBES


def test_a_freeze_of_which_a_late_process_missed_a_part_ends_with_the_next_answer() -> None:
    """Found by chance once: an excused miss, then one that ended the probes."""
    driver = Driver()
    driver.start(now=0, threshold=0, reporting=False, beats=True)
    driver.announce_a_freeze(event=Event.SUSPEND)
    driver.die(greets=False)
    driver.say_init(interval_ms=10000, restart_secs=0)
    driver.announce_a_freeze(event=Event.PAUSE)
    driver.wait(span_s=15.0)
    driver.stall(guest_too=False, stall_s=3.0)
    driver.freeze(frozen_s=60.0)
    assert driver.beat.state is S.PROVISIONAL


def test_a_freeze_that_libvirt_saw_is_over_with_an_answer() -> None:
    """Found by chance once: its guest was lost, and rightly so."""
    driver = Driver()
    driver.start(now=0, threshold=0, reporting=True, beats=False)
    driver.announce_a_freeze(event=Event.PAUSE)
    driver.stand_still(span_s=5.0)
    driver.live()
    driver.die(greets=False)
    assert driver.beat.state is S.LOST


def test_a_guest_that_leaves_for_a_restart_that_was_announced_is_expected_back() -> None:
    """Found by chance once: a command restarts its VM before the notice is over."""
    driver = Driver()
    driver.start(now=0, threshold=0, reporting=True, beats=True)
    driver.open_notice(event=Event.REBOOT)
    driver.say_exit()
    driver.correct(stops=False)
    driver.behave(delay=None)
    driver.wait(span_s=driver.beat.profile.restart_s + 1.0)
    assert driver.beat.state is S.LOST


Driver.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestHeartbeat = Driver.TestCase
