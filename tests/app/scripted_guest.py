"""A guest daemon by hand, on a real unix socket; with none of the daemon's code but the codec."""

from __future__ import annotations

import itertools
import socket
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import anyio

from hbtrio.app import Application
from hbtrio.wire.app_codec import AppDecoder, encode
from hbtrio.wire.app_messages import (
    AppActionNotify,
    AppActionResponse,
    AppChallenge,
    AppChallengeResponse,
    AppInit,
    AppInitAck,
    AppMessage,
)
from hbtrio.wire.vocabulary import CorrectiveAction, Event, NotificationType

#: More than any answer takes that comes at all, on whatever clock.
SOON_S: Final = 60.0


class Connected:
    """One application's connection, from the guest's side."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._decoder = AppDecoder()
        self._read: deque[AppMessage] = deque()
        self._sequence = itertools.count(1)
        self._numbers = itertools.count(1000)

    def encoded(self, message: AppMessage) -> bytes:
        return encode(message, next(self._sequence))

    async def send(self, data: bytes) -> None:
        """Sends the bytes, and waits while the application does not read.

        Raises:
            OSError: it has gone.
        """
        while data:
            await anyio.wait_writable(self._sock)
            data = data[self._sock.send(data) :]

    async def receive(self, at_most: int = 65536) -> bytes:
        """The next bytes; none at the end of the connection."""
        await anyio.wait_readable(self._sock)
        try:
            return self._sock.recv(at_most)
        except ConnectionResetError:
            return b""

    async def say(self, *messages: AppMessage) -> None:
        """Sends all of them in one write."""
        await self.send(b"".join(map(self.encoded, messages)))

    async def hear(self) -> AppMessage | None:
        """The next message; None at the end of the connection."""
        with anyio.fail_after(SOON_S):
            while not self._read:
                data = await self.receive()
                if not data:
                    return None
                self._read += self._decoder.feed(data)
                assert self._decoder.garbage_bytes == 0
        return self._read.popleft()

    async def heard_nothing(self, for_s: float) -> None:
        """Fails if the application says anything within this time."""
        with anyio.move_on_after(for_s):
            raise AssertionError(f"heard {await self.hear()}")

    async def registered(self) -> AppInit:
        """Takes the registration and accepts it."""
        init = await self.hear()
        assert isinstance(init, AppInit)
        await self.say(AppInitAck(True))
        return init

    async def beats(self) -> AppChallengeResponse:
        """Challenges and returns the answer, which echoes the challenge."""
        number = next(self._numbers)
        await self.say(AppChallenge(number))
        answer = await self.hear()
        assert isinstance(answer, AppChallengeResponse)
        assert answer.heartbeat_response == number
        return answer

    async def is_healthy(self) -> None:
        """Challenges, and fails unless it is healthy."""
        answer = await self.beats()
        assert (answer.healthy, answer.corrective_action, answer.log_msg) == (
            True,
            CorrectiveAction.NONE,
            "",
        )

    def question(self, event: Event, *, vote: bool) -> AppActionNotify:
        kind = NotificationType.REVOCABLE if vote else NotificationType.IRREVOCABLE
        return AppActionNotify(next(self._numbers), event, kind)

    async def answered(self, asked: AppActionNotify) -> tuple[str, str]:
        """Returns the answer to this question: result and reason."""
        answer = await self.hear()
        assert isinstance(answer, AppActionResponse)
        assert (answer.invocation_id, answer.event_type, answer.notification_type) == (
            asked.invocation_id,
            asked.event_type,
            asked.notification_type,
        )
        return str(answer.vote_result), answer.log_msg

    async def votes(self, event: Event = Event.STOP) -> tuple[str, str]:
        """Asks for a vote and returns the answer."""
        asked = self.question(event, vote=True)
        await self.say(asked)
        return await self.answered(asked)

    async def is_told(self, event: Event = Event.STOP) -> tuple[str, str]:
        """Sends a notice and returns the answer."""
        asked = self.question(event, vote=False)
        await self.say(asked)
        return await self.answered(asked)


class ScriptedGuest:
    """The socket."""

    def __init__(self, path: Path, listener: socket.socket) -> None:
        self.path = path
        self._listener = listener

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connected]:
        """The next connection; it is closed at the end."""
        with anyio.fail_after(SOON_S):
            await anyio.wait_readable(self._listener)
        sock, _ = self._listener.accept()
        with sock:
            sock.setblocking(False)
            yield Connected(sock)

    @asynccontextmanager
    async def application(self) -> AsyncIterator[Connected]:
        """The next connection, with its registration accepted."""
        async with self.connection() as connected:
            await connected.registered()
            yield connected


@asynccontextmanager
async def listening(path: Path) -> AsyncIterator[ScriptedGuest]:
    """A guest daemon that has just started; a socket that another left behind is replaced."""
    path.unlink(missing_ok=True)  # noqa: ASYNC240
    with socket.socket(socket.AF_UNIX) as listener:
        listener.setblocking(False)
        listener.bind(str(path))
        listener.listen(8)
        yield ScriptedGuest(path, listener)


@asynccontextmanager
async def attending(place: Path, **options: Any) -> AsyncIterator[Connected]:
    """A guest daemon's side of an application that is registered with it.

    Unless a test says so, it may be left without challenges for 300 s.
    """
    terms = {"heartbeat_s": 60.0, "health_every_s": 1.0} | options
    async with (
        listening(place / "api") as guest,
        Application("db", socket=guest.path, **terms) as app,
        guest.application() as connected,
    ):
        await app.wait_registered()
        yield connected
