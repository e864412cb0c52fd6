"""One host's session as the agent uses it: what the host reported, and what it is sent.

Nothing waits for a host but a command to it: one that does not read must hold up neither the VIM's
requests nor other hosts. So reporting states are left with the session, the newest of each
instance, and a task of the session sends them as fast as the host reads.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator
from contextlib import suppress
from typing import Final

import attrs
import trio

from hbtrio.net.link_session import LinkSession, SessionEnded
from hbtrio.nursery.wakeup import WakeUp
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

#: How long a host may take to say how it took a command, in seconds.
REPLY_S: Final = 5.0

#: Lines of an action's progress that may wait for their reader.
_PROGRESS: Final = 256

#: Instances that one host may tell of.
_INSTANCES: Final = 100_000


class HostUnreachable(Exception):
    """The host has no link, or did not answer."""


class NotDone(Exception):
    """A host was not sent a command, or does not carry it out; the text is the reason."""


@attrs.define(eq=False)
class HostSession:
    """One host's session, as the agent sees it; ``peer`` is where it comes from, for people."""

    hello: Hello
    link: LinkSession[FromHost]
    scope: trio.CancelScope
    peer: str
    instances: dict[str, Instance] = attrs.field(factory=dict)
    _replies: dict[str, trio.MemorySendChannel[Reply]] = attrs.field(factory=dict, init=False)
    _progress: dict[str, trio.MemorySendChannel[str]] = attrs.field(factory=dict, init=False)
    _reporting: dict[str, bool] = attrs.field(factory=dict, init=False)
    _to_send: WakeUp = attrs.field(factory=WakeUp, init=False)

    @property
    def hostname(self) -> str:
        """The host's name."""
        return self.hello.hostname

    def take_in(self) -> bool:
        """Whether something that the host has sent is still being taken in, for a window."""
        return self.link.reading

    def set_reporting(self, uuid: str, *, enabled: bool) -> None:
        """Leaves word for the host whether losses are to be reported; "" is the whole host."""
        self._reporting[uuid] = enabled
        self._to_send.set()

    async def send_reporting(self) -> None:
        """Passes on what was left, until cancelled or the link ends."""
        while True:
            await self._to_send.wait()
            while self._reporting:
                uuid = next(iter(self._reporting))
                enabled = self._reporting.pop(uuid)
                try:
                    await self.link.send(Reporting(uuid, enabled))
                except SessionEnded:
                    return  # the next session is sent all of it

    async def command(self, message: RoundCommand | ActCommand) -> Reply:
        """Sends a command and returns how the host took it.

        Raises:
            HostUnreachable: the link is gone, or there was no reply within ``REPLY_S`` beyond the
                command's own deadline: it may or may not have been carried out.
            LinkError: it is too long; it was not sent.
        """
        send, receive = trio.open_memory_channel[Reply](1)
        self._replies[message.command_id] = send
        try:
            with trio.fail_after(REPLY_S + message.deadline_s):
                await self.link.send(message)
                return await receive.receive()
        except (SessionEnded, trio.EndOfChannel):
            raise HostUnreachable(f"the link to {self.hostname} is gone") from None
        except trio.TooSlowError:
            raise HostUnreachable(f"{self.hostname} did not reply") from None
        finally:
            del self._replies[message.command_id]

    async def open_round(self, message: RoundCommand) -> tuple[int, str]:
        """Has the host open a vote or notice.

        Returns:
            its window in seconds and ""; or 0 and why there is none. If the host did not reply, it
            may have opened it all the same.

        Raises:
            LinkError: as for :meth:`command`.
        """
        try:
            reply = await self.command(message)
        except HostUnreachable as error:
            return 0, str(error)
        if reply.ok and reply.seconds:
            return reply.seconds, ""
        return 0, reply.reason or "its host has opened none"

    async def act(self, message: ActCommand) -> AsyncGenerator[str]:
        """Sends an action's command and yields its lines of progress.

        Raises:
            NotDone: it was not begun.
            HostUnreachable: as for :meth:`command`, and when the link goes in the middle.
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
        """A reply came; one that nobody waits for any more is dropped."""
        waiting = self._replies.get(reply.command_id)
        if waiting is not None:
            with suppress(trio.WouldBlock):  # a second reply to one command counts for nothing
                waiting.send_nowait(reply)

    def progressed(self, progress: ActionProgress) -> None:
        """A line of progress came."""
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
            _log.warning("%s: a reader of progress is too slow", self.hostname)

    def told(self, instance: Instance) -> None:
        """The host told of an instance."""
        if instance.uuid in self.instances or len(self.instances) < _INSTANCES:
            self.instances[instance.uuid] = instance

    def end(self) -> None:
        """Lets everybody go who waits for this host."""
        for reply in self._replies.values():
            reply.close()
        for progress in self._progress.values():
            progress.close()
