"""Tenants that mean a host no good: each does its worst at its channel, all in one process.

    python -m support.hostile_guests_process DIRECTORY FIRST COUNT CONTROL_SOCKET

They take turns in the kinds of :data:`KINDS`. It prints one JSON object, each instance's uuid and
kind, once their sockets are there, and attacks until its standard input ends; then the sockets are
removed. Besides, it connects to the host's control socket some hundred times a second.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import select
import socket
import sys
import time
from collections.abc import Callable, Iterator
from itertools import cycle
from pathlib import Path
from typing import Final

from support.guest_farm_process import ANSWER, CHALLENGES, INIT, channel_name, uuid_of

_TICK_S: Final = 0.02
_STDIN: Final = 0

_INIT: Final = INIT % (7, 666, 1000)

#: What is written into a text of a message, one after the other: all of it is to stay a text.
_INJECTED: Final = (
    rb"--force",
    rb"\n2026-01-01 00:00:00 CRITICAL hbtrio: ALARM: all is lost",
    rb"\u001b[2J\u009b31m\u202e\u2028\u0085$(reboot) `reboot` {uuid} %s %n",
    rb"x" * 900,
)


def _garbage() -> bytes:
    return os.urandom(2000) + b"\n"


def _endless_line() -> bytes:
    return b"x" * 4096


def _answers() -> bytes:
    """Each is valid, and the number may even be the one asked for."""
    return _INIT + ANSWER % (1, b"%d" % random.getrandbits(31)) * 16


def _inits() -> bytes:
    return b"".join(
        INIT % (random.getrandbits(31), random.getrandbits(16), 300 + random.getrandbits(12))
        for _ in range(16)
    )


def _bombs() -> bytes:
    return b"".join(
        (
            b"[" * 4000 + b"\n",
            b'{"a":' * 800 + b"1" + b"}" * 80 + b"\n",
            b"9" * 4000 + b"\n",
            _INIT.replace(b'"sequence":1', b'"sequence":1' + b"0" * 3000),
        )
    )


def _numbers() -> bytes:
    return b"".join(
        _INIT.replace(b'"heartbeat_interval_ms":1000', b'"heartbeat_interval_ms":%b' % number)
        for number in (b"NaN", b"Infinity", b"-Infinity", b"1e999", b"-0", b"1.5", b"-1000")
    )


def _surrogates() -> bytes:
    return b"".join(
        _INIT.replace(b"guest-666", half)
        for half in (rb"\ud800", rb"\udfff\ud800", b"\xed\xa0\x80", rb"\u0000")
    )


def _duplicates() -> bytes:
    return _INIT.replace(b'"version":3', b'"version":2,"version":3') + _INIT.replace(
        b'"name"', b'"heartbeat_interval_ms":1,"name"'
    )


def _unasked() -> bytes:
    return _INIT + b"".join(
        b'\n{"version":3,"revision":1,"msg_type":"action_response","sequence":1,'
        b'"invocation_id":%d,"event_type":"reboot","notification_type":"%b",'
        b'"vote_result":"reject","log_msg":"%b"}\n' % (random.getrandbits(31), kind, text)
        for kind in (b"revocable", b"irrevocable")
        for text in _INJECTED
    )


def _voters() -> bytes:
    """Lists of voters that are never the same, some torn."""
    return _INIT + b"".join(
        b'\n{"version":3,"revision":1,"msg_type":"voter_state","sequence":1,"place":%d,"count":%d,'
        b'"unlisted":%d,"name":"%b","health":"ill","health_s":0,"interval_ms":-1,'
        b'"corrective_action":"reboot","reason":"%b","event_type":"stop",'
        b'"notification_type":"revocable","answer":"reject","answer_reason":"%b","ago_s":0}\n'
        % (place, random.choice((2, 4, 17)), random.getrandbits(31), text, text, text)
        for place, text in enumerate(_INJECTED, 1)
    )


#: What the flooding kinds write, again and again.
FLOODS: Final[dict[str, Callable[[], bytes]]] = {
    "garbage": _garbage,
    "endless line": _endless_line,
    "valid flood": _answers,
    "init flood": _inits,
    "bombs": _bombs,
    "numbers": _numbers,
    "surrogates": _surrogates,
    "duplicate keys": _duplicates,
    "unasked": _unasked,
    "voters": _voters,
}


class _Tenant:
    """One that floods: it connects, writes all the time, and reads what it is sent."""

    reads = True

    def __init__(self, path: str, write: Callable[[], bytes], poll: select.epoll) -> None:
        self.path = path
        self.listener: socket.socket | None = None
        self.connection: socket.socket | None = None
        self._write = write
        self._rest = b""
        self._poll = poll

    def appear(self) -> None:
        """Makes the socket."""
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.setblocking(False)
        self.listener.bind(self.path)
        self.listener.listen(8)
        self._poll.register(self.listener, select.EPOLLIN)

    def vanish(self) -> None:
        """Removes the socket."""
        self.hang_up()
        if self.listener is not None:
            self.listener.close()
            self.listener = None
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.path)

    def accept(self) -> None:
        """Takes the host's next connection, in place of an older one."""
        assert self.listener is not None
        self.hang_up()
        with contextlib.suppress(BlockingIOError):
            self.connection, _ = self.listener.accept()
            self.connection.setblocking(False)
            self._poll.register(self.connection, self.wanted())
            self.connected()

    def wanted(self) -> int:
        """The events that it waits for."""
        return select.EPOLLOUT | (select.EPOLLIN if self.reads else 0)

    def connected(self) -> None:
        """The host has just connected."""

    def tick(self) -> None:
        """Some time has passed."""

    def hang_up(self) -> None:
        """Closes the connection."""
        if self.connection is not None:
            self.connection.close()
            self.connection = None

    def attend(self, events: int) -> None:
        """Something can be done at the connection."""
        try:
            if events & select.EPOLLIN:
                self.take(self._receive())
            if events & select.EPOLLOUT:
                self.send(self._write)
            elif events & (select.EPOLLHUP | select.EPOLLERR):
                self.hang_up()
        except BlockingIOError:
            pass
        except OSError:
            self.hang_up()

    def _receive(self) -> bytes:
        assert self.connection is not None
        data = self.connection.recv(65536)
        if not data:
            raise ConnectionResetError
        return data

    def take(self, data: bytes) -> None:
        """Was sent this."""

    def send(self, write: Callable[[], bytes]) -> None:
        """Writes for as long as the host takes it."""
        assert self.connection is not None
        with contextlib.suppress(BlockingIOError):
            for _ in range(8):
                self._rest = self._rest or write()
                self._rest = self._rest[self.connection.send(self._rest) :]


