"""Queues a guest's messages to the host: in order and bounded; a reject is dropped last."""

from __future__ import annotations

from collections import deque
from typing import Final

from hbtrio.nursery.wakeup import WakeUp
from hbtrio.wire.channel_codec import encode
from hbtrio.wire.channel_messages import (
    ActionResponse,
    ChallengeResponse,
    Init,
    Message,
    VoterState,
)
from hbtrio.wire.vocabulary import VoteResult

#: Messages that may be queued for a host that does not read.
QUEUE: Final = 64


class Outbox:
    """A queue between the session and the channel's writer.

    A full queue drops the oldest message of the least important kind: first a voter's state, which
    is for the operator's eyes; then an answer to a challenge, which the host has counted as missed
    by then; then an ``init``, which is repeated; then an answer that agrees, which the host assumes
    without an answer.
    """

    def __init__(self) -> None:
        #: Messages dropped because the host does not read.
        self.dropped = 0
        self._queue: deque[Message] = deque()
        self._filled = WakeUp()
        self._emptied = WakeUp()
        self._sending = False

    @property
    def half_full(self) -> bool:
        """Whether half of the places are taken."""
        return len(self._queue) >= QUEUE // 2

    def put(self, message: Message) -> None:
        """Queues a message; drops one if the queue is full."""
        self._queue.append(message)
        if len(self._queue) > QUEUE:
            self._queue.remove(min(self._queue, key=_weight))  # the first of several is the oldest
            self.dropped += 1
        self._filled.set()

    async def next(self, sequence: int) -> bytes:
        """Waits for the next message and returns it encoded; the writer then calls :meth:`sent`."""
        while not self._queue:
            await self._filled.wait()
        self._sending = True
        return encode(self._queue.popleft(), sequence)

    def sent(self) -> None:
        """Notes that the message last returned by :meth:`next` was sent."""
        self._sending = False
        if not self._queue:
            self._emptied.set()

    def clear(self) -> None:
        """Drops all messages: the channel is down, and they were meant for that connection."""
        self._queue.clear()
        self._sending = False
        self._emptied.set()

    async def flushed(self) -> None:
        """Waits until nothing is queued or being sent."""
        while self._queue or self._sending:
            await self._emptied.wait()


def _weight(message: Message) -> int:
    match message:
        case VoterState():
            return 0
        case ChallengeResponse():
            return 1
        case Init():
            return 2
        case ActionResponse(vote_result=result):
            return 4 if result is VoteResult.REJECT else 3
        case _:
            return 5
