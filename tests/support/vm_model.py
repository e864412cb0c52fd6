"""A VM on the fake clock that is paused, saved, moved and booted, with a guest client in it.

Its clocks stand still while it is frozen, and what is sent to it waits in its port. The client is
ours, decided by its own state machine, or the deployed one: that one says what was recorded of it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from functools import cache
from itertools import count
from typing import Final, Protocol

import attrs
import trio

from hbtrio.fsm.guest_session import (
    AnswerChallenge,
    Effect,
    GuestSession,
    SendToHost,
    SessionSettings,
    StartAction,
)
from hbtrio.wire.channel_codec import encode
from hbtrio.wire.channel_messages import (
    ActionNotify,
    ActionResponse,
    ChallengeResponse,
    Exit,
    Init,
    Message,
)
from hbtrio.wire.vocabulary import (
    CorrectiveAction,
    Event,
    Health,
    NotificationType,
    VoteResult,
)
from support.host_world import CHANNEL_DIR, HostWorld, uuid_of
from support.memory_port import MemoryPeer
from wire.captured import GUEST_TO_HOST, capture

#: The first ids of every deployed client, after every start.
RECORDED_IDS: Final = (1804289383, 846930886, 1681692777, 1714636915)


class Client(Protocol):
    """A guest client. Times are those of its VM."""

    deadline: float

    def received(self, message: Message, now: float) -> list[bytes]:
        """Returns what it says to a message of the host."""

    def channel_up(self, now: float) -> list[bytes]:
        """Returns what it says when the port is there."""

    def expired(self, now: float) -> list[bytes]:
        """Returns what it says at its deadline."""

    def shutdown(self, now: float) -> list[bytes]:
        """Returns what it says when it is stopped."""


class OurClient:
    """Our guest: the state machine of ``hbtrio guest``, whose handlers agree at once.

    Args:
        restart_s: its RESTART.
        now: when it is started.
    """

    def __init__(self, restart_s: int, now: float) -> None:
        #: Its health, and why.
        self.health, self.log_msg = Health.HEALTHY, ""
        self._sequence = count(1)
        settings = SessionSettings("vm", restart_s=restart_s)
        self._session = GuestSession(settings, new_id=self._ids().__next__, now=now)

    def _ids(self) -> Iterator[int]:
        return count(1)

    @property
    def deadline(self) -> float:
        return self._session.deadline

    def received(self, message: Message, now: float) -> list[bytes]:
        return self._lines(self._session.received(message, now))

    def channel_up(self, now: float) -> list[bytes]:
        return self._lines(self._session.channel_up(now))

    def expired(self, now: float) -> list[bytes]:
        return self._lines(self._session.expired(now, late=False))

    def shutdown(self, now: float) -> list[bytes]:
        return self._lines(self._session.shutdown(now))

    def _lines(self, effects: list[Effect]) -> list[bytes]:
        said: list[Message] = []
        for effect in effects:
            match effect:
                case SendToHost(message):
                    said.append(message)
                case AnswerChallenge(number):
                    action = CorrectiveAction.REBOOT
                    said.append(ChallengeResponse(number, self.health, action, self.log_msg))
                case StartAction(notify):
                    said.append(self._agree(notify))
        return [self._line(message, next(self._sequence)) for message in said]

    def _agree(self, asked: ActionNotify) -> ActionResponse:
        vote = asked.notification_type is NotificationType.REVOCABLE
        return ActionResponse(
            asked.invocation_id,
            asked.event_type,
            asked.notification_type,
            VoteResult.ACCEPT if vote else VoteResult.COMPLETE,
            "",
        )

    def _line(self, message: Message, sequence: int) -> bytes:
        return encode(message, sequence)


class RecordedClient(OurClient):
    """The deployed C client: its ids, and its lines as they were recorded.

    Its states are those of the protocol, and so our machine's.
    """

    def __init__(self, restart_s: int, now: float) -> None:
        self._restart_s = restart_s
        super().__init__(restart_s, now)

    def _ids(self) -> Iterator[int]:
        return iter(RECORDED_IDS)

    def _line(self, message: Message, sequence: int) -> bytes:
        values: dict[str, int] = {"sequence": sequence}
        match message:
            case Init(invocation_id):
                key = ("init", "", "")
                values |= {"invocation_id": invocation_id, "restart_secs": self._restart_s + 1}
            case ChallengeResponse(number) if message.heartbeat_health is Health.HEALTHY:
                key = ("challenge_response", "", "")
                values["heartbeat_response"] = number
            case ActionResponse(invocation_id):
                key = ("action_response", message.event_type, message.notification_type)
                values["invocation_id"] = invocation_id
            case Exit():
                # It was not recorded; nor was ill health of this profile.
                return encode(message, sequence)
            case _:
                return encode(message, sequence)
        return with_values(recorded()[key], values)


@cache
def recorded() -> dict[tuple[str, str, str], bytes]:
    """What a deployed client said to accept: by kind, event and notification."""
    lines: dict[tuple[str, str, str], bytes] = {}
    for name in ("b_accept", "f_notify"):
        for one in capture(name):
            if one.direction == GUEST_TO_HOST:
                text = one.data.decode()
                kind, event = _word("msg_type", text), _word("event_type", text)
                lines.setdefault((kind, event, _word("notification_type", text)), one.data)
    return lines


def _word(key: str, text: str) -> str:
    found = re.search(rf'"{key}":"(\w+)"', text)
    return found[1] if found else ""


def with_values(line: bytes, values: dict[str, int]) -> bytes:
    """Returns a recorded line with other numbers."""
    for key, value in values.items():
        old, new = rf'"{key}":\d+'.encode(), f'"{key}":{value}'.encode()
        line, changed = re.subn(old, new, line, count=1)
        assert changed, key
    return line


@attrs.frozen
class Told:
    """A vote or notice that the client was sent, and when."""

    time_s: float
    event: Event
    is_vote: bool


class Vm:
    """A VM.

    Args:
        nursery: runs its client.
        client: makes one, at a boot.
        restart_s: its RESTART.
    """

    def __init__(
        self, nursery: trio.Nursery, client: Callable[[int, float], OurClient], restart_s: int
    ) -> None:
        self.uuid = uuid_of(1)
        self.name = f"cgcs.heartbeat.{self.uuid}.sock"
        self.path = f"{CHANNEL_DIR}/{self.name}"
        #: The client that runs in it, or None.
        self.client: OurClient | None = None
        #: The votes and notices that its clients were sent.
        self.told: list[Told] = []
        #: Called with each of them, before the client reads it.
        self.on_told: Callable[[Told], object] = lambda _: None
        #: When its guest last became able to answer.
        self.runs_since = 0.0
        self._make_client = client
        self._restart_s = restart_s
        self._peer: MemoryPeer | None = None
        self._worlds: list[HostWorld] = []
        self._frozen_at = math.nan
        self._frozen_s = 0.0
        self._changed = trio.Event()
        nursery.start_soon(self._run)

    # -- its QEMU ---------------------------------------------------------------------------

    def appear(self, world: HostWorld) -> None:
        """Its QEMU starts on a host."""
        self._worlds.append(world)

        def connected(peer: MemoryPeer) -> None:
            world.peers.append(peer)
            if world is self._worlds[-1]:
                self._connected(peer)
            else:
                peer.reading = False  # where a VM moves from, nobody answers any more

        world.dialer.listen(self.path, connected)
        world.directory.replace(self.name)

    def vanish(self, world: HostWorld) -> None:
        """Its QEMU ends on a host."""
        self._worlds.remove(world)
        for peer in world.peers:
            if peer.path == self.path and not peer.closed and not peer.host_closed:
                peer.close()
        world.dialer.forget(self.path)
        world.directory.remove(self.name)

    def _connected(self, peer: MemoryPeer) -> None:
        self._peer = peer
        peer.on_message = self._hear
        peer.reading = self._is_running

    # -- its vCPUs and its guest --------------------------------------------------------------

    def freeze(self) -> None:
        """Its vCPUs and clocks stop."""
        self._frozen_at = trio.current_time()
        self._go_on(reading=False)

    def thaw(self) -> None:
        """They go on, as if nothing had happened."""
        self._frozen_s += trio.current_time() - self._frozen_at
        self._frozen_at = math.nan
        self.runs_since = trio.current_time()
        self._go_on(reading=True)

    def reset(self) -> None:
        """Its guest is gone without a word."""
        self.client = None
        self._go_on(reading=False)

    def shut_down(self) -> None:
        """Its guest is shut down, and its client with it."""
        assert self.client is not None
        self._say(self.client.shutdown(self._time()))
        self.reset()

    def boot(self) -> None:
        """A guest has booted: its client starts."""
        now = self._time()
        self.client = self._make_client(self._restart_s, now)
        self.runs_since = trio.current_time()
        self._go_on(reading=True)
        self._say(self.client.channel_up(now))

    def told_at(self, event: Event) -> float:
        """When its client was first sent the notice of an event."""
        return next(
            (told.time_s for told in self.told if told.event is event and not told.is_vote),
            math.inf,
        )

    @property
    def _is_running(self) -> bool:
        return self.client is not None and math.isnan(self._frozen_at)

    def _time(self) -> float:
        """Its monotonic clock."""
        return trio.current_time() - self._frozen_s

    def _go_on(self, *, reading: bool) -> None:
        if self._peer is not None and not self._peer.host_closed:
            self._peer.reading = reading
        self._changed.set()

    def _hear(self, message: Message, _: bytes) -> None:
        if self.client is None:
            return
        if isinstance(message, ActionNotify):
            is_vote = message.notification_type is NotificationType.REVOCABLE
            told = Told(trio.current_time(), message.event_type, is_vote)
            self.told.append(told)
            self.on_told(told)
        self._say(self.client.received(message, self._time()))
        self._changed.set()

    def _say(self, lines: list[bytes]) -> None:
        peer = self._peer
        if peer is not None and not peer.closed and not peer.host_closed:
            for line in lines:
                peer.send_bytes(line)

    async def _run(self) -> None:
        while True:
            self._changed = trio.Event()
            client = self.client if self._is_running else None
            deadline = math.inf if client is None else client.deadline + self._frozen_s
            with trio.move_on_at(deadline):
                await self._changed.wait()
                continue
            if client is self.client and client is not None and self._is_running:
                self._say(client.expired(self._time()))
