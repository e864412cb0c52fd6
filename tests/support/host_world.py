"""A host in a world of its own: channels in memory, commands on the fake clock, scripted guests.

Reports carry the world's wall clock, which runs with trio's: so what was reported when is known to
the microsecond.
"""

from __future__ import annotations

import gc
import json
import random
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import attrs
import msgspec
import trio

from hbtrio.config.host import HostConfig, LibvirtSettings
from hbtrio.nursery.host.actions import ActionRun
from hbtrio.nursery.host.channel import Channel
from hbtrio.nursery.host.daemon import Host, open_host
from hbtrio.nursery.host.environment import HostEnvironment
from hbtrio.nursery.host.memory import HostMemory, open_memory
from hbtrio.nursery.host.reports import Reports
from hbtrio.nursery.host.round import Round
from hbtrio.policy.begin_by import ANY_TIME, ProcessClock
from hbtrio.wire.channel_messages import (
    MAX_ID,
    ActionNotify,
    ActionResponse,
    Challenge,
    ChallengeResponse,
    Exit,
    Init,
    Message,
    MoreTime,
    TimeGranted,
    VoterState,
)
from hbtrio.wire.vocabulary import (
    ActionName,
    CorrectiveAction,
    Event,
    Health,
    NotificationType,
    VoteResult,
)
from support.fake_directory import FakeDirectory
from support.fake_libvirt import FakeLibvirt
from support.fake_processes import FakeProcesses, FakeRun
from support.fake_time import FakeTime
from support.leaks import nothing_left
from support.lines import members
from support.memory_port import MemoryDialer, MemoryPeer

CHANNEL_DIR = "/run/vms"
EPOCH = datetime(2026, 1, 1, tzinfo=UTC)

VOTE, NOTICE = NotificationType.REVOCABLE, NotificationType.IRREVOCABLE

#: When a test begins: the host has looked around for the first time, and finds at once what comes.
START_S = 1.0

#: The first invocation id of every deployed client, after every start.
FIRST_ID = 1804289383

#: A report as tests compare it: the time, the kind, what else applies, the reason.
Told = tuple[float | str, ...]


def uuid_of(number: int) -> str:
    """The uuid of guest ``number``."""
    return f"{number:08x}-1111-2222-abcd-0123456789ef"


@attrs.frozen
class Received:
    """A message that a guest got, and when; ``line`` is what it stood on."""

    time_s: float
    message: Message
    line: bytes = attrs.field(eq=False, default=b"")

    @property
    def sequence(self) -> int:
        """The number that the host gave it."""
        number: int = json.loads(self.line)["sequence"]
        return number


@attrs.frozen
class Reply:
    """How a guest answers a vote or notice; what is None is copied from what was asked."""

    result: VoteResult
    reason: str = ""
    after_s: float = 0.0
    invocation_id: int | None = None
    event: Event | None = None
    notification: NotificationType | None = None


def agree(asked: ActionNotify) -> Reply:
    """Accepts a vote and completes a notice at once."""
    if asked.notification_type is VOTE:
        return Reply(VoteResult.ACCEPT)
    return Reply(VoteResult.COMPLETE)


def stay_silent(_: ActionNotify) -> None:
    """Never answers."""


@attrs.define
class Acted:
    """An action as somebody sees it who watches from its beginning."""

    run: ActionRun
    lines: list[dict[str, Any]] = attrs.field(factory=list)
    times: list[float] = attrs.field(factory=list)
    ended: bool = False

    async def watch(self) -> None:
        """Watches to the end."""
        async for line in self.run.progress():
            self.lines.append(members(line))
            self.times.append(now())
        self.ended = True


