"""Many guests in one lean process: each answers its host at once, and does nothing else.

    python -m support.guest_farm_process DIRECTORY [NUMBER OF THE FIRST]

It reads one JSON object per line on standard input and answers each with one on standard output;
:class:`support.guest_farm.GuestFarm` says what there is. It ends when its standard input does. So
that it takes as little as possible of the machine it is measured on, it looks for a challenge's
number and a vote's id alone and prints its answers from templates.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import resource
import select
import socket
import sys
import time
from collections import deque
from typing import Final

CHALLENGES: Final = re.compile(rb'"heartbeat_challenge":(\d{1,10})\}')
ACTIONS: Final = re.compile(
    rb'"invocation_id":(\d{1,10}),"event_type":"(\w+)","notification_type":"(\w+)"'
)

INIT: Final = (
    b'\n{"version":3,"revision":1,"msg_type":"init","sequence":1,"invocation_id":%d,'
    b'"name":"guest-%d","heartbeat_interval_ms":%d,"vote_secs":9,"shutdown_notice_secs":9,'
    b'"suspend_notice_secs":9,"resume_notice_secs":14,"restart_secs":301,'
    b'"corrective_action":"reboot"}\n'
)

ANSWER: Final = (
    b'\n{"version":3,"revision":1,"msg_type":"challenge_response","sequence":%d,'
    b'"heartbeat_response":%b,"heartbeat_health":"healthy","corrective_action":"reboot",'
    b'"log_msg":""}\n'
)

_AGREED: Final = (
    b'\n{"version":3,"revision":1,"msg_type":"action_response","sequence":%d,"invocation_id":%b,'
    b'"event_type":"%b","notification_type":"%b","vote_result":"accept","log_msg":""}\n'
)

#: Votes and notices whose times are kept.
_KEPT: Final = 100_000

_STDIN: Final = 0
_BACKLOG: Final = 8


def uuid_of(index: int) -> str:
    """The uuid of the guest with this number, counted from 0."""
    return f"00000000-0000-4000-8000-{index:012x}"


def channel_name(index: int) -> str:
    """The file name of its channel socket."""
    return f"cgcs.heartbeat.{uuid_of(index)}.sock"


class _Guest:
    """A guest behind its listening socket."""

    __slots__ = (
        "asked",
        "connection",
        "init",
        "last_words",
        "listener",
        "mute",
        "sequence",
        "votes",
    )

    def __init__(
        self, listener: socket.socket, init: bytes, asked: deque[float], *, votes: bool
    ) -> None:
        self.listener = listener
        self.init = init
        #: When votes and notices came.
        self.asked = asked
        #: Whether it answers votes and notices.
        self.votes = votes
        self.connection: socket.socket | None = None
        self.sequence = 1
        #: It answers once more, and never again.
        self.last_words = False
        self.mute = False

    def accept(self) -> int:
        """Takes a host's connection in place of an older one; its descriptor."""
        if self.connection is not None:
            self.connection.close()
        self.connection, _ = self.listener.accept()
        self.connection.setblocking(False)
        return self.connection.fileno()

    def greet(self) -> None:
        """Says ``init``."""
        if self.connection is not None:
            with contextlib.suppress(BrokenPipeError):
                self.connection.send(self.init)

    def answer(self) -> bool:
        """Answers what has come; says whether the host is still there."""
        assert self.connection is not None
        try:
            data = self.connection.recv(4096)
        except BlockingIOError:
            return True  # it was about the connection before this one
        except ConnectionResetError:
            data = b""
        if not data:
            self.connection.close()
            self.connection = None
            return False
        for number in CHALLENGES.findall(data):
            if self.mute:
                break
            self._say(ANSWER, number)
            self.mute = self.last_words
        for action in ACTIONS.findall(data):
            self.asked.append(time.monotonic())
            if self.votes:
                self._say(_AGREED, *action)
        return True

    def _say(self, template: bytes, *values: bytes) -> None:
        assert self.connection is not None
        self.sequence += 1
        # A host that has gone is read of next; one that does not read gets no answer.
        with contextlib.suppress(BrokenPipeError, BlockingIOError):
            self.connection.send(template % (self.sequence, *values))


class _Farm:
    """All guests of a directory."""

    def __init__(self, directory: str, first: int) -> None:
        self._directory = directory
        self._first = first
        self._guests: list[_Guest] = []
        self._paths: list[str] = []
        self._listening: dict[int, _Guest] = {}
        self._connected: dict[int, _Guest] = {}
        self._epoll = select.epoll()
        self._epoll.register(_STDIN, select.EPOLLIN)
        self._commands = b""
        self._spread_s = 0.0
        self._asked: deque[float] = deque(maxlen=_KEPT)
        #: Those that have not sent init yet, and when they will.
        self._waiting: deque[tuple[float, _Guest]] = deque()

    def run(self) -> None:
        """Serves until standard input ends."""
        try:
            while True:
                for fd, _ in self._epoll.poll(self._greet()):
                    guest = self._connected.get(fd)
                    if guest is not None:
                        if not guest.answer():
                            del self._connected[fd]
                    elif fd in self._listening:
                        guest = self._listening[fd]
                        connection = guest.accept()
                        self._connected[connection] = guest
                        self._epoll.register(connection, select.EPOLLIN)
                        self._will_greet(guest)
                    elif fd == _STDIN and not self._obey():
                        return
        finally:
            for path in self._paths:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(path)

    def _will_greet(self, guest: _Guest) -> None:
        now = time.monotonic()
        after = self._waiting[-1][0] if self._waiting else now
        self._waiting.append((after + self._spread_s / len(self._guests), guest))

    def _greet(self) -> float | None:
        """Greets where it is time to; returns how many seconds the next is away."""
        now = time.monotonic()
        while self._waiting and self._waiting[0][0] <= now:
            self._waiting.popleft()[1].greet()
        return self._waiting[0][0] - now if self._waiting else None

    def _obey(self) -> bool:
        data = os.read(_STDIN, 65536)
        *lines, self._commands = (self._commands + data).split(b"\n")
        for line in lines:
            command = json.loads(line)
            print(json.dumps(self._do(**command)), flush=True)
        return bool(data)

    def _do(
        self,
        listen: int = 0,
        interval_ms: int = 1000,
        spread_s: float = 0.0,
        mute: tuple[int, ...] = (),
        asked: bool = False,
        votes: bool = True,
    ) -> object:
        began = time.monotonic()
        self._spread_s = spread_s
        for _ in range(listen):
            self._listen(interval_ms, votes=votes)
        for index in mute:
            self._guests[index].last_words = True
        done = {"began": began, "ended": time.monotonic()}
        if not asked:
            return done
        times = list(self._asked)
        self._asked.clear()
        return done | {"asked": times}

    def _listen(self, interval_ms: int, *, votes: bool) -> None:
        index = self._first + len(self._guests)
        path = os.path.join(self._directory, channel_name(index))
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.setblocking(False)
        listener.bind(path)
        self._paths.append(path)
        listener.listen(_BACKLOG)
        init = INIT % (1000 + index, index, interval_ms)
        if not votes:
            init = init.replace(b'"vote_secs":9,', b'"vote_secs":20,')
        guest = _Guest(listener, init, self._asked, votes=votes)
        self._guests.append(guest)
        self._listening[listener.fileno()] = guest
        self._epoll.register(listener.fileno(), select.EPOLLIN)


if __name__ == "__main__":
    _, _hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (_hard, _hard))
    _Farm(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 0).run()
