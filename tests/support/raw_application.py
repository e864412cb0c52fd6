"""Applications by hand, with nothing of ours but the codec, and a guest that serves them."""

from __future__ import annotations

import itertools
import socket
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import trio

from hbtrio.net.unix_socket import UnixListener, open_unix_listener
from hbtrio.nursery.guest.applications import MAX_CONNECTIONS, Applications
from hbtrio.nursery.guest.event_scripts import EventScripts
from hbtrio.nursery.guest.voters import AllVoters
from hbtrio.policy.health_merge import HealthStatus
from hbtrio.policy.time_guard import OnTimeGuard
from hbtrio.wire.app_codec import MESSAGE_BYTES, AppDecoder, encode
from hbtrio.wire.app_messages import (
    AppActionNotify,
    AppActionResponse,
    AppChallenge,
    AppChallengeResponse,
    AppInit,
    AppMessage,
    Final,
)
from hbtrio.wire.vocabulary import CorrectiveAction, VoteResult
from support.fake_processes import FakeProcesses
from support.fake_time import FakeTime
from support.guest_world import GuestWorld
from support.leaks import nothing_left


def init(name: str = "web", **terms: Any) -> AppInit:
    """A registration; each window is of another length, as is none of the guest's."""
    default: dict[str, Any] = {
        "heartbeat_interval_ms": 1000,
        "vote_secs": 3,
        "shutdown_notice_secs": 4,
        "suspend_notice_secs": 5,
        "resume_notice_secs": 2,
        "corrective_action": CorrectiveAction.STOP,
    }
    return AppInit(name, **(default | terms))


class RawApplication:
    """A program with the application's end of one connection; it answers challenges by itself.

    Args:
        connection: its socket, connected and not blocking.
        nursery: its reader runs in it.
    """

    def __init__(self, connection: socket.socket, nursery: trio.Nursery) -> None:
        #: When it heard what; times are rounded to microseconds.
        self.received: list[tuple[float, AppMessage]] = []
        #: The same messages as they came; the guest sends each in one piece.
        self.raw: list[bytes] = []
        #: When the guest closed the connection.
        self.closed_at: float | None = None
        #: Whether it answers challenges, and what it says then.
        self.beats = True
        self.health = HealthStatus(True)
        #: What it does when it is asked or told of an event; by default nothing.
        self.on_event: Callable[[AppActionNotify], None] = lambda _: None
        self.connection = connection
        self._decoder = AppDecoder()
        self._sequence = 0
        self._news = trio.Event()
        self._going = trio.Event()
        self._going.set()
        nursery.start_soon(self._read)

    @classmethod
    def connect(
        cls, path: Path, nursery: trio.Nursery, *registration: AppMessage
    ) -> RawApplication:
        """Connects and says this."""
        connection = socket.socket(socket.AF_UNIX)
        connection.setblocking(False)
        connection.connect(str(path))
        application = cls(connection, nursery)
        application.send(*registration)
        return application

    def send(self, *messages: AppMessage) -> None:
        """Sends messages, all in one piece."""
        self.send_bytes(b"".join(map(self.encoded, messages)))

    def send_bytes(self, data: bytes) -> None:
        """Sends bytes in one piece; they must find room."""
        assert not data or self.connection.send(data) == len(data)

    def encoded(self, message: AppMessage) -> bytes:
        """The bytes of the next message."""
        self._sequence += 1
        return encode(message, self._sequence)

    def answer(
        self, asked: AppActionNotify, result: VoteResult, reason: str = "", **instead: Any
    ) -> None:
        """Answers a vote or notice."""
        members = {
            "invocation_id": asked.invocation_id,
            "event_type": asked.event_type,
            "notification_type": asked.notification_type,
        } | instead
        self.send(AppActionResponse(**members, vote_result=result, log_msg=reason))

    def deregister(self) -> None:
        """``final``; the connection stays open, as the deployed library's does for a moment."""
        self.send(Final("Exiting"))

    def crash(self) -> None:
        """Its connection is closed without a word, as the system does for a dead process."""
        trio.lowlevel.notify_closing(self.connection)
        self.connection.close()

    def stop(self) -> None:
        """SIGSTOP: it reads nothing until :meth:`go_on`."""
        self._going = trio.Event()

    def resume(self) -> None:
        """SIGCONT."""
        self._going.set()

    def received_of(self, kind: type[AppMessage]) -> list[tuple[float, AppMessage]]:
        """What it heard of this kind, and when."""
        return [(at_s, message) for at_s, message in self.received if type(message) is kind]

    async def asked(self, number: int = 1) -> AppActionNotify:
        """The vote or notice that it is asked or told of as the first, the second, ..."""
        while len(found := self.received_of(AppActionNotify)) < number:
            self._news = trio.Event()
            await self._news.wait()
        message = found[number - 1][1]
        assert isinstance(message, AppActionNotify)
        return message

    async def _read(self) -> None:
        try:
            while True:
                await trio.lowlevel.wait_readable(self.connection)
                await self._going.wait()
                data = self.connection.recv(65536)
                if not data:
                    break
                for start in range(0, len(data), MESSAGE_BYTES):
                    self.raw.append(data[start : start + MESSAGE_BYTES])
                for message in self._decoder.feed(data):
                    self._take(message)
        except trio.ClosedResourceError:
            return
        except ConnectionResetError:
            pass
        finally:
            self.connection.close()
        self.closed_at = _now()

    def _take(self, message: AppMessage) -> None:
        self.received.append((_now(), message))
        self._news.set()
        if isinstance(message, AppChallenge) and self.beats:
            self.beat(message)
        elif isinstance(message, AppActionNotify):
            self.on_event(message)

    def beat(self, challenge: AppChallenge) -> None:
        """Answers a challenge."""
        well = self.health
        number = challenge.heartbeat_challenge
        self.send(AppChallengeResponse(number, well.healthy, well.action, well.reason))