class ScriptedGuest:
    """A guest behind its channel: it says ``init``, answers challenges, votes and notices.

    Args:
        world: where it lives.
        number: makes its uuid.
        init: what its ``init`` says.
    """

    def __init__(self, world: HostWorld, number: int, init: Init) -> None:
        self.uuid = uuid_of(number)
        self.name = f"cgcs.heartbeat.{self.uuid}.sock"
        self.path = f"{CHANNEL_DIR}/{self.name}"
        self.init = init
        #: Its end of the connection, the last one if there were several.
        self.peer = MemoryPeer(self.path)
        self.connections = 0
        self.received: list[Received] = []
        #: Whether it says ``init`` with each connection.
        self.sends_init = True
        #: Whether it reads what the host sends.
        self.reads = True
        #: How long it takes to answer a challenge; None: it does not.
        self.answers_after_s: float | None = 0.0
        self.health = Health.HEALTHY
        self.action = CorrectiveAction.REBOOT
        self.log_msg = ""
        #: How it answers votes and notices.
        self.reply: Callable[[ActionNotify], Reply | None] = agree
        self._world = world

    # -- its socket -------------------------------------------------------------------------

    def appear(self) -> ScriptedGuest:
        """Its socket is made, and listens."""
        self._world.dialer.listen(self.path, self.connected)
        self._world.directory.replace(self.name)
        return self

    def vanish(self) -> None:
        """Its QEMU ends: the connection breaks and the socket goes."""
        if not self.peer.closed and not self.peer.host_closed:
            self.peer.close()
        self._world.dialer.forget(self.path)
        self._world.directory.remove(self.name)

    def connected(self, peer: MemoryPeer) -> None:
        self.peer = peer
        self.connections += 1
        self._world.peers.append(peer)
        peer.on_message = self._hear
        peer.reading = self.reads
        if self.sends_init:
            self.send_init()

    # -- what it says -----------------------------------------------------------------------

    def send_init(self, **changes: Any) -> None:
        """Says ``init``; ``changes`` are kept."""
        self.init = msgspec.structs.replace(self.init, **changes)
        self.peer.send(self.init)

    def answer_challenge(self, number: int | None = None, **changes: Any) -> None:
        """Answers a challenge, the last one if no number is given."""
        response = ChallengeResponse(
            self.challenges[-1].heartbeat_challenge if number is None else number,
            self.health,
            self.action,
            self.log_msg,
        )
        self.peer.send(msgspec.structs.replace(response, **changes))

    def answer_vote(self, asked: ActionNotify, reply: Reply) -> None:
        """Answers a vote or notice."""
        self.peer.send(
            ActionResponse(
                asked.invocation_id if reply.invocation_id is None else reply.invocation_id,
                reply.event or asked.event_type,
                reply.notification or asked.notification_type,
                reply.result,
                reply.reason,
            )
        )

    def ask_time(self, seconds: int, name: str = "orders", **changes: Any) -> None:
        """Asks for more time in the last vote or notice that it was sent."""
        number = sum(isinstance(message, TimeGranted) for message in self.messages) + 1
        request = MoreTime(self.asked.invocation_id, number, seconds, name)
        self.peer.send(msgspec.structs.replace(request, **changes))

    def report_voters(self, *states: VoterState) -> None:
        """Reports its voters."""
        for state in states:
            self.peer.send(state)

    def send_exit(self, log_msg: str = "Exiting...") -> None:
        """Says ``exit``, and nothing after it."""
        self.answers_after_s = None
        self.peer.send(Exit(log_msg))

    # -- what it was told -------------------------------------------------------------------

    def received_since(self, since: float = 0.0) -> list[Received]:
        """What the host said to it from ``since`` on, times in microseconds."""
        return [heard for heard in self.received if heard.time_s >= since]

    @property
    def challenges(self) -> list[Challenge]:
        """The challenges it got."""
        return [message for message in self.messages if isinstance(message, Challenge)]

    @property
    def messages(self) -> list[Message]:
        """All that the host said to it."""
        return [heard.message for heard in self.received]

    def challenged_at(self, since: float = 0.0) -> list[float]:
        """When it was challenged."""
        return [h.time_s for h in self.received_since(since) if isinstance(h.message, Challenge)]

    @property
    def asked(self) -> ActionNotify:
        """The last vote or notice that it was sent."""
        return [message for message in self.messages if isinstance(message, ActionNotify)][-1]

    def _hear(self, message: Message, line: bytes) -> None:
        self.received.append(Received(now(), message, line))
        match message:
            case Challenge(number) if self.answers_after_s == 0:
                self.answer_challenge(number)
            case Challenge(number) if self.answers_after_s is not None:
                self._world.after(
                    self.answers_after_s, self._if_connected(self.answer_challenge), number
                )
            case ActionNotify():
                reply = self.reply(message)
                if reply is not None and reply.after_s == 0:
                    self.answer_vote(message, reply)
                elif reply is not None:
                    answer = self._if_connected(self.answer_vote)
                    self._world.after(reply.after_s, answer, message, reply)

    def _if_connected(self, say: Callable[..., None]) -> Callable[..., None]:
        peer = self.peer

        def say_it(*values: Any) -> None:
            if peer is self.peer and not peer.closed and not peer.host_closed:
                say(*values)

        return say_it


