"""A host's end of the link by hand, with none of the host's own code."""

from __future__ import annotations

import itertools
import json
from collections.abc import Awaitable, Callable
from typing import Any

import attrs
import trio
from trio.testing import memory_stream_pair

from hbtrio.nursery.agent.link_server import AgentLinks
from hbtrio.wire.lines import LineReader
from hbtrio.wire.link_codec import MAX_LINK_LINE, decode_from_agent, encode_link
from hbtrio.wire.link_messages import (
    Ack,
    ActCommand,
    ActionProgress,
    FromAgent,
    Goodbye,
    Hello,
    Instance,
    LinkMessage,
    LinkReport,
    Ping,
    Pong,
    Reply,
    Reporting,
    RoundCommand,
    SnapshotEnd,
    Welcome,
)
from hbtrio.wire.vocabulary import (
    CorrectiveAction,
    Health,
    NotificationType,
    VoteResult,
    WindowKind,
    window_of,
)

HOSTNAME = "compute-0"
HOST_UUID = "22222222-2222-4222-8222-222222222222"
OTHER_HOST_UUID = "44444444-4444-4444-8444-444444444444"
VM = "11111111-1111-4111-8111-111111111111"
OTHER_VM = "33333333-3333-4333-8333-333333333333"

#: What an instance is like if a test does not say otherwise; each window is another number.
INSTANCE = Instance(
    uuid=VM,
    name="vm",
    state="heartbeating",
    heartbeating=True,
    health=Health.HEALTHY,
    corrective_action=CorrectiveAction.REBOOT,
    interval_ms=1000,
    vote_s=9,
    shutdown_notice_s=10,
    suspend_notice_s=11,
    resume_notice_s=14,
    restart_s=121,
)


def window_of_instance(instance: Instance, command: RoundCommand) -> int:
    """The window that a host opens for a command."""
    kind = NotificationType.REVOCABLE if command.vote else NotificationType.IRREVOCABLE
    return {
        WindowKind.VOTE: instance.vote_s,
        WindowKind.SHUTDOWN_NOTICE: instance.shutdown_notice_s,
        WindowKind.SUSPEND_NOTICE: instance.suspend_notice_s,
        WindowKind.RESUME_NOTICE: instance.resume_notice_s,
        WindowKind.RESTART: instance.restart_s,
    }[window_of(command.event, kind)]


