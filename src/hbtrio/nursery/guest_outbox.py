"""What a guest still has to say: in order and bounded; a vote's answer is never dropped."""

from __future__ import annotations

from collections import deque
from typing import Final

import trio

from hbtrio.wire.channel_codec import encode
from hbtrio.wire.messages import ActionResponse, ChallengeResponse, Init, Message

#: Messages that may wait for a host that does not read.
QUEUE: Final = 64


class Outbox:
    """A queue between the session and the channel's writer.

    When it is full the oldest answer to a challenge goes, since the host has long counted it as
    missed; answers to votes and notices stay, whose number the session bounds.
    """

    def __init__(self) -> None:
        #: Messages dropped because the host does not read.
        self.dropped = 0
        self._queue: deque[Message] = deque()
        self._filled = trio.Event()
        self._emptied = trio.Event()
        self._sending = False

    def put(self, message: Message) -> None:
        """Queues a message."""
        if len(self._queue) >= QUEUE:
            for kind in (ChallengeResponse, Init, ActionResponse):
                oldest = next((queued for queued in self._queue if type(queued) is kind), None)
                if oldest is not None:
                    self._queue.remove(oldest)
                    self.dropped += 1
                    break
        self._queue.append(message)
        self._filled.set()

    async def next(self, sequence: int) -> bytes:
        """The next message's bytes, when there is one; the writer then calls :meth:`sent`."""
        while not self._queue:
            self._filled = trio.Event()
            await self._filled.wait()
        self._sending = True
        return encode(self._queue.popleft(), sequence)

    def sent(self) -> None:
        """What :meth:`next` returned last is on its way."""
        self._sending = False
        if not self._queue:
            self._emptied.set()

    def clear(self) -> None:
        """The channel is down: what was meant for that host is of no use to the next."""
        self._queue.clear()
        self._sending = False
        self._emptied.set()

    async def flushed(self) -> None:
        """Waits until nothing is queued or being sent."""
        while self._queue or self._sending:
            self._emptied = trio.Event()
            await self._emptied.wait()