class HostWorld(FakeTime):
    """What surrounds a host, and the host.

    Args:
        nursery: runs what happens later.
        config: the host's configuration.
        runs: what commands do, by their first word or by a function of all of them.
        seed: of the ids that the host makes up.
        memory: what the host remembers across restarts.
    """

    def __init__(
        self,
        nursery: trio.Nursery,
        config: HostConfig,
        runs: Mapping[str, FakeRun] | Callable[..., FakeRun],
        seed: int,
        memory: HostMemory,
    ) -> None:
        self.directory = FakeDirectory()
        self.dialer = MemoryDialer()
        self.processes = FakeProcesses(runs)
        self.peers: list[MemoryPeer] = []
        #: The votes and notices that were opened here.
        self.rounds: list[Round] = []
        #: When log lines began (True) or ceased to be shed.
        self.sheds: list[bool] = []
        ids = random.Random(seed)
        self.host: Host
        self._config = config
        #: Used if the host's configuration has it otherwise than by default.
        self.libvirt = FakeLibvirt()
        self._environment = HostEnvironment(
            # By default a test has none.
            libvirt=None if config.libvirt == LibvirtSettings() else self.libvirt,
            watch=self.directory,
            dialer=self.dialer,
            processes=self.processes,
            new_id=lambda: ids.randint(0, MAX_ID),
            reports=Reports(lambda: EPOCH + timedelta(seconds=trio.current_time())),
            clock=ProcessClock(trio.current_time, "boot-1"),
            shed_log=self.sheds.append,
            memory=memory,
        )
        #: Programming errors that the test brings about.
        self.crashes = 0
        self._nursery = nursery
        self._host_scope = trio.CancelScope()
        self._host_ended = trio.Event()
        #: All that were made, whether or not they are there yet.
        self.guests: list[ScriptedGuest] = []

    # -- guests -----------------------------------------------------------------------------

    def guest(self, **init: Any) -> ScriptedGuest:
        """A guest whose socket is not there yet; with each a new uuid."""
        words: dict[str, Any] = {
            "invocation_id": FIRST_ID,
            "name": "vm",
            "heartbeat_interval_ms": 1000,
            "vote_secs": 9,
            "shutdown_notice_secs": 10,
            "suspend_notice_secs": 11,
            "resume_notice_secs": 14,
            "restart_secs": 121,
            "corrective_action": CorrectiveAction.REBOOT,
        }
        self.guests.append(ScriptedGuest(self, len(self.guests) + 1, Init(**(words | init))))
        return self.guests[-1]

    async def heartbeating(self, **init: Any) -> ScriptedGuest:
        """A guest that is heartbeating; the first one is challenged from now on every interval."""
        guest = self.guest(**init).appear()
        await self.settle()
        while not (guest.uuid in self.host.channels and self.channel(guest).heartbeating):
            await self.sleep(0.01)
        return guest

    async def all_heartbeating(self, count: int, **init: Any) -> list[ScriptedGuest]:
        """Guests that are found together and heartbeating at once."""
        guests = [self.guest(**init).appear() for _ in range(count)]
        await self.settle()
        assert self.host.heartbeating >= count
        return guests

    def channel(self, guest: ScriptedGuest) -> Channel:
        """The host's channel of a guest."""
        return self.host.channel(guest.uuid)

    def vote(self, guest: ScriptedGuest, event: Event = Event.STOP) -> Round:
        """Opens a vote."""
        self.rounds.append(self.host.open_round(guest.uuid, event, VOTE))
        return self.rounds[-1]

    async def vim_vote(self, guest: ScriptedGuest, event: Event) -> Round:
        """Opens a vote as the VIM's agent does: its first step of an action."""
        opened = await self.host.rounds.open_soon(
            guest.uuid,
            event,
            VOTE,
            command_id="command-1",
            patience_s=1.0,
            begin_by=ANY_TIME,
            who="vim of the agent",
            by_vim=True,
        )
        await self.settle()
        return opened

    def notice(self, guest: ScriptedGuest, event: Event = Event.STOP) -> Round:
        """Opens a notice."""
        self.rounds.append(self.host.open_round(guest.uuid, event, NOTICE))
        return self.rounds[-1]

    async def act(
        self, guest: ScriptedGuest, name: ActionName, *command: str, **options: bool
    ) -> Acted:
        """Begins an action and watches it."""
        run = self.host.begin_action(guest.uuid, name, command, **({"force": False} | options))
        acted = Acted(run)
        self._nursery.start_soon(acted.watch)
        await self.settle()
        return acted

    # -- time -------------------------------------------------------------------------------

    def after(self, delay_s: float, do: Callable[..., object], *values: Any) -> None:
        """Calls ``do`` in ``delay_s``."""

        async def wait() -> None:
            await trio.sleep(delay_s)
            do(*values)

        self._nursery.start_soon(wait)

    # -- what the host told -----------------------------------------------------------------

    def reports(self, guest: ScriptedGuest | None = None, since: float = 0.0) -> list[Told]:
        """The reports about one guest or all of them, each as short as it can be compared."""
        told: list[Told] = []
        for report in self.host.reports.recent:
            time_s = round((report.time - EPOCH).total_seconds(), 6)
            if time_s < since or (guest is not None and report.uuid != guest.uuid):
                continue
            about = (report.event, report.result, report.corrective_action)
            words = [str(word) for word in (report.kind, *about) if word is not None]
            told.append((time_s, *words, report.reason))
        return told

    # -- its life ---------------------------------------------------------------------------

    async def run_host(self, *, task_status: trio.TaskStatus[None]) -> None:
        """Runs the host until :meth:`stop_host`."""
        with self._host_scope:
            async with open_host(self._config, self._environment) as self.host:
                task_status.started()
                await trio.sleep_forever()
        self._host_ended.set()

    async def restart_host(self, memory: HostMemory, *, away_s: float = 0.0, **config: Any) -> None:
        """Ends the host, and starts another ``away_s`` later that has this memory.

        ``config`` has the keys of its configuration that differ from now on.
        """
        self._config = attrs.evolve(self._config, **config)
        await self.stop_host()
        await trio.sleep(away_s)
        reports = Reports(self._environment.reports.now)
        self._environment = attrs.evolve(self._environment, memory=memory, reports=reports)
        self._host_scope, self._host_ended = trio.CancelScope(), trio.Event()
        self._nursery.start_soon(memory.run)
        await self._nursery.start(self.run_host)

    async def stop_host(self) -> None:
        """Ends the host, as SIGTERM does, and waits for its end."""
        self._host_scope.cancel()
        await self._host_ended.wait()


