"""Programs of a VM that mean its guest no good, at the socket for applications.

    python -m support.hostile_applications_process SOCKET

Each kind of :data:`KINDS` is a process of its own, so that the guest's log can name it. The first
prints one JSON object, each kind and its pid, once all of them run, and ends the others when its
standard input ends. Those that register ask for no corrective action but ``log``: whoever may
connect may have the VM restarted, and that is no attack.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import random
import signal
import socket
import struct
import sys
import time
from collections.abc import Callable, Iterator
from itertools import cycle, islice
from typing import Final, NoReturn

from hbtrio.wire.app_codec import MAGIC, MESSAGE_BYTES, encode
from hbtrio.wire.app_messages import (
    AppActionResponse,
    AppChallenge,
    AppChallengeResponse,
    AppInit,
)
from hbtrio.wire.app_messages import (
    Final as SignOff,
)
from hbtrio.wire.vocabulary import CorrectiveAction, Event, NotificationType, VoteResult

_PR_SET_PDEATHSIG: Final = 1

_HEADER: Final = struct.Struct("@8sBBHII")

#: How long a program rests after each of its turns, so that all of them have theirs.
_REST_S: Final = 0.02

#: The well-behaved application's, which others may take, too.
NAME: Final = "good"

#: What is written into a name or a reason, one after the other: all of it is to stay a text.
INJECTED: Final = (
    b"--force",
    b"\n2026-01-01 00:00:00 CRITICAL hbtrio: ALARM: all is lost",
    "\x1b[2J\x9b31m\u202e\u2028\x85$(reboot) `reboot` {uuid} %s %n".encode(),
    b"\xed\xa0\x80\xff\xfe\xc0\x80 lone halves of pairs, and no UTF-8",
    b'","vote_result":"reject","log_msg":"',
    b"no end " * 30,
)


def _init(name: str = "evil", interval_ms: int = 1000) -> bytes:
    message = AppInit(name, interval_ms, 1, 1, 1, 1, CorrectiveAction.LOG)
    return encode(message, 1)


def _with_text(message: bytes, at: int, text: bytes) -> bytes:
    """Puts bytes into a message, with no NUL behind them if they reach its end."""
    text = text[: MESSAGE_BYTES - at]
    return message[:at] + text + message[at + len(text) :]


#: Where the name of an init, and the reason of a challenge_response and of an action_response are.
_NAME_AT, _ILL_AT, _ANSWER_AT = 20, 32, 36
_NAME_BYTES: Final = 40


#: Where the type of a message is, and the number of a challenge.
_ASKED: Final = (("@H", 10), ("@I", 20))


def _answers() -> bytes:
    """Each is valid, and the number may even be the one asked for."""
    message = AppChallengeResponse(random.getrandbits(31), True, CorrectiveAction.LOG, "")
    return encode(message, 1) * 16


def _inits() -> bytes:
    return b"".join(
        _init(random.choice(("a", "b", NAME)), random.choice((0, 399, 400, 1000, 2**32 - 1)))
        for _ in range(16)
    )


def _headers() -> bytes:
    """Other versions, types and sizes, behind which a message may or may not follow."""
    return b"".join(
        _HEADER.pack(MAGIC, version, 1, kind, 1, size)
        for version in (0, 1, 2, 255)
        for kind in (7, 65535)
        for size in (0, MESSAGE_BYTES, 2**32 - 1)
    )


def _numbers() -> bytes:
    """Numbers of enums that there are not, and times of 136 years."""
    words = struct.pack("@6I", *[2**32 - 1] * 6)
    return (
        _with_text(_init(), _NAME_AT + _NAME_BYTES, words)
        + _with_text(encode(AppActionResponse(0, *_STOP, ""), 1), 20, words[:16])
        + _with_text(_answers()[:MESSAGE_BYTES], 20, words[:12])
        + encode(AppChallenge(1), 1)
    )


_STOP: Final = (Event.STOP, NotificationType.REVOCABLE, VoteResult.REJECT)


def _unasked() -> bytes:
    return b"".join(
        _with_text(
            encode(AppActionResponse(random.getrandbits(31), *_STOP, ""), 1), _ANSWER_AT, text
        )
        for text in INJECTED
    )


def _names() -> bytes:
    """Registers under each of these, which its log lines begin with."""
    return b"".join(_with_text(_init(), _NAME_AT, text[:_NAME_BYTES]) for text in INJECTED)


#: What those that flood write, again and again; the first is for a registration.
FLOODS: Final[dict[str, tuple[bytes, Callable[[], bytes]]]] = {
    "garbage": (b"", lambda: os.urandom(2000)),
    "endless line": (b"", lambda: b"x" * 4096),
    "bombs": (b"", lambda: b"[" * 4000 + b'{"a":' * 800),
    "headers": (b"", _headers),
    "valid flood": (_init(), _answers),
    "init flood": (b"", _inits),
    "numbers": (b"", _numbers),
    "names": (b"", _names),
    "unasked": (_init(), _unasked),
    "sign-offs": (b"", lambda: (_init() + encode(SignOff("\n"), 1)) * 8),
}


class _Program:
    """One process that attacks."""

    def __init__(self, path: str) -> None:
        self._path = path

    def connect(self) -> socket.socket:
        """Connects, however long that takes."""
        while True:
            one = socket.socket(socket.AF_UNIX)
            with contextlib.suppress(OSError):
                one.connect(self._path)
                return one
            one.close()
            time.sleep(_REST_S)

    def flood(self, first: bytes, write: Callable[[], bytes]) -> NoReturn:
        """Writes all the time and reads what it is sent, on one connection after the other."""
        while True:
            with self.connect() as one, contextlib.suppress(OSError):
                one.sendall(first)
                one.setblocking(False)
                rest = b""
                while True:
                    with contextlib.suppress(BlockingIOError):
                        while one.recv(65536):
                            pass
                    rest = rest or write()
                    with contextlib.suppress(BlockingIOError):
                        rest = rest[one.send(rest) :]
                    time.sleep(_REST_S)

    def deaf(self) -> NoReturn:
        """Has the guest answer it, and reads nothing."""
        while True:
            with self.connect() as one, contextlib.suppress(OSError):
                while True:
                    one.sendall(_inits())

    def half(self) -> NoReturn:
        """Keeps a few connections with the beginning of a message, byte after byte."""
        while True:
            with contextlib.ExitStack() as those, contextlib.suppress(OSError):
                ones = [those.enter_context(self.connect()) for _ in range(8)]
                for at in cycle(range(MESSAGE_BYTES - 1)):
                    for one in ones:
                        one.sendall(_init()[at : at + 1] if at else b"?" + MAGIC[:1])
                    time.sleep(_REST_S)

    def liar(self) -> NoReturn:
        """Registers, and is ill in every second answer, each time for another reason."""
        texts = cycle(INJECTED)
        while True:
            with self.connect() as one, contextlib.suppress(OSError):
                one.sendall(_init("liar", 400))
                well = cycle((True, False))
                while data := one.recv(MESSAGE_BYTES, socket.MSG_WAITALL):
                    kind, number = (struct.unpack_from(code, data, at)[0] for code, at in _ASKED)
                    if kind == AppChallenge.TYPE:
                        answer = AppChallengeResponse(number, next(well), CorrectiveAction.LOG, "")
                        one.sendall(_with_text(encode(answer, 1), _ILL_AT, next(texts)))

    def twin(self) -> NoReturn:
        """Registers under the name of another, and says nothing more."""
        while True:
            with self.connect() as one, contextlib.suppress(OSError):
                one.sendall(_init(NAME))
                while one.recv(65536):
                    pass

    def registrations(self) -> NoReturn:
        """Registers a thousand times a second, and leaves at once."""
        self._at_rate(1000, _init("storm"))

    def connects(self) -> NoReturn:
        """Connects a thousand times a second, says nothing or little, and leaves."""
        self._at_rate(1000, b"", b"x", MAGIC)

    def _at_rate(self, per_s: int, *words: bytes) -> NoReturn:
        said = cycle(words)
        began, done = time.monotonic(), 0
        while True:
            # A machine that can't keep up is not made to catch up.
            due = min((time.monotonic() - began) * per_s, done + per_s * _REST_S * 2)
            for text in islice(said, max(0, int(due) - done)):
                with self.connect() as one, contextlib.suppress(OSError):
                    one.sendall(text)
                done += 1
            if time.monotonic() - began > 1:
                began, done = time.monotonic(), 0
            time.sleep(_REST_S)

    def squatters(self) -> NoReturn:
        """Takes as many places as there are without registering, and again those that it loses."""
        held: list[socket.socket] = []
        while True:
            held = [one for one in held if _is_open(one)]
            for _ in range(min(20, 1100 - len(held))):
                held.append(self.connect())
            time.sleep(_REST_S)


def _is_open(one: socket.socket) -> bool:
    try:
        if one.recv(1, socket.MSG_DONTWAIT):
            return True
    except BlockingIOError:
        return True
    except OSError:
        pass
    one.close()
    return False


def _kinds(program: _Program) -> Iterator[tuple[str, Callable[[], NoReturn]]]:
    for kind, (first, write) in FLOODS.items():
        yield kind, lambda first=first, write=write: program.flood(first, write)  # type: ignore[misc]
    for name in ("deaf", "half", "liar", "twin", "registrations", "connects", "squatters"):
        yield name, getattr(program, name)


#: What there is.
KINDS: Final = tuple(kind for kind, _ in _kinds(_Program("")))


def _start(attack: Callable[[], NoReturn]) -> int:
    pid = os.fork()
    if pid:
        return pid
    try:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        attack()
    finally:
        os._exit(1)


if __name__ == "__main__":
    pids = {kind: _start(attack) for kind, attack in _kinds(_Program(sys.argv[1]))}
    try:
        print(json.dumps(pids), flush=True)
        sys.stdin.buffer.read()
        # One that has ended by itself has attacked for a part of the time only.
        ended = os.waitpid(-1, os.WNOHANG)[0]
    finally:
        for pid in pids.values():
            os.kill(pid, signal.SIGKILL)
    sys.exit(1 if ended else 0)
