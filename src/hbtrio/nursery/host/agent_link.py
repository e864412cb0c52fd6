"""The host's end of the link to its agent: dials, tells what is, reports what happens, obeys.

Reports go through a queue that outlives a session: each is sent until the agent says that it keeps
it, so that a verdict reaches the VIM once whatever happens to the link. An instance's newest state
goes before the reports about it, coalesced, so that the agent never knows less than it was told.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Awaitable, Callable
from contextlib import aclosing, suppress
from typing import Any, Final, TypeVar

import attrs
import trio

import hbtrio
from hbtrio.net.endpoints import Unreachable
from hbtrio.net.link_session import LinkSession, SessionEnded
from hbtrio.nursery.host.channel import Channel
from hbtrio.nursery.host.daemon import ActionRefused, Host, UnknownInstance
from hbtrio.nursery.host.reports import Report
from hbtrio.nursery.host.round import NotHeartbeating, RoundOpen
from hbtrio.policy.backoff import Backoff
from hbtrio.policy.report_queue import ReportQueue
from hbtrio.wire.link_codec import LinkError, decode_from_agent
from hbtrio.wire.link_messages import (
    MAX_TEXT,
    MAX_WHY,
    PROTOCOL,
    STOPPING,
    Ack,
    ActCommand,
    ActionProgress,
    FromAgent,
    Gone,
    Hello,
    Instance,
    LinkReport,
    Reply,
    Reporting,
    RoundCommand,
    SnapshotEnd,
    Welcome,
)
from hbtrio.wire.vocabulary import ActionName, NotificationType

_log = logging.getLogger("hbtrio.link")

_M = TypeVar("_M")

#: Commands of the agent under way at once.
_COMMANDS: Final = 512

#: Reports taken from the queue at a time.
_BATCH: Final = 64

#: The first and the longest wait between two attempts to connect. An agent that is back has to hear
#: of its hosts soon: a VIM that asks it meanwhile goes on without the guest's vote.
_RETRY_S: Final = 0.2
_RETRY_LIMIT_S: Final = 2.0

#: A link that ends sooner was none: an agent that can't keep what it is told, as its disk is full,
#: ends each one at once, and would be dialled, and would log it, many times a second.
_STEADY_S: Final = 1.0

#: A line of an action's progress, as ASCII: it has to fit into one message with all its quotes and
#: backslashes escaped once more.
_PROGRESS_BYTES: Final = 8000


@attrs.frozen
class Identity:
    """Who this host is: its name and uuid in the cloud, and an id for this process."""

    hostname: str
    host_uuid: str
    boot_id: str


class HostLink:
    """Keeps the link up.

    Args:
        host: whose reports are sent and who obeys.
        identity: who it is.
        connect: opens a connection to the agent, or raises ``Unreachable``.
    """

    def __init__(
        self, host: Host, identity: Identity, connect: Callable[[], Awaitable[trio.abc.Stream]]
    ) -> None:
        self.connected = False
        self.queue = ReportQueue()
        self._host = host
        self._identity = identity
        self._connect = connect
        self._changed: dict[str, None] = {}
        self._news = trio.Event()
        self._sent = 0
        self._commands = 0
        host.reports.listen(self._reported)
        host.on_change(self._instance_changed)

    async def run(self) -> None:
        """Dials and serves sessions until cancelled."""
        backoff = Backoff(_RETRY_S, _RETRY_LIMIT_S)
        said = ""
        while True:
            try:
                stream = await self._connect()
            except Unreachable as fault:
                why = str(fault)
            else:
                since = trio.current_time()
                try:
                    why = f"the link ended: {await self._serve(stream)}"
                finally:
                    was_up, self.connected = self.connected, False
                if was_up:
                    said = ""
                    if trio.current_time() - since >= _STEADY_S:
                        backoff.reset()
            if why != said:  # one line for each fault, however often it is met
                said = why
                _log.warning("agent: %s; retrying", why)
            await trio.sleep(backoff.next_delay_s())

    # -- what is told -----------------------------------------------------------------------

    def _reported(self, report: Report) -> None:
        self._instance_changed(report.uuid)
        self.queue.add(
            LinkReport(
                number=0,
                time=report.time.isoformat(),
                kind=report.kind,
                uuid=report.uuid,
                reason=report.reason[:MAX_TEXT],
                event=report.event,
                result=report.result,
                corrective_action=report.corrective_action,
                command_id=report.command_id,
            )
        )
        self._news.set()

    def _instance_changed(self, uuid: str) -> None:
        if self.connected:  # else the next session begins with all there are
            self._changed[uuid] = None
            self._news.set()

    async def _serve(self, stream: trio.abc.Stream) -> str:
        session = LinkSession(stream, decode_from_agent, farewell=STOPPING)
        async with trio.open_nursery() as nursery:
            welcome = trio.Event()

            async def handle(message: FromAgent) -> None:
                await self._obey(message, session, welcome, nursery)

            async def tell() -> None:
                with suppress(SessionEnded):  # run() says why
                    await self._tell(session, welcome)

            nursery.start_soon(tell)
            why = await session.run(handle)
            nursery.cancel_scope.cancel()
        return why

    async def _tell(self, session: LinkSession[FromAgent], welcome: trio.Event) -> None:
        who = self._identity
        await session.send(
            Hello(
                protocol=PROTOCOL,
                hostname=who.hostname,
                host_uuid=who.host_uuid,
                boot_id=who.boot_id,
                version=hbtrio.__version__,
                dropped=self.queue.dropped,
            )
        )
        await welcome.wait()
        self.connected = True
        self._changed.clear()
        channels = list(self._host.channels.values())
        for channel in channels:
            await session.send(instance_of(channel))
        await session.send(SnapshotEnd(len(channels)))
        while True:
            self._news = trio.Event()
            while self._changed:
                await self._tell_instance(session, next(iter(self._changed)))
            for report in self.queue.after(self._sent, _BATCH):
                # An instance before the reports about it, also where both came while others were
                # being sent: what the agent tells the VIM of a report is what the instance is like.
                if report.uuid in self._changed:
                    await self._tell_instance(session, report.uuid)
                await session.send(report)
                self._sent = report.number
            if not self.queue.after(self._sent, 1) and not self._changed:
                await self._news.wait()

    async def _tell_instance(self, session: LinkSession[FromAgent], uuid: str) -> None:
        del self._changed[uuid]
        known = self._host.channels.get(uuid)
        await session.send(
            Gone(uuid, "its channel was removed") if known is None else instance_of(known)
        )

    # -- what is obeyed ---------------------------------------------------------------------

    async def _obey(
        self,
        message: FromAgent,
        session: LinkSession[FromAgent],
        welcome: trio.Event,
        nursery: trio.Nursery,
    ) -> None:
        match message:
            case Welcome(protocol=protocol, agent=agent, acknowledged=acknowledged):
                if protocol != PROTOCOL:
                    raise LinkError(f"protocol {protocol}, this host speaks {PROTOCOL}")
                self.queue.acknowledge(acknowledged)
                self._sent = acknowledged
                _log.info("agent: the link to %s is up", agent)
                welcome.set()
            case Ack(number=number):
                self.queue.acknowledge(number)
            case Reporting(uuid=uuid, enabled=enabled):
                self._host.set_reporting(uuid, enabled)
            case RoundCommand():
                self._begin(nursery, session, message.command_id, self._round, message)
            case ActCommand():
                self._begin(nursery, session, message.command_id, self._act, message)

    def _begin(
        self,
        nursery: trio.Nursery,
        session: LinkSession[FromAgent],
        command_id: str,
        task: Callable[[LinkSession[FromAgent], _M], Awaitable[None]],
        message: _M,
    ) -> None:
        async def command() -> None:
            self._commands += 1
            try:
                if self._commands > _COMMANDS:
                    await session.send(Reply(command_id, False, "too many commands at once"))
                else:
                    await task(session, message)
            except SessionEnded:
                pass  # a round that was opened goes on; its report is in the queue
            finally:
                self._commands -= 1

        nursery.start_soon(command)

    async def _round(self, session: LinkSession[FromAgent], command: RoundCommand) -> None:
        kind = NotificationType.REVOCABLE if command.vote else NotificationType.IRREVOCABLE
        try:
            opened = await self._host.open_round_soon(
                command.uuid,
                command.event,
                kind,
                command_id=command.command_id,
                patience_s=command.deadline_s,
            )
        except (UnknownInstance, NotHeartbeating, RoundOpen) as error:
            if command.uuid in self._changed:
                # Before the change that it comes from it would read as a fault of ours.
                await self._tell_instance(session, command.uuid)
            await session.send(Reply(command.command_id, False, str(error)[:MAX_TEXT]))
        else:
            seconds = round(opened.window.seconds)
            await session.send(Reply(command.command_id, True, seconds=seconds))

    async def _act(self, session: LinkSession[FromAgent], command: ActCommand) -> None:
        try:
            action = self._host.begin_action(
                command.uuid, ActionName(command.action), command.command, force=command.force
            )
        except (UnknownInstance, ActionRefused, ValueError) as error:
            await session.send(Reply(command.command_id, False, str(error)[:MAX_TEXT]))
            return
        await session.send(Reply(command.command_id, True))
        async with aclosing(action.progress()) as lines:
            async for line in lines:
                if line is not None:
                    await session.send(
                        ActionProgress(command.command_id, _fitting(line), last=False)
                    )
        await session.send(ActionProgress(command.command_id, "{}", last=True))


def _fitting(line: dict[str, Any]) -> str:
    """A line of progress as JSON, its texts cut as far as it takes."""
    text = json.dumps(line)
    for chars in (1000, 100, 10, 1):
        if len(text) <= _PROGRESS_BYTES:
            break
        text = json.dumps({name: _cut(value, chars) for name, value in line.items()})
    return text


def _cut(value: Any, chars: int) -> Any:
    match value:
        case str():
            return value if len(value) <= chars else value[:chars] + "..."
        case list():  # a command's arguments, 64 at most
            return [_cut(item, chars) for item in value]
    return value


def instance_of(channel: Channel) -> Instance:
    """An instance as its agent is told of it."""
    beat, profile = channel.heartbeat, channel.heartbeat.profile
    return Instance(
        uuid=channel.uuid,
        name=profile.name,
        state=beat.state.shown,
        heartbeating=channel.beating,
        health=beat.health,
        corrective_action=profile.corrective_action,
        interval_ms=round(profile.interval_s * 1000),
        vote_s=profile.vote_s,
        shutdown_notice_s=profile.shutdown_notice_s,
        suspend_notice_s=profile.suspend_notice_s,
        resume_notice_s=profile.resume_notice_s,
        restart_s=profile.restart_s,
        why=_why(channel)[:MAX_WHY],
    )


def _why(channel: Channel) -> str:
    if channel.beating:
        return channel.heartbeat.health_reason
    return channel.why