class _Deaf(_Tenant):
    """Has the host write nacks, and reads nothing."""

    reads = False


class _Liar(_Tenant):
    """Is heartbeating, and ill in every second answer, each time for another reason."""

    def __init__(self, path: str, write: Callable[[], bytes], poll: select.epoll) -> None:
        super().__init__(path, write, poll)
        self._health = cycle((b"unhealthy", b"healthy"))
        self._texts = cycle(_INJECTED)

    def wanted(self) -> int:
        return select.EPOLLIN

    def connected(self) -> None:
        self._say(INIT % (7, 666, 300))

    def take(self, data: bytes) -> None:
        for number in CHALLENGES.findall(data):
            health = next(self._health)
            text = next(self._texts) if health == b"unhealthy" else b""
            self._say(
                (ANSWER % (1, number))
                .replace(b'"reboot"', b'"log"')
                .replace(b'"healthy"', b'"%b"' % health)
                .replace(b'"log_msg":""', b'"log_msg":"%b"' % text)
            )

    def _say(self, data: bytes) -> None:
        assert self.connection is not None
        with contextlib.suppress(BlockingIOError):
            self.connection.send(data)


class _Leaver(_Tenant):
    """Says a little as soon as the host has connected, and hangs up."""

    def connected(self) -> None:
        assert self.connection is not None
        with contextlib.suppress(OSError):
            self.connection.send(random.choice((b"", b"x", _INIT, _INIT[:40])))
        self.hang_up()


class _Replaced(_Tenant):
    """Its socket file is another one some ten times a second."""

    def __init__(self, path: str, write: Callable[[], bytes], poll: select.epoll) -> None:
        super().__init__(path, write, poll)
        self._next = 0.0

    def tick(self) -> None:
        now = time.monotonic()
        if now >= self._next:
            self._next = now + random.uniform(0.05, 0.15)
            self.vanish()
            self.appear()


class _Fifo(_Tenant):
    """A FIFO named like a socket."""

    def appear(self) -> None:
        os.mkfifo(self.path)


class _Link(_Tenant):
    """A link named like a socket, to something that is none, or to a socket that is no guest's."""

    targets: Iterator[str] = iter(())

    def appear(self) -> None:
        os.symlink(next(self.targets), self.path)


_ODD: Final[dict[str, type[_Tenant]]] = {
    "deaf": _Deaf,
    "injected reasons": _Liar,
    "connect storm": _Leaver,
    "replaced": _Replaced,
    "fifo": _Fifo,
    "link": _Link,
}

#: What there is.
KINDS: Final = (*FLOODS, *_ODD)


class _OperatorStorm:
    """Connects to the control socket, says nonsense and leaves."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._open: list[socket.socket] = []

    def tick(self) -> None:
        for one in self._open:
            one.close()
        self._open.clear()
        for _ in range(5):
            with contextlib.suppress(OSError):
                one = socket.socket(socket.AF_UNIX)
                self._open.append(one)
                one.setblocking(False)
                one.connect(self._path)
                one.send(random.choice((b"", b"GET / HTTP/1.1\r\n", os.urandom(50))))


class _Attack:
    """All of them."""

    def __init__(self, directory: str, first: int, count: int, control: str) -> None:
        self._poll = select.epoll()
        self._poll.register(_STDIN, select.EPOLLIN)
        self._storm = _OperatorStorm(control)
        self._tenants: list[_Tenant] = []
        _Link.targets = cycle(("/dev/zero", control, directory, f"{directory}/nothing"))
        #: The kind of each, by its uuid.
        self.kinds: dict[str, str] = {}
        for index in range(first, first + count):
            kind = KINDS[index % len(KINDS)]
            self.kinds[uuid_of(index)] = kind
            path = os.path.join(directory, channel_name(index))
            make = _ODD.get(kind, _Tenant)
            self._tenants.append(make(path, FLOODS.get(kind, _numbers), self._poll))

    def begin(self) -> None:
        for tenant in self._tenants:
            tenant.appear()

    def run(self) -> None:
        """Attacks until standard input ends."""
        try:
            while self._pass():
                self._storm.tick()
                time.sleep(_TICK_S)
        finally:
            for tenant in self._tenants:
                Path(tenant.path).unlink(missing_ok=True)

    def _pass(self) -> bool:
        events = dict(self._poll.poll(0))
        for tenant in self._tenants:
            if tenant.listener is not None and tenant.listener.fileno() in events:
                tenant.accept()
            # A descriptor that has been used again since is found not to be ready, and no harm.
            elif tenant.connection is not None and tenant.connection.fileno() in events:
                tenant.attend(events[tenant.connection.fileno()])
            tenant.tick()
        return _STDIN not in events


if __name__ == "__main__":
    attack = _Attack(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
    attack.begin()
    print(json.dumps(attack.kinds), flush=True)
    attack.run()
