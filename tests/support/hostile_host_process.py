"""A host that means its guest no good: it does its worst on the guest's channel, in turns.

    python -m support.hostile_host_process SOCKET SECONDS

The guest's device is the socket, which this process serves. Each kind of :data:`KINDS` has its turn
for so many seconds. All the while it acknowledges the guest's registration and sends a challenge
every half second between its attacks, as an honest host would. Before each turn it is honest until
a challenge has been answered. After each turn it prints a JSON object: the kind, and how many
challenges it has sent and how many of them were answered. The last turn is an honest one.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import select
import socket
import sys
import time
from collections.abc import Callable, Iterator
from typing import Final

from hbtrio.wire.channel_codec import encode
from hbtrio.wire.channel_messages import (
    ActionNotify,
    ActionResponse,
    Challenge,
    ChallengeResponse,
    Exit,
    InitAck,
    Nack,
)
from hbtrio.wire.vocabulary import (
    CorrectiveAction,
    Event,
    Health,
    NotificationType,
    VoteResult,
)

_INTERVAL_S: Final = 0.5

#: How long the guest may take for the last answers of a turn, with all that was written before.
_PATIENCE_S: Final = 5.0

#: How long it may take until the guest is connected, and again until it answers an honest host.
_AT_MOST_S: Final = 60.0

#: How often the leaver leaves.
_LEAVES: Final = 3

_INITS: Final = re.compile(rb'"msg_type":"init","sequence":\d+,"invocation_id":(\d+)')
_ANSWERS: Final = re.compile(rb'"heartbeat_response":(\d+)')

#: What is written into a text of a message: all of it is to stay a text.
_INJECTED: Final = (
    rb"--force",
    rb"\n2026-01-01 00:00:00 CRITICAL Guest-Client: ALARM: all is lost",
    rb"\u001b[2J\u009b31m\u202e\u2028\u0085$(reboot) `reboot` %s %n",
    b"\x1b[2J\xc2\x9b31m\xe2\x80\xae\xe2\x80\xa8\xc2\x85",
    rb"x" * 900,
)


def _number() -> int:
    return random.getrandbits(31)


def _notify(notification: NotificationType, timeout_ms: int) -> bytes:
    return encode(ActionNotify(_number(), Event.STOP, notification, timeout_ms), 1)


_VOTE: Final = _notify(NotificationType.REVOCABLE, 3000)
_CHALLENGE: Final = encode(Challenge(1234567), 1)


def _challenges() -> bytes:
    return b"".join(encode(Challenge(_number()), 1) for _ in range(16))


def _votes() -> bytes:
    return b"".join(_notify(NotificationType.REVOCABLE, 3000) for _ in range(16))


def _notices() -> bytes:
    times = (-(2**31), -1, 0, 1, 2**32 - 1)
    return b"".join(_notify(NotificationType.IRREVOCABLE, one) for one in times)


def _wrong() -> bytes:
    """Messages that only guests send, and acknowledgements of what was never asked."""
    return b"".join(
        encode(one, 1)
        for one in (
            InitAck(_number()),
            Nack(_number(), "no"),
            Exit("bye"),
            ChallengeResponse(1, Health.UNHEALTHY, CorrectiveAction.REBOOT, "ill"),
            ActionResponse(
                1, Event.STOP, NotificationType.REVOCABLE, VoteResult.REJECT, "in its place"
            ),
        )
    )


def _numbers() -> bytes:
    words = (b"NaN", b"Infinity", b"-Infinity", b"1e999", b"-0", b"1.5", b"9" * 3000, b'"1"', b"[]")
    return b"".join(
        message.replace(old, word)
        for word in words
        for message, old in ((_CHALLENGE, b"1234567"), (_VOTE, b"3000"))
    )


def _bombs() -> bytes:
    return b"".join(
        (
            b"[" * 4000 + b"\n",
            b'{"a":' * 800 + b"1" + b"}" * 80 + b"\n",
            b"9" * 4000 + b"\n",
            _VOTE.replace(b"stop", b"stop" * 900),
        )
    )


def _surrogates() -> bytes:
    halves = (rb"\ud800", rb"\udfff\ud800", b"\xed\xa0\x80", rb"\u0000")
    return b"".join(_VOTE.replace(b'"stop"', b'"%b"' % half) for half in halves)


def _duplicates() -> bytes:
    return _CHALLENGE.replace(b'"version":3', b'"version":2,"version":3') + _VOTE.replace(
        b'"event_type"', b'"event_type":"reboot","event_type"'
    )


def _texts() -> bytes:
    nack = encode(Nack(1, "TEXT"), 1)
    return b"".join(
        nack.replace(b"TEXT", text) + nack.replace(b'"nack"', b'"%b"' % text) for text in _INJECTED
    )


#: What it writes all the time, in each turn.
KINDS: Final[dict[str, Callable[[], bytes]]] = {
    "garbage": lambda: os.urandom(2000) + b"\n",
    "endless line": lambda: b"x" * 4096,
    "bombs": _bombs,
    "numbers": _numbers,
    "surrogates": _surrogates,
    "duplicate keys": _duplicates,
    "texts": _texts,
    "wrong": _wrong,
    "challenges": _challenges,
    "notices": _notices,
    "votes": _votes,
    "deaf": _challenges,
    "leaver": _challenges,
    "honest": lambda: b"",
}


class _Host:
    """Serves the guest's device."""

    def __init__(self, path: str) -> None:
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(path)
        self._listener.listen(8)
        self._listener.settimeout(_AT_MOST_S)
        self._connection: socket.socket | None = None
        self._rest = b""
        self._tail = b""
        self._next = 0.0
        self._open: set[bytes] = set()
        self.sent = 0
        self.answered = 0

    def turn(self, kind: str, seconds: float) -> None:
        """Attacks in one way for so long, then waits for the answers that are missing."""
        self.sent = self.answered = 0
        end = time.monotonic() + _AT_MOST_S
        while not self.answered:
            if time.monotonic() > end:
                raise TimeoutError(f"before {kind}: no answer to {self.sent} challenges")
            self._go_on(KINDS["honest"])
        self.sent = self.answered = 0
        self._open.clear()
        leaves = 0
        end = time.monotonic() + seconds
        while time.monotonic() < end or leaves < _LEAVES * (kind == "leaver"):
            has_written = self._go_on(KINDS[kind], reads=kind != "deaf")
            if kind == "leaver" and has_written:
                self._hang_up()
                leaves += 1
        # Not dropped: a challenge that was counted may be in it.
        self._rest += b"\n" * bool(self._rest)
        end = time.monotonic() + _PATIENCE_S
        while self._open and time.monotonic() < end:
            self._pass(self._connected(), reads=True)

    def _go_on(self, write: Callable[[], bytes], *, reads: bool = True) -> bool:
        """Writes for a moment; returns whether it has written all there was."""
        connection = self._connected()
        if time.monotonic() >= self._next:
            self._challenge()
        self._rest = self._rest or write()
        return self._pass(connection, reads=reads)

    def _challenge(self) -> None:
        self._next = time.monotonic() + _INTERVAL_S
        number = _number()
        self._open.add(b"%d" % number)
        self._rest += encode(Challenge(number), 1)
        self.sent += 1

    def _connected(self) -> socket.socket:
        if self._connection is None:
            self._connection, _ = self._listener.accept()
            self._connection.setblocking(False)
            self._rest = self._tail = b""
        return self._connection

    def _pass(self, connection: socket.socket, *, reads: bool) -> bool:
        """Reads and writes for a moment; returns whether it has written all there was."""
        readers = [connection] * reads
        readable, writable, _ = select.select(readers, [connection] * bool(self._rest), [], 0.05)
        try:
            if readable:
                data = connection.recv(65536)
                if not data:
                    raise ConnectionResetError
                self._take(self._tail + data)
            if writable:
                self._rest = self._rest[connection.send(self._rest) :]
        except BlockingIOError:
            pass
        except OSError:
            self._hang_up()
        return not self._rest

    def _take(self, data: bytes) -> None:
        lines, _, self._tail = data.rpartition(b"\n")
        for number in _INITS.findall(lines):
            self._rest += encode(InitAck(int(number)), 1)
        answered = self._open.intersection(_ANSWERS.findall(lines))
        self._open -= answered
        self.answered += len(answered)

    def _hang_up(self) -> None:
        assert self._connection is not None
        self._connection.close()
        self._connection = None
        # What it has asked on this connection is not answered on another.
        self.sent -= len(self._open)
        self._open.clear()


def _turns(path: str, seconds: float) -> Iterator[dict[str, object]]:
    host = _Host(path)
    for kind in KINDS:
        host.turn(kind, seconds)
        yield {"kind": kind, "sent": host.sent, "answered": host.answered}


if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError):
        for done in _turns(sys.argv[1], float(sys.argv[2])):
            print(json.dumps(done), flush=True)