class ScriptedHost:
    """A host daemon with the instances that a test gives it.

    Args:
        hostname: its name.
        host_uuid: the cloud's.
        boot_id: of this process.
    """

    def __init__(
        self,
        hostname: str = HOSTNAME,
        host_uuid: str = HOST_UUID,
        boot_id: str = "boot-1",
        instances: tuple[Instance, ...] = (INSTANCE,),
    ) -> None:
        self.hello = Hello(1, hostname, host_uuid, boot_id, "9.9.9", 0)
        self.instances = {instance.uuid: instance for instance in instances}
        #: All that the agent said on any connection, but for signs of life.
        self.received: list[FromAgent] = []
        #: What the last connection's welcome said.
        self.welcome: Welcome | None = None
        #: Reports that are not acknowledged.
        self.waiting: dict[int, LinkReport] = {}
        #: What it does with a command; by default it opens the round and the guest agrees at once.
        self.on_round: Callable[[RoundCommand], Awaitable[None]] = self.agree
        #: The same for actions; by default they are done at once.
        self.on_act: Callable[[ActCommand], Awaitable[None]] = self.performs
        #: Its boot clock, by which its commands expire; None: it is too old for that.
        self.boot_clock: Callable[[], float] | None = None
        #: The time of its reports.
        self.clock = "2025-01-01T00:00:00+00:00"
        #: Whether the link is up.
        self.up = False
        self._numbers = itertools.count(1)
        self._stream: trio.abc.Stream | None = None
        self._news = trio.Event()
        self._turn = trio.Lock()
        self._pings = 0
        self._ponged = 0

    # -- its link ---------------------------------------------------------------------------

    async def dial(self, links: AgentLinks, nursery: trio.Nursery) -> None:
        """Connects in memory, tells what is, and sends again what was not acknowledged."""
        ours, theirs = memory_stream_pair()
        nursery.start_soon(links.serve, theirs)
        await self.begin(ours, nursery)

    async def begin(self, stream: trio.abc.Stream, nursery: trio.Nursery) -> None:
        """The same on a stream that is connected."""
        self.welcome = None
        self._stream = stream
        self.up = True
        nursery.start_soon(self._read, stream, nursery)
        hello = self.hello
        if self.boot_clock is not None:
            hello = attrs.evolve(hello, clock_s=self.boot_clock())
        await self.send(hello)
        await self.until(lambda: self.welcome is not None or not self.up)
        if self.welcome is None:
            return
        for number in [n for n in self.waiting if n <= self.welcome.acknowledged]:
            del self.waiting[number]
        for instance in self.instances.values():
            await self.send(instance)
        await self.send(SnapshotEnd(len(self.instances)))
        for report in tuple(self.waiting.values()):
            await self.send(report)
        await self.settle()

    async def settle(self) -> None:
        """Returns once the agent has dealt with all that was said; it does so in order."""
        self._pings += 1
        number = self._pings
        await self.send(Ping(number))
        await self.until(lambda: self._ponged >= number or not self.up)

    async def cut(self) -> None:
        """The connection is gone without a word."""
        assert self._stream is not None
        await trio.aclose_forcefully(self._stream)
        self.up = False

    async def send(self, message: LinkMessage) -> None:
        """Says it, if the link is up."""
        if self._stream is None:
            return
        try:
            async with self._turn:
                await self._stream.send_all(encode_link(message))
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            self.up = False

    async def _read(self, stream: trio.abc.Stream, nursery: trio.Nursery) -> None:
        lines = LineReader(MAX_LINK_LINE)
        try:
            while data := await stream.receive_some(65536):
                for line in lines.feed(bytes(data)):
                    await self._take(decode_from_agent(line), nursery)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        finally:
            with trio.CancelScope(shield=True):
                await trio.aclose_forcefully(stream)
        if stream is self._stream:
            self.up = False
        self._notify()

    async def _take(self, message: FromAgent, nursery: trio.Nursery) -> None:
        match message:
            case Ping(number=number):
                await self.send(Pong(number, self._clock_s()))
                return
            case Pong(number=number):
                self._ponged = number
                self._notify()
                return
            case Welcome():
                self.welcome = message
            case Ack(number=acknowledged):
                for number in [n for n in self.waiting if n <= acknowledged]:
                    del self.waiting[number]
            case RoundCommand():
                nursery.start_soon(self.on_round, message)
            case ActCommand():
                nursery.start_soon(self.on_act, message)
        self.received.append(message)
        self._notify()

    def _clock_s(self) -> float | None:
        return None if self.boot_clock is None else self.boot_clock()

    def _notify(self) -> None:
        self._news.set()
        self._news = trio.Event()

    async def until(self, true: Callable[[], bool]) -> None:
        """Waits until this is true, which is asked again after each message and at the end."""
        while not true():
            await self._news.wait()

    # -- what it tells ----------------------------------------------------------------------

    async def send_instance(self, uuid: str = VM, **changes: Any) -> None:
        """An instance is like this from now on."""
        self.instances[uuid] = attrs.evolve(self.instances[uuid], **changes)
        await self.send(self.instances[uuid])

    async def report(self, kind: str, uuid: str = VM, reason: str = "", **members: Any) -> int:
        """Reports, and keeps the report until it is acknowledged; returns its number."""
        number = next(self._numbers)
        self.waiting[number] = LinkReport(number, self.clock, kind, uuid, reason, **members)
        await self.send(self.waiting[number])
        return number

    async def report_heartbeating(self, uuid: str = VM) -> None:
        """The instance begins to heartbeat."""
        await self.send_instance(uuid, heartbeating=True, state="heartbeating")
        await self.report("heartbeating", uuid, "init answered")

    async def report_stopped(self, uuid: str = VM) -> None:
        """The instance says farewell."""
        await self.send_instance(uuid, heartbeating=False, state="waiting")
        await self.report("stopped", uuid, "guest exited: Exiting...")

    async def report_lost(self, uuid: str = VM, action: str = "reboot") -> None:
        """The instance falls silent."""
        await self.send_instance(uuid, heartbeating=False, state="lost")
        await self.report(
            "loss", uuid, "no answer for 3 s", corrective_action=CorrectiveAction(action)
        )

    # -- how it answers ---------------------------------------------------------------------

    async def opens(self, command: RoundCommand) -> None:
        """The round is open; nobody answers."""
        seconds = window_of_instance(self.instances[command.uuid], command)
        await self.send(Reply(command.command_id, True, seconds=seconds))

    async def outcome(self, command: RoundCommand, result: VoteResult, reason: str = "") -> int:
        """The round has ended so."""
        return await self.report(
            "vote" if command.vote else "notice",
            command.uuid,
            reason,
            event=command.event,
            result=result,
            command_id=command.command_id,
        )

    async def agree(self, command: RoundCommand) -> None:
        """The round is opened, and the guest agrees in the same moment."""
        await self.opens(command)
        agreed = VoteResult.ACCEPT if command.vote else VoteResult.COMPLETE
        await self.outcome(command, agreed, "fine")

    def answering(self, result: VoteResult, reason: str = "") -> None:
        """The guest answers every round so from now on."""

        async def on_round(command: RoundCommand) -> None:
            await self.opens(command)
            await self.outcome(command, result, reason)

        self.on_round = on_round

    def refusing(self, reason: str) -> None:
        """No round is opened and no action begun from now on."""

        async def refuse(command: RoundCommand | ActCommand) -> None:
            await self.send(Reply(command.command_id, False, reason))

        self.on_round = self.on_act = refuse

    def silent(self) -> None:
        """Rounds are opened from now on, and no guest answers."""
        self.on_round = self.opens

    async def begins(self, command: ActCommand, *lines: dict[str, Any]) -> None:
        """The action is in progress, and has come so far."""
        await self.send(Reply(command.command_id, True))
        for line in lines:
            await self.send(ActionProgress(command.command_id, json.dumps(line), last=False))

    async def ends(self, command: ActCommand) -> None:
        """There is nothing more to tell of the action."""
        await self.send(ActionProgress(command.command_id, "{}", last=True))

    async def performs(self, command: ActCommand) -> None:
        """The action is done at once; its lines are those of a real one."""
        argv = list(command.command) or ["virsh", command.action]
        await self.begins(
            command,
            {"step": "vote", "event": "stop", "window": "VOTE", "seconds": 9},
            {"step": "vote", "event": "stop", "result": "accept", "reason": "fine"},
            {"step": "command", "argv": argv, "seconds": 60},
            {"step": "command", "result": "done", "reason": "", "output": ""},
            {"step": "end", "outcome": "done", "reason": ""},
        )
        await self.ends(command)

    # -- what it was told -------------------------------------------------------------------

    @property
    def commands(self) -> list[RoundCommand]:
        """The rounds that it was to open."""
        return [one for one in self.received if isinstance(one, RoundCommand)]

    @property
    def acts(self) -> list[ActCommand]:
        """The actions that it was to perform."""
        return [one for one in self.received if isinstance(one, ActCommand)]

    @property
    def reporting(self) -> dict[str, bool]:
        """Whose losses it is to report, as it was told last; "" is the whole host."""
        return {one.uuid: one.enabled for one in self.received if isinstance(one, Reporting)}

    @property
    def goodbyes(self) -> list[str]:
        """Why it was sent away."""
        return [one.reason for one in self.received if isinstance(one, Goodbye)]
