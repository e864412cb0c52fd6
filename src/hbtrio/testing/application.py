"""One application that is connected to a scripted guest."""

from __future__ import annotations

import itertools
import math
import socket
from collections.abc import Callable
from datetime import datetime
from typing import Final

import anyio
import msgspec

from hbtrio.fsm import application_effects as fsm
from hbtrio.fsm.application import ApplicationSession
from hbtrio.testing.answers import Answer, Health
from hbtrio.testing.question import Question, in_seconds, known
from hbtrio.wire.app_codec import AppDecoder, encode
from hbtrio.wire.app_messages import (
    AppChallenge,
    AppChallengeResponse,
    AppInit,
    AppMessage,
)
from hbtrio.wire.vocabulary import Event, NotificationType, window_of

#: How long waits take at most, unless the test says otherwise, in seconds. An application of the
#: SDK tries to register again after at most 10 s.
WAIT_S: Final = 15.0

#: How late the task of the challenges may be before silence is counted anew, in seconds: the test's
#: machine was busy, and so was the application.
_LATE_S: Final = 0.5


class GuestApplication:
    """An application at a :class:`~hbtrio.testing.ScriptedGuest`, from connect to close.

    The guest makes it. Its methods are for the event loop of the guest.
    """

    def __init__(
        self, connection: socket.socket, changed: Callable[[], None], refuses: Callable[[], bool]
    ) -> None:
        self._socket = connection
        self._changed_for_guest = changed
        self._refuses = refuses
        self._session = ApplicationSession(itertools.count(1).__next__)
        self._decoder = AppDecoder()
        self._sequence = itertools.count(1)
        self._withheld = False
        #: Whether they were since the last one: an application is not silent for want of them.
        self._was_withheld = False
        #: How far the session's clock is ahead, because challenges were sent early; in seconds.
        self._ahead_s = 0.0
        self._challenged = False
        self._ended = False
        self._question: Question | None = None
        #: What it has rejected, and would not reject any more, as it has said since.
        self._ready: set[Event] = set()
        self._changed = anyio.Event()
        self._scope = anyio.CancelScope()
        self._answers: list[Answer] = []

    # -- what is known ------------------------------------------------------------------------

    @property
    def name(self) -> str:
        """The name of its last registration; empty before the first."""
        return self._session.profile.name

    @property
    def registered(self) -> bool:
        """Whether it is registered now."""
        return self._session.registered

    @property
    def heartbeat_s(self) -> float:
        """The interval of its registration, in seconds."""
        return self._session.profile.interval_s

    @property
    def health(self) -> Health:
        """Its health by its last answer to a challenge."""
        health = self._session.health
        return Health(self._session.state.value, health.reason, str(health.action))

    @property
    def answers(self) -> list[Answer]:
        """The answers to all votes and notices so far, in order of their end."""
        return list(self._answers)

    def window_s(self, event: Event | str, *, vote: bool) -> int:
        """Returns the window that it registered for a vote or notice, in seconds."""
        notification = NotificationType.REVOCABLE if vote else NotificationType.IRREVOCABLE
        return self._session.profile.window_s(window_of(known(event), notification))

    # -- what a test does ---------------------------------------------------------------------

    async def vote(
        self,
        event: Event | str,
        *,
        window_s: float | None = None,
        planned_at: datetime | None = None,
        max_extension_s: int = 0,
    ) -> Answer:
        """Asks for its vote on an event and waits for the answer or the end of the window.

        Args:
            event: such as ``stop``.
            window_s: the window of the VM, in seconds, which cuts the application's own; None:
                the application's own alone.
            planned_at: when an operator has planned the event for, with its zone, in whole seconds:
                what is less is cut off. None: it is not planned.
            max_extension_s: how much more time the host grants in all, in seconds, as
                ``[windows.max_extension_s]`` of its host.toml does; 0: none.

        Raises:
            ValueError: there is no such event, or ``planned_at`` has no zone.
            RuntimeError: the application is not registered.

        Cancelled, it ends the vote.
        """
        event = known(event)
        self._ready.discard(event)
        kind = NotificationType.REVOCABLE
        return await self._ask(event, kind, window_s, planned_at, max_extension_s)

    async def notify(
        self,
        event: Event | str,
        *,
        window_s: float | None = None,
        planned_at: datetime | None = None,
        max_extension_s: int = 0,
    ) -> Answer:
        """Sends the notice of an event and waits for the answer; see :meth:`vote`."""
        kind = NotificationType.IRREVOCABLE
        return await self._ask(known(event), kind, window_s, planned_at, max_extension_s)

    async def wait_ready(self, event: Event | str, *, timeout_s: float = WAIT_S) -> None:
        """Waits until it has said, by ``ready_for``, that it would not reject an event any more.

        It may have said so already. As at a host it counts once for each reject, until it is asked
        for its vote on the event again.

        Raises:
            ValueError: there is no such event.
            TimeoutError: it has not said so within ``timeout_s`` seconds, or has not rejected.
        """
        event = known(event)
        fault = f"did not say that it is ready for {event}"
        await self._wait(lambda: event in self._ready, timeout_s, fault)

    async def challenge(self, *, timeout_s: float = WAIT_S) -> Health:
        """Sends a challenge at once, also while they are withheld, and returns the health answered.

        If one is unanswered already, its answer is waited for.

        Raises:
            RuntimeError: the application is not registered, or leaves.
            TimeoutError: no answer came within ``timeout_s`` seconds.
        """
        self._must_be_registered()
        if not self._challenged:
            self._ahead_s += max(0.0, self._session.deadline - self._now())
            self._expire(late=False)
        await self._wait(lambda: not self._challenged, timeout_s, "did not answer the challenge")
        self._must_be_registered()
        return self.health

    def withhold_challenges(self) -> None:
        """Sends no challenge from now on, as a guest daemon that hangs."""
        self._withheld = self._was_withheld = True
        self._note_change()

    def resume_challenges(self) -> None:
        """Ends :meth:`withhold_challenges`."""
        self._withheld = False
        self._note_change()

    async def wait_health(self, state: str, *, timeout_s: float = WAIT_S) -> Health:
        """Waits until its health has this state, such as ``ill``, and returns it.

        Raises:
            TimeoutError: it was not so within ``timeout_s`` seconds.
        """
        await self._wait(lambda: self.health.state == state, timeout_s, f"is not {state}")
        return self.health

    def disconnect(self) -> None:
        """Closes its connection, as a guest daemon does that ends; it is gone at once."""
        self._end()
        self._scope.cancel()

    # -- its connection -------------------------------------------------------------------------

    async def run(self) -> None:
        """Serves the connection until its end, then closes it; for the guest."""
        try:
            with self._scope:
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(self._send_challenges)
                    while self._take_unread():
                        await anyio.wait_readable(self._socket)
                    tasks.cancel_scope.cancel()
        finally:
            self._end()
            self._socket.close()

    def _end(self) -> None:
        if not self._ended:
            self._ended = True
            self._apply(self._session.closed(has_left=True))
            self._note_change()

    async def _send_challenges(self) -> None:
        while True:
            deadline = math.inf if self._withheld else self._session.deadline - self._ahead_s
            changed = self._changed
            with anyio.CancelScope(deadline=deadline):
                await changed.wait()
                continue
            self._take_unread()
            self._expire(late=anyio.current_time() - deadline > _LATE_S)

    def _expire(self, *, late: bool) -> None:
        late, self._was_withheld = late or self._was_withheld, self._withheld
        self._apply(self._session.expired(self._now(), late=late, stalled_s=0.0))
        self._note_change()

    def _take_unread(self) -> bool:
        """Handles what has arrived; returns whether the connection goes on."""
        while not self._ended:
            try:
                data = self._socket.recv(65536)
            except BlockingIOError:
                return True
            except OSError:
                return False
            if not data:
                return False
            for message in self._decoder.feed(data):
                self._take(message)
        return False

    def _take(self, message: AppMessage) -> None:
        if isinstance(message, AppInit) and self._refuses():
            message = msgspec.structs.replace(message, heartbeat_interval_ms=0)
        effects = self._session.received(message, self._now())
        ignored = any(isinstance(effect, fsm.Ignored) for effect in effects)
        if not self._session.registered or (
            isinstance(message, AppChallengeResponse) and not ignored
        ):
            self._challenged = False
        self._apply(effects)
        self._note_change()

    def _apply(self, effects: list[fsm.Effect]) -> None:
        for effect in effects:
            match effect:
                case fsm.SendToApplication(message):
                    self._challenged |= isinstance(message, AppChallenge)
                    self._send(message)
                case fsm.Answered(result, reason):
                    self._close_question(str(result), reason)
                case fsm.Withdrew():
                    self._close_question("none")
                case fsm.AsksForTime(request) if self._question is not None:
                    self._send(self._question.more_time(request))
                case fsm.WithdrewReject(event):
                    self._ready.add(event)

    def _send(self, message: AppMessage) -> None:
        try:
            self._socket.send(encode(message, next(self._sequence)))
        except OSError:
            self._scope.cancel()  # it has left, or does not read some hundred messages

    def _close_question(self, result: str, reason: str = "") -> None:
        if self._question is not None:
            self._question.close(result, reason)
            self._question = None

    async def _ask(
        self,
        event: Event,
        notification: NotificationType,
        window_s: float | None,
        planned_at: datetime | None,
        max_extension_s: int,
    ) -> Answer:
        self._must_be_registered()
        profile = self._session.profile
        own_s = profile.window_s(window_of(event, notification))
        planned = in_seconds(planned_at)
        begun = anyio.current_time()
        question = Question(profile.name, own_s, window_s, max_extension_s)
        self._apply(self._session.ask(event, notification, planned))
        self._question = question
        try:
            await question.wait(self._take_unread)
        finally:
            if self._question is question:
                self._question = None
                self._session.unask()
        answer = Answer(
            "vote" if notification is NotificationType.REVOCABLE else "notice",
            event,
            question.result,
            question.reason,
            anyio.current_time() - begun,
            question.extended_s,
        )
        self._answers.append(answer)
        return answer

    # -- waiting ----------------------------------------------------------------------------------

    def _now(self) -> float:
        return anyio.current_time() + self._ahead_s

    def _must_be_registered(self) -> None:
        if not self.registered:
            raise RuntimeError(f"application {self.name or '(no name)'} is not registered")

    def _note_change(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()
        self._changed_for_guest()

    async def _wait(self, is_so: Callable[[], bool], timeout_s: float, fault: str) -> None:
        with anyio.move_on_after(timeout_s):
            while not is_so():
                await self._changed.wait()
        if not is_so():
            raise TimeoutError(f"{self.name} {fault} within {timeout_s:g} s; it is {self.health}")
