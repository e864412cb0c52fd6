"""The VIM's part on a machine without one: it answers on raw sockets as the deployed one does.

Measured on the VIM's own modules (PROTOCOL.md, section 3): an alarm, and an audit that it can
answer, get ``HTTP/1.0 200`` without a Content-Length, ended by closing; everything else, accepted
or not, gets not one byte before the connection is closed. On demand it is as nasty as a VIM that
hangs, is killed, or is something else altogether: see :class:`Mood`.
"""

from __future__ import annotations

import contextlib
import json
import socket
import struct
from collections import deque
from collections.abc import AsyncIterator, Callable
from enum import Enum
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

import trio

from hbtrio.lab.received import Received, read_request
from hbtrio.nursery.wakeup import WakeUp

#: Requests that are kept; older ones are forgotten.
KEPT: Final = 100_000

#: A client that stalls in the middle of its request is let go after this many seconds.
_PATIENCE_S: Final = 60.0

_GONE: Final = (trio.BrokenResourceError, trio.ClosedResourceError)
_HOSTS: Final = "/nfvi-plugins/v1/hosts/"
_INSTANCES: Final = "/nfvi-plugins/v1/instances/"


class Mood(Enum):
    """What becomes of a connection."""

    #: As the deployed VIM.
    USUAL = "usual"
    #: Reset before anything is read.
    RESET_UNREAD = "reset unread"
    #: Half of the body is read, then it is reset: a VIM that was killed in the middle.
    RESET_HALF = "reset half"
    #: Read to the end, recorded, then reset.
    RESET = "reset"
    #: Nothing is read and nothing said for a minute.
    STALL_UNREAD = "stall unread"
    #: Nothing is read before the mood is another one: a VIM that is busy with something else.
    BUSY = "busy"
    #: Read to the end, recorded, then nothing said until the client gives up.
    STALL = "stall"
    #: The answer's head and part of its body, then nothing more until the client gives up.
    STALL_ANSWERING = "stall answering"
    #: Recorded, answered with something that is not HTTP.
    GARBAGE = "garbage"
    #: Recorded, answered with a body that does not end.
    FLOOD = "flood"
    #: Recorded, answered with a status line: a proxy's, or another generation's.
    ERROR_400 = "400"
    ERROR_500 = "500"
    ERROR_503 = "503"


