"""Serves HTTP as the deployed VIM does, on the streams of any listener.

As measured on the VIM's own modules (PROTOCOL.md, section 3): an alarm, and an audit that it can
answer, get ``HTTP/1.0 200`` without a Content-Length, ended by closing the connection. Everything
else, accepted or not, gets no byte before the connection is closed. On demand it acts like a VIM
that hangs, is killed, or is not a VIM at all: see :class:`Mood`.
"""

from __future__ import annotations

import contextlib
import json
import socket
import struct
from collections import deque
from collections.abc import Callable
from enum import Enum
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

import trio

from hbtrio.lab.received import Received, read_request
from hbtrio.nursery.wakeup import WakeUp

#: Requests that are kept at most; older ones are dropped.
KEPT: Final = 100_000

#: Seconds after which a client that stalls in its request is disconnected.
_PATIENCE_S: Final = 60.0

_GONE: Final = (trio.BrokenResourceError, trio.ClosedResourceError)
_HOSTS: Final = "/nfvi-plugins/v1/hosts/"
_INSTANCES: Final = "/nfvi-plugins/v1/instances/"


class Mood(Enum):
    """How a connection is treated."""

    #: As by the deployed VIM.
    USUAL = "usual"
    #: Reset before anything is read.
    RESET_UNREAD = "reset unread"
    #: Reset after half of the body: a VIM that was killed during a request.
    RESET_HALF = "reset half"
    #: Read to the end, recorded, then reset.
    RESET = "reset"
    #: Nothing is read or sent for a minute.
    STALL_UNREAD = "stall unread"
    #: Nothing is read until the mood changes: a busy VIM.
    BUSY = "busy"
    #: Read to the end, recorded, then nothing is sent until the client gives up.
    STALL = "stall"
    #: The answer's head and part of its body are sent, then nothing until the client gives up.
    STALL_ANSWERING = "stall answering"
    #: Recorded, answered with something that is not HTTP.
    GARBAGE = "garbage"
    #: Recorded, answered with an endless body.
    FLOOD = "flood"
    #: Recorded, answered with an error status, as by a proxy or another version.
    ERROR_400 = "400"
    ERROR_500 = "500"
    ERROR_503 = "503"


def reset_socket(stream: trio.abc.Stream) -> None:
    """Makes the following close of a socket's stream send a reset."""
    assert isinstance(stream, trio.SocketStream)
    with contextlib.suppress(OSError):
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


class VimServer:
    """A simulated VIM's server.

    Attributes:
        hosts: the answers to audits of hosts, by the host's uuid: ``hostname``, ``state``.
        instances: the answers to audits of a host's instances, by the host's uuid: each instance
            with ``uuid``, ``hostname``, ``services``.
        next_moods: how the next connections are treated instead; each is used once.
        received: the requests, oldest first.
        connections: the number of accepted connections.
        on_received: called with each request before it is answered.

    Args:
        listen: makes the listener, whenever the VIM comes up.
        kept: requests that are kept at most.
        reset: makes the following close of a stream a reset.
    """

    def __init__(
        self,
        listen: Callable[[], trio.abc.Listener[trio.abc.Stream]],
        kept: int = KEPT,
        reset: Callable[[trio.abc.Stream], None] = reset_socket,
    ) -> None:
        self.hosts: dict[str, dict[str, str]] = {}
        self.instances: dict[str, list[dict[str, Any]]] = {}
        self._mood = Mood.USUAL
        self.next_moods: deque[Mood] = deque()
        self.received: deque[Received] = deque(maxlen=kept)
        self.connections = 0
        self._listen = listen
        self.on_received: Callable[[Received], None] | None = None
        self._reset = reset
        self._news = WakeUp()
        self._up = trio.Event()
        self._down = trio.Event()
        self._up.set()

    @property
    def mood(self) -> Mood:
        """How connections are treated."""
        return self._mood

    @mood.setter
    def mood(self, mood: Mood) -> None:
        self._mood = mood
        self._news.set()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serves until cancelled."""
        started = False
        while True:
            await self._up.wait()
            self._down = trio.Event()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._accept, self._listen())
                if not started:
                    task_status.started()
                    started = True
                await self._down.wait()
                # As when its process is killed: open connections are reset.
                nursery.cancel_scope.cancel()

    def go_down(self) -> None:
        """Refuses connections and resets open ones, until :meth:`come_up`."""
        if self._up.is_set():
            self._up = trio.Event()
            self._down.set()

    def come_up(self) -> None:
        """Accepts connections again."""
        self._up.set()

    async def wait_for(self, count: int) -> list[Received]:
        """Waits until ``count`` requests have been received, and returns all."""
        await self.wait_until(lambda: len(self.received) >= count)
        return list(self.received)

    async def wait_until(self, true: Callable[[], bool]) -> None:
        """Waits until ``true()`` holds; checked after each request and connection."""
        while not true():
            await self._news.wait()

    def patches(self, kind: str = "") -> list[dict[str, Any]]:
        """Returns the bodies of PATCH requests, of one event-type if given."""
        bodies = [one.json for one in self.received if one.method == "PATCH"]
        return [
            body
            for body in bodies
            if isinstance(body, dict) and kind in ("", body.get("event-type"))
        ]

    # ----------------------------------------------------------------------------------------------

    async def _accept(self, listener: trio.abc.Listener[trio.abc.Stream]) -> None:
        async with listener, trio.open_nursery() as nursery:
            while True:
                nursery.start_soon(self._serve, await listener.accept())

    async def _serve(self, stream: trio.abc.Stream) -> None:
        self.connections += 1
        mood = self.next_moods.popleft() if self.next_moods else self.mood
        self._news.set()
        try:
            with contextlib.suppress(*_GONE), trio.move_on_after(_PATIENCE_S):
                await self._answer(stream, mood)
        except trio.Cancelled:
            self._reset(stream)
            raise
        finally:
            await trio.aclose_forcefully(stream)

    async def _answer(self, stream: trio.abc.Stream, mood: Mood) -> None:
        if mood is Mood.RESET_UNREAD:
            self._reset(stream)
            return
        if mood is Mood.STALL_UNREAD:
            await trio.sleep_forever()
        if mood is Mood.BUSY:
            await self.wait_until(lambda: self._mood is not Mood.BUSY)
        request = await read_request(stream, half=mood is Mood.RESET_HALF)
        if request is None:
            self._reset(stream)
            return
        self.received.append(request)
        if self.on_received is not None:
            self.on_received(request)
        self._news.set()
        match mood:
            case Mood.RESET:
                self._reset(stream)
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
        """Returns the deployed VIM's answer; b"" if it sends none."""
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
            # The deployed VIM requires the uuid in the body, too.
            body = request.json
            if uuid in self.hosts and isinstance(body, dict) and body.get("uuid") == uuid:
                return _answer({"uuid": uuid} | self.hosts[uuid])
        return b""


def _head(status: str) -> bytes:
    # HTTP/1.0 without Content-Length: the end of the connection ends the answer.
    return f"HTTP/1.0 {status}\r\nContent-Type: application/json\r\n\r\n".encode("ascii")


def _answer(members: dict[str, Any]) -> bytes:
    return _head("200 OK") + json.dumps(members).encode("ascii")
