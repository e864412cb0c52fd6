"""All that is around one guest: its host and any number of applications, in one epoll loop."""

from __future__ import annotations

import select
import socket
import struct
import time
from array import array
from collections.abc import Callable
from pathlib import Path
from typing import Final

from hbtrio.wire.app_codec import MESSAGE_BYTES, encode
from hbtrio.wire.app_messages import AppActionResponse, AppChallengeResponse
from hbtrio.wire.app_messages import AppInit as Registration
from hbtrio.wire.channel_codec import decode
from hbtrio.wire.channel_codec import encode as encode_line
from hbtrio.wire.channel_messages import (
    ActionNotify,
    Challenge,
    Init,
    InitAck,
    Message,
)
from hbtrio.wire.channel_messages import ActionResponse as Outcome
from hbtrio.wire.channel_messages import ChallengeResponse as Beat
from hbtrio.wire.lines import LineReader
from hbtrio.wire.vocabulary import CorrectiveAction, Event, NotificationType, VoteResult

#: Much longer than anything here takes, in seconds.
PATIENCE_S: Final = 20.0

_TYPE: Final = struct.Struct("@10xH")
_ID: Final = slice(20, 24)
_ACK, _CHALLENGE, _NOTIFY = 1, 3, 5

#: What an application answers, but for the id that it echoes.
_WELL: Final = encode(AppChallengeResponse(0, True, CorrectiveAction.NONE, ""), 1)
_AGREED: Final = encode(
    AppActionResponse(0, Event.STOP, NotificationType.REVOCABLE, VoteResult.ACCEPT, ""), 1
)


class CastApplication:
    """An application that answers at once.

    Args:
        path: the guest's socket.
        interval_ms: its interval.
    """

    def __init__(self, path: Path, interval_ms: int) -> None:
        self.accepted = False
        #: When it was challenged, on ``time.monotonic``.
        self.beats = array("d")
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(PATIENCE_S)
        self.socket.connect(str(path))
        self._held = b""
        terms = (interval_ms, 60, 60, 60, 60, CorrectiveAction.LOG)
        self.socket.sendall(encode(Registration("app", *terms), 1))

    def read(self) -> None:
        """Answers what has come."""
        now = time.monotonic()
        data = self._held + self.socket.recv(65536)
        for at in range(0, len(data) - MESSAGE_BYTES + 1, MESSAGE_BYTES):
            message = data[at : at + MESSAGE_BYTES]
            (kind,) = _TYPE.unpack_from(message)
            if kind == _CHALLENGE:
                self.beats.append(now)
                self._say(_WELL, message)
            elif kind == _NOTIFY:
                self._say(_AGREED, message)
            elif kind == _ACK:
                self.accepted = True
        self._held = data[len(data) - len(data) % MESSAGE_BYTES :]

    def _say(self, answer: bytes, asked: bytes) -> None:
        self.socket.sendall(answer[: _ID.start] + asked[_ID] + answer[_ID.stop :])


class CastHost:
    """The guest's host; it challenges when it is told to.

    Args:
        connection: the channel.
    """

    def __init__(self, connection: socket.socket) -> None:
        self.socket = connection
        #: What the guest said and nobody has looked at yet.
        self.heard: list[Message] = []
        self._lines = LineReader()
        self._sequence = 0

    def say(self, message: Message) -> None:
        """Says something."""
        self._sequence += 1
        self.socket.sendall(encode_line(message, self._sequence))

    def read(self) -> None:
        """Takes what has come."""
        for line in self._lines.feed(self.socket.recv(65536)):
            message = decode(line)
            if isinstance(message, Init):
                self.say(InitAck(message.invocation_id))
            else:
                self.heard.append(message)


class Cast:
    """The loop.

    Args:
        path: of the guest's socket for applications.
        host: its host, or None where none is needed.
    """

    def __init__(self, path: Path, host: CastHost | None) -> None:
        self.applications: list[CastApplication] = []
        self.host = host
        self._path = path
        self._poll = select.epoll()
        self._readers: dict[int, Callable[[], None]] = {}
        if host is not None:
            self._watch(host.socket, host.read)

    def join(self, count: int, interval_ms: int, spread_s: float) -> None:
        """Registers so many applications, one after the other within ``spread_s``."""
        for _ in range(count):
            application = CastApplication(self._path, interval_ms)
            self.applications.append(application)
            self._watch(application.socket, application.read)
            self.play_until(lambda one=application: one.accepted)
            self.play(spread_s / count)

    def leave(self) -> None:
        """Closes all applications' connections."""
        for application in self.applications:
            self._poll.unregister(application.socket)
            application.socket.close()
        self.applications.clear()

    def play(self, seconds: float) -> None:
        """Answers what comes for so long."""
        end = time.monotonic() + seconds
        while (left_s := end - time.monotonic()) > 0:
            self._turn(left_s)

    def play_until(self, reached: Callable[[], object]) -> None:
        """Answers what comes until this is so.

        Raises:
            TimeoutError: it is not within 20 s.
        """
        end = time.monotonic() + PATIENCE_S
        while not reached():
            self._turn(end - time.monotonic())
            if time.monotonic() >= end:
                raise TimeoutError("the guest does not answer")

    def vote_ms(self, number: int) -> float:
        """How long a vote takes, from the host's question to the guest's answer to the host."""
        host = self.host
        assert host is not None
        host.heard.clear()
        began = time.monotonic()
        host.say(ActionNotify(number, Event.STOP, NotificationType.REVOCABLE, 60_000))
        self.play_until(lambda: any(isinstance(one, Outcome) for one in host.heard))
        return (time.monotonic() - began) * 1e3

    def beat_ms(self, number: int) -> float:
        """How long the guest's answer to a challenge takes."""
        host = self.host
        assert host is not None
        host.heard.clear()
        began = time.monotonic()
        host.say(Challenge(number))
        self.play_until(lambda: any(isinstance(one, Beat) for one in host.heard))
        return (time.monotonic() - began) * 1e3

    def _watch(self, connection: socket.socket, read: Callable[[], None]) -> None:
        self._readers[connection.fileno()] = read
        self._poll.register(connection, select.EPOLLIN)

    def _turn(self, timeout_s: float) -> None:
        for descriptor, _ in self._poll.poll(max(0.0, timeout_s)):
            self._readers[descriptor]()
