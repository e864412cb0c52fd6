"""Holds one host's session: the instances it reported, and the commands sent to it.

Only a command waits for its host: a host that does not read must delay neither the VIM's requests
nor other hosts. So the newest reporting state of each instance is left with the session, and a task
of the session sends them as fast as the host reads.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator
from typing import Final

import attrs
import trio

from hbtrio.net.link_session import LinkSession, SessionEnded
from hbtrio.nursery.wakeup import WakeUp
from hbtrio.nursery.windows import Window
from hbtrio.policy.time_guard import CALM_S, OnTimeGuard
from hbtrio.wire.link_codec import LinkError
from hbtrio.wire.link_messages import (
    ActCommand,
    ActionProgress,
    FromHost,
    Hello,
    Instance,
    Reply,
    Reporting,
    RoundCommand,
)

_log = logging.getLogger("hbtrio.links")

#: Seconds that a host may take to reply to a command.
REPLY_S: Final = 5.0

#: Progress lines of an action that may wait for their reader.
_PROGRESS: Final = 256

#: Instances that one host may report.
_INSTANCES: Final = 100_000


class HostUnreachable(Exception):
    """The host has no link, or did not answer."""


class NotDone(Exception):
    """The command was not sent, or the host refused it; the text is the reason."""


@attrs.define(eq=False)
class HostSession:
    """One host's session; ``peer`` is its address, for operators."""

    hello: Hello
    link: LinkSession[FromHost]
    scope: trio.CancelScope
    peer: str
    guard: OnTimeGuard
    instances: dict[str, Instance] = attrs.field(factory=dict)
    #: Whether the host has reported all its instances.
    complete: bool = False
    _replies: dict[str, Window[Reply | Exception]] = attrs.field(factory=dict, init=False)
    _progress: dict[str, trio.MemorySendChannel[str]] = attrs.field(factory=dict, init=False)
    _reporting: dict[str, bool] = attrs.field(factory=dict, init=False)
    _to_send: WakeUp = attrs.field(factory=WakeUp, init=False)

    @property
    def hostname(self) -> str:
        """The host's name."""
        return self.hello.hostname

    def take_in(self) -> bool:
        """Returns whether messages of the host, or its snapshot, are still on their way here."""
        return self.link.reading or not self.complete

    def set_reporting(self, uuid: str, *, enabled: bool) -> None:
        """Queues for the host whether to report losses; ``uuid`` "" is the whole host."""
        self._reporting[uuid] = enabled
        self._to_send.set()

    async def send_reporting(self) -> None:
        """Sends the queued reporting states until cancelled or the link ends."""
        while True:
            await self._to_send.wait()
            while self._reporting:
                uuid = next(iter(self._reporting))
                enabled = self._reporting.pop(uuid)
                try:
                    await self.link.send(Reporting(uuid, enabled))
                except SessionEnded:
                    return  # the next session sends all of them

    async def command(self, message: RoundCommand | ActCommand) -> Reply:
        """Sends a command and returns the host's reply.

        Raises:
            HostUnreachable: the link is gone, or there was no reply within ``REPLY_S`` beyond the
                command's own deadline: the command may or may not have been carried out.
            LinkError: the command is too long, and was not sent.
        """
        waiting: Window[Reply | Exception] = Window(
            REPLY_S + message.deadline_s, self.guard, sources=[self.take_in], at_most_s=CALM_S
        )

        async def send() -> None:
            try:
                await self.link.send(message)
            except (SessionEnded, LinkError) as error:
                waiting.close(error)

        self._replies[message.command_id] = waiting
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(send)
                answer = await waiting.wait()
                nursery.cancel_scope.cancel()
        except* trio.TooSlowError:
            answer = HostUnreachable(f"{self.hostname} did not reply")
        finally:
            del self._replies[message.command_id]
        if isinstance(answer, SessionEnded):
            raise HostUnreachable(f"the link to {self.hostname} is gone") from None
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def open_round(self, message: RoundCommand) -> tuple[int, str]:
        """Has the host open a vote or notice.

        Returns:
            The window in seconds and ""; or 0 and the reason. A host that did not reply may have
            opened it all the same.

        Raises:
            LinkError: as for :meth:`command`.
        """
        try:
            reply = await self.command(message)
        except HostUnreachable as error:
            return 0, str(error)
        if reply.ok and reply.seconds:
            return reply.seconds, ""
        return 0, reply.reason or "the host opened none"

    async def act(self, message: ActCommand) -> AsyncGenerator[str]:
        """Sends an action's command and yields its progress lines.

        Raises:
            NotDone: the action was not started.
            HostUnreachable: as for :meth:`command`, and if the link ends during the action.
        """
        send, receive = trio.open_memory_channel[str](_PROGRESS)
        self._progress[message.command_id] = send
        try:
            try:
                reply = await self.command(message)
            except LinkError as fault:
                raise NotDone(str(fault)) from fault
            if not reply.ok:
                raise NotDone(reply.reason)
            async for line in receive:
                yield line
            if message.command_id in self._progress:
                raise HostUnreachable(f"the link to {self.hostname} is gone")
        finally:
            self._progress.pop(message.command_id, None)

    def replied(self, reply: Reply) -> None:
        """Passes a reply to its command; drops it if the command no longer waits."""
        waiting = self._replies.get(reply.command_id)
        if waiting is not None:
            waiting.close(reply)

    def progressed(self, progress: ActionProgress) -> None:
        """Passes a progress line to its action; drops it if the reader is too slow."""
        channel = self._progress.get(progress.command_id)
        if channel is None:
            return
        if progress.last:
            del self._progress[progress.command_id]
            channel.close()
            return
        try:
            channel.send_nowait(progress.line)
        except trio.WouldBlock:
            _log.warning("%s: a progress line was dropped: its reader is too slow", self.hostname)

    def note_instance(self, instance: Instance) -> None:
        """Notes a report about an instance, up to ``_INSTANCES``."""
        if instance.uuid in self.instances or len(self.instances) < _INSTANCES:
            self.instances[instance.uuid] = instance

    def end(self) -> None:
        """Ends all waits for this host."""
        for waiting in self._replies.values():
            waiting.close(SessionEnded("the link is closed"))
        for progress in self._progress.values():
            progress.close()