def now() -> float:
    """Trio's time in whole microseconds."""
    return round(trio.current_time(), 6)


@asynccontextmanager
async def host_world(
    *,
    runs: Mapping[str, FakeRun] | Callable[..., FakeRun] | None = None,
    seed: int = 0,
    memory: HostMemory | None = None,
    **config: Any,
) -> AsyncIterator[HostWorld]:
    """A running host without guests, at ``START_S``; use it on an autojump clock.

    At its end the host must have sent no garbage, and must not have failed more often than the test
    expected.

    Args:
        runs: what commands do; without it there are none.
        seed: of the ids that the host makes up.
        memory: what it remembers across restarts; by default nothing.
        config: keys of the host's configuration.
    """
    try:
        memory = memory or HostMemory()
        async with nothing_left(), open_memory(memory), trio.open_nursery() as nursery:
            settings = HostConfig(channel_dir=CHANNEL_DIR, hostname="compute-0", **config)
            world = HostWorld(nursery, settings, runs or {}, seed, memory)
            await nursery.start(world.run_host)
            await world.at(START_S)
            yield world
            await world.stop_host()
            nursery.cancel_scope.cancel()
    finally:
        gc.unfreeze()  # a host freezes what there is when it starts
    assert [line for peer in world.peers for line in peer.garbled] == []
    assert all(peer.host_closed for peer in world.peers)
    assert world.host.supervisor.crashes == world.crashes
