"""Holds one host's session: the instances it reported, and the commands sent to it.

Only a command waits for its host: a host that does not read must delay neither the VIM's requests
nor other hosts. So the newest reporting state of each instance is left with the session, and a task
of the session sends them as fast as the host reads.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import Final

import attrs
import trio

from hbtrio.net.link_session import LinkSession, SessionEnded
from hbtrio.nursery.agent.looks import Looks
from hbtrio.nursery.agent.opening_reply import OpeningReply
from hbtrio.nursery.agent.reporting_states import ReportingStates
from hbtrio.nursery.wakeup import WakeUp
from hbtrio.nursery.windows import Window
from hbtrio.policy.begin_by import BEGIN_S, REPLY_S, BeginBy, Expired
from hbtrio.policy.time_guard import CALM_S, OnTimeGuard
from hbtrio.wire.link_call_off import CallOff
from hbtrio.wire.link_codec import LinkError
from hbtrio.wire.link_follow import Follow
from hbtrio.wire.link_holds import HoldWord
from hbtrio.wire.link_messages import (
    ActCommand,
    ActionProgress,
    FromHost,
    Hello,
    Instance,
    OverloadReport,
    Reply,
    RoundCommand,
)

_log = logging.getLogger("hbtrio.links")

#: Progress lines of an action that may wait for their reader.
_PROGRESS: Final = 256

#: Instances that one host may report.
_INSTANCES: Final = 100_000


class HostUnreachable(Exception):
    """The host has no link, or did not answer."""


class NotDone(Exception):
    """The command was not sent, or the host refused it; the text is the reason."""


class Unbegun(NotDone):
    """The host knows that the action which it was asked about was never begun."""


@attrs.define(eq=False)
class HostSession:
    """One host's session; ``peer`` is its address, for operators."""

    hello: Hello
    link: LinkSession[FromHost]
    scope: trio.CancelScope
    peer: str
    guard: OnTimeGuard
    instances: dict[str, Instance] = attrs.field(factory=dict)
    #: Why the host has no channel of instances that it had, or does not watch.
    _gone: dict[str, str] = attrs.field(factory=dict, init=False)
    #: Whether the host has reported all its instances.
    complete: bool = False
    _has_ended: bool = attrs.field(default=False, init=False)
    _replies: dict[str, Window[Reply | Exception]] = attrs.field(factory=dict, init=False)
    #: By the command: the action's instance, and who follows it.
    _progress: dict[str, tuple[str, trio.MemorySendChannel[str]]] = attrs.field(
        factory=dict, init=False
    )
    _reporting: ReportingStates = attrs.field(factory=ReportingStates, init=False)
    #: Words about holds that the host does not know, by uuid; the numbers of those it knows.
    _holds: dict[str, HoldWord] = attrs.field(factory=dict, init=False)
    _known_holds: dict[str, int] = attrs.field(factory=dict, init=False)
    #: Actions that are to end before their commands, by those commands.
    _call_offs: dict[str, CallOff] = attrs.field(factory=dict, init=False)
    _to_send: WakeUp = attrs.field(factory=WakeUp, init=False)
    #: Looks of operators at its instances.
    looks: Looks = attrs.field(init=False)
    #: What the host has said of its overload; None: it is on time, or too old to say.
    overload: OverloadReport | None = attrs.field(default=None, init=False)

    def __attrs_post_init__(self) -> None:
        if self.hello.clock_s is not None:
            self.link.peer_clock.read(self.hello.clock_s, self.link.clock())
        self.looks = Looks(self.hostname, self.link.send, supported=self.hello.looks)

    @property
    def hostname(self) -> str:
        """The host's name."""
        return self.hello.hostname

    def take_in(self) -> bool:
        """Returns whether messages of the host, or its snapshot, are still on their way here."""
        return self.link.reading or not self.complete

    def set_reporting(self, uuid: str, *, enabled: bool) -> None:
        """Queues for the host whether to report losses; ``uuid`` "" is the whole host."""
        self._reporting.put(uuid, enabled=enabled)
        self._to_send.set()

    def send_hold(self, word: HoldWord) -> None:
        """Queues a word about an instance, unless the host knows it, or is too old to take it."""
        if self.hello.holds and self._known_holds.get(word.uuid) != word.number:
            self._known_holds[word.uuid] = word.number
            self._holds[word.uuid] = word
            self._to_send.set()

    def knows_hold(self, word: HoldWord) -> None:
        """Notes that the host has said a word about an instance itself."""
        self._known_holds[word.uuid] = word.number

    def call_off(self, command_id: str, reason: str) -> None:
        """Queues that an action is to end before its command; a host that is too old goes on."""
        if (following := self._progress.get(command_id)) is None:
            return
        uuid, _ = following
        if not self.hello.call_offs:
            text = "%s: %s is too old to call its action off: it goes on"
            _log.warning(text, uuid, self.hostname)
        else:
            self._call_offs[command_id] = CallOff(command_id, reason)
            self._to_send.set()

    async def send_reporting(self) -> None:
        """Sends the queued words and reporting states until cancelled or the link ends."""
        # Whoever follows an action learns that the session has ended, and the next one begins with
        # all words and states.
        with suppress(SessionEnded):
            while True:
                await self._to_send.wait()
                while self._call_offs:
                    await self.link.send(self._call_offs.pop(next(iter(self._call_offs))))
                while self._holds:
                    await self.link.send(self._holds.pop(next(iter(self._holds))))
                while states := self._reporting.take():
                    await self.link.send(*states)

    def begin_by(self, deadline_s: float) -> BeginBy:
        """Returns until when a command may begin that was requested now, by the agent's clock."""
        clock = self.link.clock
        return BeginBy(clock, clock() + BEGIN_S + deadline_s)

    async def command(self, message: RoundCommand | ActCommand, begin_by: BeginBy) -> Reply:
        """Sends a command and returns the host's reply.

        Args:
            message: the command, without its moment.
            begin_by: until when it may begin; the host receives that by its own clock.

        Raises:
            NotDone: it may not begin any more; it was not sent.
            HostUnreachable: the link is gone, or there was no reply within ``REPLY_S`` beyond the
                command's own deadline: the command has begun, or never will.
            LinkError: the command is too long, and was not sent.
        """
        try:
            begin_by.check()
        except Expired as error:
            raise NotDone(str(error)) from error
        clock = self.link.peer_clock
        if clock.is_known:
            moment = clock.at(begin_by.until_s, self.link.clock())
            message = attrs.evolve(message, begin_by_s=moment, boot_id=self.hello.boot_id)
        return await self._exchange(message)

    async def _exchange(self, message: RoundCommand | ActCommand | Follow) -> Reply:
        waiting: Window[Reply | Exception] = Window(
            REPLY_S + message.deadline_s, self.guard, sources=[self.take_in], at_most_s=CALM_S
        )

        async def send() -> None:
            try:
                await self.link.send(message)
            except (SessionEnded, LinkError) as error:
                waiting.close(error)

        self._replies[message.command_id] = waiting
        answer: Reply | Exception
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(send)
                try:
                    answer = await waiting.wait()
                except trio.TooSlowError:
                    # From here on a reply is too late, see later_truths.py.
                    del self._replies[message.command_id]
                    self._progress.pop(message.command_id, None)
                    answer = HostUnreachable(f"{self.hostname} did not reply")
                nursery.cancel_scope.cancel()
        finally:
            self._replies.pop(message.command_id, None)
        if isinstance(answer, SessionEnded):
            raise HostUnreachable(f"the link to {self.hostname} is gone") from None
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def open_round(self, message: RoundCommand, begin_by: BeginBy) -> OpeningReply:
        """Has the host open a vote or notice.

        Raises:
            LinkError: as for :meth:`command`.
        """
        try:
            reply = await self.command(message, begin_by)
        except NotDone as error:
            return OpeningReply(fault=str(error))
        except HostUnreachable as error:
            fault = f"the outcome is unknown: {error}"
            return OpeningReply(fault=fault, is_unknown=True)
        if reply.ok and reply.seconds:
            return OpeningReply(reply.seconds)
        return OpeningReply(fault=reply.reason or "the host opened none", is_owned=reply.owned)

    def is_acting_on(self, uuid: str) -> bool:
        """Returns whether an operator's action on an instance is followed over this link."""
        return any(about == uuid for about, _ in self._progress.values())

    def act(self, message: ActCommand, begin_by: BeginBy) -> AsyncGenerator[str]:
        """Sends an action's command and yields its progress lines.

        Raises:
            NotDone: the action was not started.
            HostUnreachable: as for :meth:`command`, and if the link ends during the action.
        """
        return self._lines(message, partial(self.command, message, begin_by))

    def follow(self, message: Follow) -> AsyncGenerator[str]:
        """Asks what became of an action, and yields its progress lines to its end.

        Only for a host whose hello has ``follows``.

        Raises:
            Unbegun: it was never begun.
            NotDone: the host does not know.
            HostUnreachable: as for :meth:`command`, and if the link ends during the action.
        """
        return self._lines(message, partial(self._exchange, message))

    async def _lines(
        self, message: ActCommand | Follow, ask: Callable[[], Awaitable[Reply]]
    ) -> AsyncGenerator[str]:
        send, receive = trio.open_memory_channel[str](_PROGRESS)
        self._progress[message.command_id] = message.uuid, send
        try:
            try:
                reply = await ask()
            except LinkError as fault:
                raise NotDone(str(fault)) from fault
            if not reply.ok:
                raise (Unbegun if reply.unbegun else NotDone)(reply.reason)
            async for line in receive:
                yield line
            if message.command_id in self._progress:
                raise HostUnreachable(f"the link to {self.hostname} is gone")
        finally:
            self._progress.pop(message.command_id, None)

    def replied(self, reply: Reply) -> bool:
        """Passes a reply to its command; returns False if the command no longer waits."""
        waiting = None if self._has_ended else self._replies.get(reply.command_id)
        if waiting is not None:
            waiting.close(reply)
        return waiting is not None

    def progressed(self, progress: ActionProgress) -> bool:
        """Passes a progress line to its action; returns False if nobody follows the action.

        A line is dropped if its reader is too slow.
        """
        following = None if self._has_ended else self._progress.get(progress.command_id)
        if following is None:
            return False
        uuid, channel = following
        if progress.last:
            del self._progress[progress.command_id]
            channel.close()
            return True
        try:
            channel.send_nowait(progress.line)
        except trio.WouldBlock:
            _log.warning("%s: a progress line was dropped: its reader is too slow", uuid)
        return True

    def note_overload(self, report: OverloadReport) -> None:
        """Notes and logs that the host is overloaded, has raised its alarm, or is on time again."""
        self.overload = report if report.since else None
        if not report.since:
            _log.info("%s: the host is on time again", self.hostname)
        elif report.alarm:
            _log.error("%s: ALARM: the host is overloaded: losses come late", self.hostname)
        else:
            _log.warning("%s: the host is overloaded: only heartbeats are served", self.hostname)

    def note_instance(self, instance: Instance) -> None:
        """Notes a report about an instance, up to ``_INSTANCES``."""
        self._gone.pop(instance.uuid, None)
        if instance.uuid in self.instances or len(self.instances) < _INSTANCES:
            self.instances[instance.uuid] = instance

    def note_gone(self, uuid: str, reason: str) -> None:
        """Notes that the host has no channel of an instance, and why, up to ``_INSTANCES``."""
        self.instances.pop(uuid, None)
        if uuid in self._gone or len(self._gone) < _INSTANCES:
            self._gone[uuid] = reason

    def why_gone(self, uuid: str) -> str:
        """Returns why the host does not report an instance; "" if it never said anything of it."""
        return self._gone.get(uuid, "")

    def end(self) -> None:
        """Ends all waits for this host; what is still read of its link finds nobody."""
        self._has_ended = True
        for waiting in self._replies.values():
            waiting.close(SessionEnded("the link is closed"))
        for _, progress in self._progress.values():
            progress.close()
        self.looks.end()
