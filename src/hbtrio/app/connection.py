"""Serves one connection to the guest daemon, from the registration to its end.

The reader's task answers challenges itself, so no handler can delay a heartbeat. Each vote or
notice has its own task, with the window's deadline. The health handler is called at its own
interval, and challenges are answered with its last result.
"""

from __future__ import annotations

import logging
from collections import deque
from datetime import UTC, datetime
from functools import partial
from typing import Final

import anyio
from anyio.abc import TaskGroup

from hbtrio.app.handler_set import Handlers
from hbtrio.app.handlers import SILENT, Handler, NoAnswer
from hbtrio.app.more_time import WindowTime
from hbtrio.app.registration import Registration
from hbtrio.app.requests import Notice, Vote
from hbtrio.app.responses import Accept, Healthy, Reject, Unhealthy
from hbtrio.app.stream import GuestStream
from hbtrio.wire.app_codec import AppDecoder, encode
from hbtrio.wire.app_messages import (
    AppActionNotify,
    AppActionResponse,
    AppChallenge,
    AppChallengeResponse,
    AppInitAck,
    AppMessage,
    AppMoreTime,
    AppReady,
    AppTimeGranted,
)
from hbtrio.wire.app_messages import Final as FinalMessage
from hbtrio.wire.vocabulary import CorrectiveAction, Event, NotificationType, VoteResult

_log = logging.getLogger("hbtrio.app")

#: How long to wait for the response to the registration, in seconds; the guest answers at once.
ACK_S: Final = 5.0

#: How long a message may take to be written, in seconds. A guest that takes longer no longer reads:
#: the socket has room for some hundred messages.
SEND_S: Final = 2.0

#: The wait for a challenge is divided into this many parts. If the machine or this process was
#: frozen, the whole freeze counts as one part.
PATIENCE_PARTS: Final = 5

#: The last look before the guest counts as hung, in seconds: what came during a freeze is read.
LAST_LOOK_S: Final = 0.05

#: The text that deployed applications sign off with.
SIGN_OFF_TEXT: Final = "Exiting"