class FakeVim:
    """A VIM on a loopback port.

    Attributes:
        hosts: what it answers to the audit of a host, by the host's uuid: ``hostname``, ``state``.
        instances: what it answers to the audit of a host's instances, by the host's uuid: each with
            ``uuid``, ``hostname``, ``services``.
        next_moods: what becomes of the next connections instead, each used once.
        received: the requests, the oldest first.
        connections: how many were accepted.

    Args:
        port: 0 for one that is free, see :attr:`port`.
        on_received: is told of each request before it is answered.
        kept: how many requests are kept.
    """

    def __init__(
        self,
        port: int = 0,
        on_received: Callable[[Received], None] | None = None,
        kept: int = KEPT,
    ) -> None:
        self.hosts: dict[str, dict[str, str]] = {}
        self.instances: dict[str, list[dict[str, Any]]] = {}
        self._mood = Mood.USUAL
        self.next_moods: deque[Mood] = deque()
        self.received: deque[Received] = deque(maxlen=kept)
        self.connections = 0
        self._on_received = on_received
        self._news = WakeUp()
        self._up = trio.Event()
        self._down = trio.Event()
        self._up.set()
        # Bound and never listening: it keeps the port while the VIM is down, and the kernel
        # refuses connections to it.
        self._place = loopback_socket(port)
        self.port: int = self._place.getsockname()[1]

    @property
    def url(self) -> str:
        """Where it is, for a configuration."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def mood(self) -> Mood:
        """What becomes of connections."""
        return self._mood

    @mood.setter
    def mood(self, mood: Mood) -> None:
        self._mood = mood
        self._news.set()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serves until cancelled."""
        started = False
        try:
            while True:
                await self._up.wait()
                self._down = trio.Event()
                async with trio.open_nursery() as nursery:
                    listener = trio.SocketListener(self._listening())
                    nursery.start_soon(self._accept, listener)
                    if not started:
                        task_status.started()
                        started = True
                    await self._down.wait()
                    # As when its process is killed: what was under way is reset.
                    nursery.cancel_scope.cancel()
        finally:
            self._place.close()

    def go_down(self) -> None:
        """From now on connections are refused, and those under way reset."""
        self._up = trio.Event()
        self._down.set()

    def come_up(self) -> None:
        """Connections are accepted again."""
        self._up.set()

    async def wait_for(self, count: int) -> list[Received]:
        """Waits until that many requests have been received, and returns all."""
        await self.wait_until(lambda: len(self.received) >= count)
        return list(self.received)

    async def wait_until(self, true: Callable[[], bool]) -> None:
        """Waits until ``true()``, which is asked again after each request and connection."""
        while not true():
            await self._news.wait()

    def patches(self, kind: str = "") -> list[dict[str, Any]]:
        """The bodies of the PATCHes, of one event-type if given: service, alarm or action."""
        bodies = [one.json for one in self.received if one.method == "PATCH"]
        return [
            body
            for body in bodies
            if isinstance(body, dict) and kind in ("", body.get("event-type"))
        ]

    # ----------------------------------------------------------------------------------------------

    def _listening(self) -> trio.socket.SocketType:
        sock = loopback_socket(self.port)
        sock.listen(128)
        return trio.socket.from_stdlib_socket(sock)

    async def _accept(self, listener: trio.SocketListener) -> None:
        async with listener, trio.open_nursery() as nursery:
            while True:
                nursery.start_soon(self._serve, await listener.accept())

    async def _serve(self, stream: trio.SocketStream) -> None:
        self.connections += 1
        mood = self.next_moods.popleft() if self.next_moods else self.mood
        self._news.set()
        try:
            with contextlib.suppress(*_GONE), trio.move_on_after(_PATIENCE_S):
                await self._answer(stream, mood)
        except trio.Cancelled:
            _reset(stream)
            raise
        finally:
            await trio.aclose_forcefully(stream)

    async def _answer(self, stream: trio.SocketStream, mood: Mood) -> None:
        if mood is Mood.RESET_UNREAD:
            _reset(stream)
            return
        if mood is Mood.STALL_UNREAD:
            await trio.sleep_forever()
        if mood is Mood.BUSY:
            await self.wait_until(lambda: self._mood is not Mood.BUSY)
        request = await read_request(stream, half=mood is Mood.RESET_HALF)
        if request is None:
            _reset(stream)
            return
        self.received.append(request)
        if self._on_received is not None:
            self._on_received(request)
        self._news.set()
        match mood:
            case Mood.RESET:
                _reset(stream)
            case Mood.STALL:
                await stream.receive_some(1)
            case Mood.STALL_ANSWERING:
                await stream.send_all(_head("200 OK") + b'{"instances":[')
                await stream.receive_some(1)
            case Mood.GARBAGE:
                await stream.send_all(b"220 not.a.vim ESMTP\r\n\r\n")
            case Mood.FLOOD:
                await stream.send_all(_head("200 OK"))
                while True:
                    await stream.send_all(b" " * 65536)
            case Mood.ERROR_400:
                await stream.send_all(_head("400 Bad Request"))
            case Mood.ERROR_500:
                await stream.send_all(_head("500 Internal Server Error"))
            case Mood.ERROR_503:
                await stream.send_all(_head("503 Service Unavailable"))
            case _:
                await stream.send_all(self._usual(request))

    def _usual(self, request: Received) -> bytes:
        """The deployed VIM's answer; b"" where it says nothing."""
        parts = urlsplit(request.target)
        if request.method == "PATCH" and parts.path.startswith(_INSTANCES):
            body = request.json
            is_alarm = isinstance(body, dict) and body.get("event-type") == "alarm"
            return _head("200 OK") if is_alarm else b""
        if request.method != "GET":
            return b""
        if parts.path == _INSTANCES:
            host_uuid = parse_qs(parts.query).get("host_uuid", [""])[-1]
            if host_uuid in self.instances:
                return _answer({"instances": self.instances[host_uuid]})
        elif parts.path.startswith(_HOSTS):
            uuid = parts.path.removeprefix(_HOSTS)
            # It wants to see the host in the body too.
            body = request.json
            if uuid in self.hosts and isinstance(body, dict) and body.get("uuid") == uuid:
                return _answer({"uuid": uuid} | self.hosts[uuid])
        return b""


@contextlib.asynccontextmanager
async def fake_vim(port: int = 0) -> AsyncIterator[FakeVim]:
    """A VIM that serves for as long as the block runs."""
    vim = FakeVim(port)
    async with trio.open_nursery() as nursery:
        await nursery.start(vim.run)
        yield vim
        nursery.cancel_scope.cancel()


def _head(status: str) -> bytes:
    # HTTP/1.0 and no Content-Length: the end of the connection is the end of the answer.
    return f"HTTP/1.0 {status}\r\nContent-Type: application/json\r\n\r\n".encode("ascii")


def _answer(members: dict[str, Any]) -> bytes:
    return _head("200 OK") + json.dumps(members).encode("ascii")


def loopback_socket(port: int = 0) -> socket.socket:
    """A socket that keeps a port of the loopback, but does not listen; another one may."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # Two of ours on one port: the one that keeps it and the one that listens.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind(("127.0.0.1", port))
        sock.setblocking(False)
    except BaseException:
        sock.close()
        raise
    return sock


def _reset(stream: trio.SocketStream) -> None:
    """Has the close that follows send a reset."""
    with contextlib.suppress(OSError):
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