class AppWorld(FakeTime):
    """A guest in memory whose applications come over a real socket, on any clock.

    Args:
        path: of the socket.
        nursery: runs it and the applications.
        events: EVENT_NOTIFICATION_SCRIPT, and ``processes`` what it does.
        max_connections: how many applications it lets in.
        **guest: for :class:`GuestBench`.
    """

    def __init__(
        self,
        path: Path,
        nursery: trio.Nursery,
        *,
        events: Path | None = None,
        processes: FakeProcesses | None = None,
        max_connections: int = MAX_CONNECTIONS,
        **guest: Any,
    ) -> None:
        self.path = path
        self.nursery = nursery
        processes = processes or FakeProcesses({})
        guard = OnTimeGuard(trio.current_time())
        self.applications = Applications(itertools.count(5001).__next__, guard, max_connections)
        path_of_scripts = None if events is None else str(events)
        rejects = guest.get("failure_rejects", frozenset())
        scripts = EventScripts(path_of_scripts, processes, failure_rejects=rejects)
        self.guest = GuestWorld(
            voters=AllVoters(scripts, self.applications), processes=processes, guard=guard, **guest
        )
        self.device = self.guest.device
        self.applications.on_withdrawn = self.guest.guest.reject_withdrawn
        #: Ends the serving of applications; the guest goes on.
        self.serving = trio.CancelScope()

    async def serve(self, listener: UnixListener) -> None:
        """Serves the applications."""
        with self.serving:
            await self.applications.serve(listener)

    async def join(self, *registration: AppMessage) -> RawApplication:
        """An application that connects and says this; all of it has been heard."""
        application = RawApplication.connect(self.path, self.nursery, *registration)
        await self.settle()
        return application


@asynccontextmanager
async def app_world(**settings: Any) -> AsyncIterator[AppWorld]:
    """A guest that serves applications, enabled at 1.0; the settings are those of AppBench."""
    with tempfile.TemporaryDirectory(prefix="app.") as directory:
        path = Path(directory, "api")
        async with nothing_left(), trio.open_nursery() as nursery:
            bench = AppWorld(path, nursery, **settings)
            listener = await open_unix_listener(path)
            nursery.start_soon(bench.serve, listener)
            await bench.guest.enable(nursery)
            yield bench
            nursery.cancel_scope.cancel()


def _now() -> float:
    return round(trio.current_time(), 6)