class GuestConnection:
    """One connection to the guest daemon.

    Args:
        stream: a connected stream; the caller closes it.
        registration: the values to register with.
        handlers: the application's handlers.
    """

    def __init__(self, stream: GuestStream, registration: Registration, handlers: Handlers) -> None:
        self._stream = stream
        self._registration = registration
        self._handlers = handlers
        self._decoder = AppDecoder()
        self._read: deque[AppMessage] = deque()
        self._sequence = 0
        self._turn = anyio.Lock()
        #: Why the connection ends.
        self._fault = "lost the connection to the guest daemon"
        #: Cancelled when the guest no longer reads.
        self._scope = anyio.CancelScope()
        self._health: Healthy | Unhealthy | NoAnswer = Healthy()
        #: The challenge that waits for the health handler.
        self._unanswered: int | None = None
        #: The scope of the running vote or notice handler.
        self._handling = anyio.CancelScope()
        #: The time of the last vote or notice that a handler was called for, and its id.
        self._time: WindowTime | None = None
        self._time_of: int | None = None

    async def register(self) -> bool | None:
        """Sends the registration and waits up to ``ACK_S`` for the response.

        Returns:
            Whether the guest accepts; None if the connection failed or the guest didn't answer.
        """
        await self._send(self._registration.init)
        with anyio.move_on_after(ACK_S):
            while (message := await self._next()) is not None:
                if isinstance(message, AppInitAck):
                    if message.accepted and self._registration.inhibition is not None:
                        await self._send(self._registration.inhibition.message)
                    return message.accepted
        return None

    async def serve(self) -> str:
        """Answers the guest until the connection ends or the guest counts as hung.

        Cancellation cancels the handlers, but not the write of a message.

        Returns:
            The reason why the connection ended.
        """
        with self._scope:
            async with anyio.create_task_group() as tasks:
                if self._handlers.health is not None:
                    tasks.start_soon(self._watch_health, self._handlers.health)
                while (message := await self._next()) is not None:
                    await self._take(message, tasks)
                tasks.cancel_scope.cancel()
        return self._fault

    async def ready_for(self, event: Event) -> None:
        """Says that the application would not reject this event any more."""
        await self._send(AppReady(event))

    async def sign_off(self) -> None:
        """Signs off; takes up to ``SEND_S`` and is not cancelled."""
        await self._send(FinalMessage(SIGN_OFF_TEXT))

    async def _next(self) -> AppMessage | None:
        """Returns the next message; None if the connection has ended or the guest hangs."""
        # Checked here too, because messages that were read already are handled without a wait.
        if self._scope.cancel_called:
            return None
        part_s = (self._registration.patience_s - LAST_LOOK_S) / PATIENCE_PARTS
        quiet_parts = 0
        while not self._read:
            data = None
            with anyio.move_on_after(part_s if quiet_parts < PATIENCE_PARTS else LAST_LOOK_S):
                data = await self._stream.receive()
            if data:
                self._read += self._decoder.feed(data)
            elif data is not None:
                return None
            elif self._unanswered is not None:
                quiet_parts = 0  # the guest waits for our response
            elif (quiet_parts := quiet_parts + 1) > PATIENCE_PARTS:
                self._fault = (
                    f"the guest daemon hangs: no challenge for {self._registration.patience_s:g} s"
                )
                return None
        return self._read.popleft()

    async def _send(self, message: AppMessage) -> None:
        # Shielded, because the guest can't parse anything after half a message.
        with anyio.CancelScope(shield=True, deadline=anyio.current_time() + SEND_S) as scope:
            async with self._turn:
                self._sequence += 1
                try:
                    await self._stream.send(encode(message, self._sequence))
                except OSError:
                    self._scope.cancel()
        if scope.cancelled_caught:
            self._fault = "the guest daemon no longer reads"
            self._scope.cancel()

    async def _take(self, message: AppMessage, tasks: TaskGroup) -> None:
        match message:
            case AppChallenge():
                self._unanswered = message.heartbeat_challenge
                await self._answer_challenge()
            case AppActionNotify(notification_type=NotificationType.REVOCABLE):
                await self._ask(message, Vote, self._handlers.vote, tasks)
            case AppActionNotify(notification_type=NotificationType.IRREVOCABLE):
                await self._ask(message, Notice, self._handlers.notice, tasks)
            case AppTimeGranted(invocation_id=asked) if asked == self._time_of:
                assert self._time is not None
                self._time.granted(message.request, message.seconds, message.log_msg)
            case _:
                _log.debug("%s: ignored: %r", self._registration.name, message)

    # -- health -----------------------------------------------------------------------------

    async def _watch_health(self, handler: Handler[Healthy | Unhealthy]) -> None:
        every_s = self._registration.health_interval_s
        due = anyio.current_time()
        while True:
            self._health = await handler.answer(scope=anyio.CancelScope(deadline=due + every_s))
            # Answer a challenge that waited for the health: the guest sends no other until then.
            await self._answer_challenge()
            due = max(due + every_s, anyio.current_time())
            await anyio.sleep_until(due)

    async def _answer_challenge(self) -> None:
        challenge, health = self._unanswered, self._health
        if challenge is None or isinstance(health, NoAnswer):
            return
        self._unanswered = None
        action, reason = CorrectiveAction.NONE, ""
        if isinstance(health, Unhealthy):
            action, reason = health.action or self._registration.corrective_action, health.reason
        await self._send(
            AppChallengeResponse(challenge, isinstance(health, Healthy), action, reason)
        )

    # -- votes and notices ------------------------------------------------------------------

    async def _ask(
        self,
        notify: AppActionNotify,
        kind: type[Vote | Notice],
        handler: Handler[Accept | Reject] | Handler[None] | None,
        tasks: TaskGroup,
    ) -> None:
        # The guest has one open vote or notice at a time: a new request ends the previous one.
        self._handling.cancel()
        inhibition = self._registration.inhibition
        if kind is Vote and inhibition is not None and notify.event_type in inhibition.events:
            await self._answer(notify, Reject(inhibition.reason))
            return
        if handler is None:
            await self._answer(notify, Accept() if kind is Vote else None)
            return
        self._handling = anyio.CancelScope()
        window_s = self._registration.window_s(notify.event_type, notify.notification_type)
        self._time = WindowTime(window_s, partial(self._ask_time, notify.invocation_id))
        self._time_of = notify.invocation_id
        request = kind(notify.event_type, self._time, _planned_at(notify))
        tasks.start_soon(self._handle, notify, request, handler, self._handling, self._time)

    async def _handle(
        self,
        notify: AppActionNotify,
        request: Vote | Notice,
        handler: Handler[Accept | Reject] | Handler[None],
        scope: anyio.CancelScope,
        time: WindowTime,
    ) -> None:
        answer: Accept | Reject | NoAnswer | None = SILENT
        try:
            with scope:
                answer = await handler.answer(request, scope=time.scope)
        finally:
            time.end()
        if scope.cancel_called:
            _log.info(
                "%s: %s: superseded by the next request", self._registration.name, notify.event_type
            )
        elif not isinstance(answer, NoAnswer):
            await self._answer(notify, answer)

    async def _ask_time(self, invocation_id: int, number: int, seconds: int) -> None:
        await self._send(AppMoreTime(invocation_id, number, seconds))

    async def _answer(self, notify: AppActionNotify, answer: Accept | Reject | None) -> None:
        match answer:
            case Reject(reason):
                result = VoteResult.REJECT
            case Accept():
                result, reason = VoteResult.ACCEPT, ""
            case None:
                result, reason = VoteResult.COMPLETE, ""
        await self._send(
            AppActionResponse(
                notify.invocation_id, notify.event_type, notify.notification_type, result, reason
            )
        )


def _planned_at(notify: AppActionNotify) -> datetime | None:
    return datetime.fromtimestamp(notify.planned_at, UTC) if notify.planned_at else None
