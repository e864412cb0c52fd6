"""Decides what the guest does on one application's connection (PROTOCOL.md, section 4).

An application registers and is then challenged once per interval of its registration. Two intervals
without a correct response make it silent, which counts as ill with its registered corrective
action; the next response sets its health again. As in the deployed guest, the first challenge comes
one interval after the registration, and later ones stay on that grid. No challenge is sent while
the last one is unanswered: an application that was stopped for an hour must not find an hour of
challenges in its socket.

:attr:`ApplicationSession.deadline` is when the machine needs to run: its task sleeps until then and
calls :meth:`ApplicationSession.expired`. One object serves one connection.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from typing import Final

from hbtrio.fsm.application_effects import (
    Answered,
    ApplicationStateChanged,
    AsksForTime,
    Effect,
    Ignored,
    InhibitionChanged,
    RegistrationChanged,
    RegistrationRefused,
    SendToApplication,
    StillIll,
    Withdrew,
    WithdrewReject,
)
from hbtrio.fsm.application_table import APPLICATION_TABLE, ApplicationEvent, ApplicationState
from hbtrio.fsm.inhibition import Inhibition
from hbtrio.policy.health_merge import HealthStatus
from hbtrio.policy.more_time import NOT_OPEN
from hbtrio.policy.profile import Profile
from hbtrio.wire.app_codec import MAX_APP_LOG_BYTES, MAX_APP_NAME_BYTES
from hbtrio.wire.app_messages import (
    AppActionNotify,
    AppActionResponse,
    AppChallenge,
    AppChallengeResponse,
    AppInhibit,
    AppInit,
    AppInitAck,
    AppMessage,
    AppMoreTime,
    AppReady,
    AppTimeGranted,
)
from hbtrio.wire.app_messages import Final as FinalMessage
from hbtrio.wire.channel_codec import plain_text
from hbtrio.wire.vocabulary import Event, NotificationType, VoteResult

#: A registration with a shorter interval is refused.
MIN_INTERVAL_MS: Final = 400

#: A challenge response is correct if it echoes one of this many latest challenges.
RECENT_CHALLENGES: Final = 4

#: Intervals without a correct challenge response that make an application silent.
PATIENCE: Final = 2

#: Seconds that an application has at least after a stall of this process: the stall may have been
#: the whole machine's.
LISTEN_S: Final = 0.2

#: How often in a row the end of the patience is put off because this process did not run.
EXCUSES: Final = 3


class ApplicationSession:
    """The session of one application, for the lifetime of its connection.

    Args:
        new_id: returns a new challenge or id, 0 to 2^31-1.
    """

    def __init__(self, new_id: Callable[[], int]) -> None:
        self.state = APPLICATION_TABLE.initial
        #: The values of its last registration, also after it signed off; windows are at least 1 s.
        self.profile = Profile()
        #: Its health for the merge; healthy while it is not registered.
        self.health = HealthStatus(True)
        #: What it inhibits; None if it is not registered or inhibits nothing.
        self.inhibition: Inhibition | None = None
        self._new_id = new_id
        self._recent: deque[int] = deque(maxlen=RECENT_CHALLENGES)
        self._awaiting = False
        self._challenge_at = math.inf
        #: When the application counts as silent, unless it answers; infinity if nothing is pending.
        self.silent_at = math.inf
        #: How long this process had not run when the last challenge was sent, in seconds.
        self._stalled_before_s = 0.0
        self._excuses = 0
        self._asked_id: int | None = None
        #: The event of the open vote; None for a notice.
        self._asked_event: Event | None = None
        #: The events that it has rejected, or inhibited, when they were voted on last.
        self._rejected: set[Event] = set()
        #: The interval of the refusal that was logged last.
        self._refused_ms: int | None = None

    @property
    def registered(self) -> bool:
        """Whether the application takes part in votes, notices and the guest's health."""
        return self.state not in (ApplicationState.UNREGISTERED, ApplicationState.GONE)

    @property
    def deadline(self) -> float:
        """When to call :meth:`expired`; infinity if nothing is pending."""
        return min(self._challenge_at, self.silent_at)

    def received(self, message: AppMessage, now: float) -> list[Effect]:
        """Handles a message of the application and returns the effects.

        Raises:
            IllegalEvent: the connection is closed.
        """
        match message:
            case AppInit():
                return self._init(message, now)
            case FinalMessage():
                effects = self._step(ApplicationEvent.FINAL_CAME)
                return [*self._end_inhibition(), *self._forget(), *effects]
            case AppChallengeResponse():
                return self._answer(message, now)
            case AppActionResponse(invocation_id=answered) if answered == self._asked_id:
                self._asked_id = None
                self._voted(message.vote_result)
                reason = plain_text(message.log_msg, MAX_APP_LOG_BYTES)
                return [Answered(message.vote_result, reason)]
            case AppInhibit():
                return self._inhibit(message, now)
            case AppMoreTime(invocation_id=asked) if asked == self._asked_id:
                return [AsksForTime(message)]
            case AppMoreTime(invocation_id=asked, request=number):
                return [SendToApplication(AppTimeGranted(asked, number, 0, NOT_OPEN))]
            case AppReady(event_type=event):
                return self._take_back(frozenset({event}))
            case AppActionResponse():
                return [Ignored("an answer to no vote or notice that is open")]
            case _:
                kind = type(message).__name__.removeprefix("App")
                return [Ignored(f"{kind}, which applications don't send")]

    def expired(self, now: float, *, late: bool, stalled_s: float) -> list[Effect]:
        """Handles the deadline and returns the effects; has no effect if called too early.

        Silence is counted while this process runs. An application gets its two intervals again if
        the process is late, and the time of shorter stalls since its challenge; at most ``EXCUSES``
        times in a row, so that it is still judged by a process that is always late.

        Args:
            now: the time, after what the application has sent was read.
            late: whether this process is late.
            stalled_s: how long this process has not run since its start, in seconds.
        """
        effects: list[Effect] = []
        interval_s = self.profile.interval_s
        patience_s = PATIENCE * interval_s
        if now >= self.silent_at:
            stall_s = stalled_s - self._stalled_before_s
            if (late or stall_s > 0) and self._excuses < EXCUSES:
                self._excuses += 1
                self._stalled_before_s = stalled_s
                self.silent_at = now + (patience_s if late else max(stall_s, LISTEN_S))
            else:
                self.silent_at = math.inf
                self.health = HealthStatus(
                    False,
                    self.profile.corrective_action,
                    f"Application {self.profile.name} heartbeat timeout "
                    f"{round(1000 * patience_s)} ms.",
                )
                effects += self._step(ApplicationEvent.TIMED_OUT)
        if now >= self._challenge_at:
            effects += self._step(ApplicationEvent.CHALLENGE_DUE)
            # The next point of the grid: missed challenges are not made up for.
            beats = math.floor((now - self._challenge_at) / interval_s) + 1
            self._challenge_at += beats * interval_s
            if self._challenge_at <= now:  # rounding
                self._challenge_at = now + interval_s
            if not self._awaiting:
                self._awaiting = True
                self._stalled_before_s = stalled_s
                # A challenge that was sent late is listened for as long as any other.
                self.silent_at = max(self.silent_at, now + interval_s)
                self._recent.append(self._new_id())
                effects.append(SendToApplication(AppChallenge(self._recent[-1])))
        return effects

    def ask(
        self, event: Event, notification: NotificationType, planned_at: int = 0
    ) -> list[Effect]:
        """Opens a vote or notice under a new id; exactly one response is accepted.

        A response still missing for the previous vote or notice is no longer accepted.

        Args:
            event: what it is about.
            notification: a vote or a notice.
            planned_at: the planned time in seconds since the epoch, 0 for none.

        Returns:
            The message to send, preceded by :class:`Withdrew` if a response was missing.

        Raises:
            ValueError: the application is not registered.
        """
        if not self.registered:
            raise ValueError("the application is not registered")
        effects = self._withdraw()
        self._asked_id = self._new_id()
        self._asked_event = event if notification is NotificationType.REVOCABLE else None
        asked = AppActionNotify(self._asked_id, event, notification, planned_at)
        effects.append(SendToApplication(asked))
        return effects

    def reject_inhibited(self, event: Event, notification: NotificationType) -> Inhibition | None:
        """Returns what rejects this vote without a question; None if it has to be asked.

        Such a reject is taken back by the end of the inhibition.
        """
        held = self.inhibition
        is_vote = notification is NotificationType.REVOCABLE
        if held is None or not is_vote or event not in held.events:
            return None
        self._rejected.add(event)
        return held

    def unask(self) -> None:
        """Ends the open vote or notice; a late response is ignored."""
        self._asked_id = None

    def closed(self, *, has_left: bool) -> list[Effect]:
        """Handles the end of the connection and returns the effects.

        Args:
            has_left: whether the application has ended it. What it inhibits is over then; if the
                guest closes the connection, the application comes back and inhibits again.

        Raises:
            IllegalEvent: the connection was closed before.
        """
        effects = self._step(ApplicationEvent.CONNECTION_CLOSED)
        over = self._end_inhibition() if has_left else []
        return [*over, *self._forget(), *effects]

    def _init(self, init: AppInit, now: float) -> list[Effect]:
        accepted = init.heartbeat_interval_ms >= MIN_INTERVAL_MS
        event = ApplicationEvent.INIT_ACCEPTED if accepted else ApplicationEvent.INIT_REFUSED
        # A second init replaces the first even if it is refused: an application that was refused
        # must not be challenged.
        changed = self._step(event)
        effects = [*self._forget(), SendToApplication(AppInitAck(accepted)), *changed]
        old, self.profile = (
            self.profile,
            Profile(
                name=plain_text(init.name, MAX_APP_NAME_BYTES),
                interval_s=init.heartbeat_interval_ms / 1000,
                vote_s=max(1, init.vote_secs),
                shutdown_notice_s=max(1, init.shutdown_notice_secs),
                suspend_notice_s=max(1, init.suspend_notice_secs),
                resume_notice_s=max(1, init.resume_notice_secs),
                corrective_action=init.corrective_action,
            ),
        )
        if accepted:
            self._challenge_at = now + self.profile.interval_s
            self.silent_at = now + PATIENCE * self.profile.interval_s
            if not changed and old != self.profile:
                effects.append(RegistrationChanged(old))
        # One that tries again and again is one line.
        refused_ms = None if accepted else init.heartbeat_interval_ms
        if refused_ms not in (None, self._refused_ms) and not changed:
            effects.append(RegistrationRefused())
        self._refused_ms = refused_ms
        return effects

    def _answer(self, answer: AppChallengeResponse, now: float) -> list[Effect]:
        if answer.heartbeat_response not in self._recent:
            return [Ignored("an answer to none of the last challenges")]
        self._awaiting = False
        self._excuses = 0
        self.silent_at = now + PATIENCE * self.profile.interval_s
        if answer.healthy:
            self.health = HealthStatus(True)
            return self._step(ApplicationEvent.ANSWERED_HEALTHY)
        reason = plain_text(answer.log_msg, MAX_APP_LOG_BYTES)
        old = self.health
        self.health = HealthStatus(
            False, answer.corrective_action, reason, source=self.profile.name
        )
        changed = self._step(ApplicationEvent.ANSWERED_ILL)
        return changed if changed or self.health == old else [StillIll()]

    def _inhibit(self, inhibit: AppInhibit, now: float) -> list[Effect]:
        if not self.registered:
            return [Ignored("an inhibition before the registration")]
        old, since = self.inhibition, now
        reason = plain_text(inhibit.log_msg, MAX_APP_LOG_BYTES)
        if old is not None and old.events == inhibit.events:
            since = old.since
        self.inhibition = Inhibition(inhibit.events, reason, since) if inhibit.events else None
        if self.inhibition == old:
            return []
        ended = frozenset() if old is None else old.events - inhibit.events
        return [InhibitionChanged(), *self._take_back(ended)]

    def _end_inhibition(self) -> list[Effect]:
        held, self.inhibition = self.inhibition, None
        return [] if held is None else self._take_back(held.events)

    def _take_back(self, events: frozenset[Event]) -> list[Effect]:
        """Takes rejects back, once each: nobody waits for one that has not rejected."""
        held = frozenset() if self.inhibition is None else self.inhibition.events
        known = (events & self._rejected) - held
        self._rejected -= known
        return [WithdrewReject(event) for event in sorted(known)]

    def _voted(self, result: VoteResult) -> None:
        if (event := self._asked_event) is not None:
            self._rejected.discard(event)
            if result is VoteResult.REJECT:
                self._rejected.add(event)

    def _forget(self) -> list[Effect]:
        """Resets everything that belongs to a registration."""
        self.inhibition = None
        self.health = HealthStatus(True)
        self._rejected.clear()
        self._recent.clear()
        self._awaiting = False
        self._excuses = 0
        self._challenge_at = self.silent_at = math.inf
        return self._withdraw()

    def _withdraw(self) -> list[Effect]:
        is_missing, self._asked_id = self._asked_id is not None, None
        return [Withdrew()] if is_missing else []

    def _step(self, event: ApplicationEvent) -> list[Effect]:
        old, new = self.state, APPLICATION_TABLE.after(self.state, event)
        self.state = new
        return [ApplicationStateChanged(old, new, event)] if new is not old else []
