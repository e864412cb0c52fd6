"""One connection to the guest daemon, from the registration to its end.

The reader's task answers challenges itself and at once, so that no handler can delay a heartbeat. A
vote or a notice has a task of its own under the window's deadline. The health handler is called on
a grid of its own, and a challenge is answered with what it said last.
"""

from __future__ import annotations

import logging
from collections import deque
from typing import Final

import anyio
from anyio.abc import TaskGroup

from hbtrio.app.handler_set import Handlers
from hbtrio.app.handlers import SILENT, Handler, NoAnswer
from hbtrio.app.registration import Terms
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
)
from hbtrio.wire.app_messages import Final as FinalMessage
from hbtrio.wire.vocabulary import CorrectiveAction, NotificationType, VoteResult

_log = logging.getLogger("hbtrio.app")

#: How long the guest may take to answer the registration, in seconds; it does so at once.
ACK_S: Final = 5.0

#: How long a message may take to be written. More means that the guest does not read any more: some
#: hundreds of messages fit into the socket.
SEND_S: Final = 2.0

#: The patience with a silent guest is spent in as many parts. One that passed unseen, because the
#: machine or this process stood still, counts as one, however long it was.
PATIENCE_PARTS: Final = 5

#: What deployed applications say when they sign off.
FAREWELL: Final = "Exiting"


class GuestConnection:
    """One connection, and what is going on in it.

    Args:
        stream: connected to the guest; the caller closes it.
        terms: what to register with.
        handlers: what to ask.
    """

    def __init__(self, stream: GuestStream, terms: Terms, handlers: Handlers) -> None:
        self._stream = stream
        self._terms = terms
        self._handlers = handlers
        self._decoder = AppDecoder()
        self._read: deque[AppMessage] = deque()
        self._sequence = 0
        self._turn = anyio.Lock()
        #: Why it ends, unless something else is known.
        self._fault = "the guest daemon has gone"
        #: Cancelled when the guest does not read any more.
        self._scope = anyio.CancelScope()
        self._health: Healthy | Unhealthy | NoAnswer = Healthy()
        #: The challenge that is not answered, because the health is not known.
        self._unanswered: int | None = None
        #: Of the vote or notice whose handler is running.
        self._asked = anyio.CancelScope()

    async def register(self) -> bool | None:
        """Registers.

        Returns:
            Whether the guest accepts; None if the connection is of no use.
        """
        await self._send(self._terms.init)
        with anyio.move_on_after(ACK_S):
            while (message := await self._next()) is not None:
                if isinstance(message, AppInitAck):
                    return message.accepted
        return None

    async def serve(self) -> str:
        """Answers the guest until the connection has ended, or the guest is taken for hung.

        Cancelled, it cancels the handlers; a message that is being written is written.

        Returns:
            Why it is over.
        """
        with self._scope:
            async with anyio.create_task_group() as tasks:
                if self._handlers.health is not None:
                    tasks.start_soon(self._watch_health, self._handlers.health)
                while (message := await self._next()) is not None:
                    await self._take(message, tasks)
                tasks.cancel_scope.cancel()
        return self._fault

    async def say_farewell(self) -> None:
        """Signs off, if the guest still reads; also when cancelled."""
        await self._send(FinalMessage(FAREWELL))

    async def _next(self) -> AppMessage | None:
        """The next message; None when the connection has ended, or is of no use any more."""
        # Asked here too, because what has been read already is answered without an interruption.
        if self._scope.cancel_called:
            return None
        part_s = self._terms.patience_s / PATIENCE_PARTS
        quiet_parts = 0
        while not self._read:
            data = None
            with anyio.move_on_after(part_s):
                data = await self._stream.receive()
            if data:
                self._read += self._decoder.feed(data)
            elif data is not None:
                return None
            elif self._unanswered is not None:
                quiet_parts = 0  # the guest waits for us
            elif (quiet_parts := quiet_parts + 1) == PATIENCE_PARTS:
                self._fault = (
                    f"the guest daemon hangs: no challenge for {self._terms.patience_s:g} s"
                )
                return None
        return self._read.popleft()

    async def _send(self, message: AppMessage) -> None:
        # Shielded, because behind half a message no other would be understood.
        with anyio.CancelScope(shield=True, deadline=anyio.current_time() + SEND_S) as scope:
            async with self._turn:
                self._sequence += 1
                try:
                    await self._stream.send(encode(message, self._sequence))
                except OSError:
                    self._scope.cancel()
        if scope.cancelled_caught:
            self._fault = "the guest daemon does not read any more"
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
            case _:
                _log.debug("%s: ignored: %r", self._terms.name, message)

    # -- health -----------------------------------------------------------------------------

    async def _watch_health(self, handler: Handler[Healthy | Unhealthy]) -> None:
        every_s = self._terms.health_interval_s
        due = anyio.current_time()
        while True:
            self._health = await handler.answer(deadline=due + every_s)
            # The guest sends no challenge while it waits for the answer to the last: whoever could
            # not say how it was must answer that one, or it would stay silent for good.
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
            action, reason = health.action or self._terms.corrective_action, health.reason
        await self._send(
            AppChallengeResponse(challenge, isinstance(health, Healthy), action, reason)
        )

    # -- votes and notices ------------------------------------------------------------------

    async def _ask(
        self,
        asked: AppActionNotify,
        kind: type[Vote | Notice],
        handler: Handler[Accept | Reject] | Handler[None] | None,
        tasks: TaskGroup,
    ) -> None:
        # The guest has one round at a time: whatever was asked before is over.
        self._asked.cancel()
        if handler is None:
            await self._answer(asked, Accept() if kind is Vote else None)
            return
        self._asked = anyio.CancelScope()
        window_s = self._terms.window_s(asked.event_type, asked.notification_type)
        question = kind.opened(asked.event_type, window_s)
        tasks.start_soon(self._handle, asked, question, handler, self._asked)

    async def _handle(
        self,
        asked: AppActionNotify,
        question: Vote | Notice,
        handler: Handler[Accept | Reject] | Handler[None],
        scope: anyio.CancelScope,
    ) -> None:
        answer: Accept | Reject | NoAnswer | None = SILENT
        with scope:
            answer = await handler.answer(question, deadline=question.deadline)
        if scope.cancel_called:
            _log.info("%s: %s: overtaken by the next question", self._terms.name, asked.event_type)
        elif not isinstance(answer, NoAnswer):
            await self._answer(asked, answer)

    async def _answer(self, asked: AppActionNotify, answer: Accept | Reject | None) -> None:
        match answer:
            case Reject(reason):
                result = VoteResult.REJECT
            case Accept():
                result, reason = VoteResult.ACCEPT, ""
            case None:
                result, reason = VoteResult.COMPLETE, ""
        await self._send(
            AppActionResponse(
                asked.invocation_id, asked.event_type, asked.notification_type, result, reason
            )
        )
