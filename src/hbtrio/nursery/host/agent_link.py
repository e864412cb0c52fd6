"""Keeps the host's link to its agent up: dials, sends hello and serves the session.

:class:`~hbtrio.nursery.host.agent_feed.AgentFeed` sends states and reports,
:class:`~hbtrio.nursery.host.agent_commands.AgentCommands` carries out the agent's commands, and
:class:`~hbtrio.nursery.host.agent_looks.AgentLooks` answers its looks at an instance.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final

import attrs
import trio

import hbtrio
from hbtrio.log import LogOnce
from hbtrio.net.endpoints import Unreachable
from hbtrio.net.link_session import LinkSession, SessionEnded
from hbtrio.nursery.host.agent_commands import AgentCommands
from hbtrio.nursery.host.agent_feed import AgentFeed
from hbtrio.nursery.host.agent_looks import AgentLooks
from hbtrio.nursery.host.daemon import Host
from hbtrio.nursery.time_guard import sleep_on_time
from hbtrio.policy.backoff import Backoff
from hbtrio.policy.begin_by import ProcessClock
from hbtrio.policy.hold_messages import word_of
from hbtrio.wire.link_call_off import CallOff
from hbtrio.wire.link_codec import LinkError, decode_from_agent
from hbtrio.wire.link_follow import Follow
from hbtrio.wire.link_holds import HoldWord
from hbtrio.wire.link_looks import Look
from hbtrio.wire.link_messages import (
    PROTOCOL,
    STOPPING,
    Ack,
    ActCommand,
    FromAgent,
    Hello,
    Reporting,
    RoundCommand,
    Welcome,
)
from hbtrio.wire.link_places import PlaceAnswer

_log = logging.getLogger("hbtrio.link")

#: The first and the longest wait between two attempts to connect, in seconds. A restarted agent
#: needs its hosts soon: until then a VIM that asks for a vote goes on without the guest's answer.
_RETRY_S: Final = 0.2
_RETRY_LIMIT_S: Final = 2.0

#: A link that ends sooner, in seconds, does not reset the backoff: an agent with a full disk ends
#: each link at once, and would be dialled, and would log it, many times a second.
_STEADY_S: Final = 1.0


@attrs.frozen
class Identity:
    """Identifies this host: its name and uuid in the cloud, and an id for this process."""

    hostname: str
    host_uuid: str
    boot_id: str


class HostLink:
    """Keeps the link to the agent up.

    Args:
        host: its reports are sent, and it carries out the commands.
        identity: identifies the host to the agent.
        connect: opens a connection to the agent, or raises ``Unreachable``.
    """

    def __init__(
        self, host: Host, identity: Identity, connect: Callable[[], Awaitable[trio.abc.Stream]]
    ) -> None:
        self.feed = AgentFeed(host)
        self._host = host
        self._identity = identity
        self._connect = connect
        self._clock = ProcessClock(host.clock.now, identity.boot_id)
        self._commands = AgentCommands(host, self.feed, self._clock)
        self._looks = AgentLooks(host)

    @property
    def connected(self) -> bool:
        """Whether the agent has accepted this host."""
        return self.feed.connected

    async def run(self) -> None:
        """Dials and serves sessions until cancelled."""
        backoff = Backoff(_RETRY_S, _RETRY_LIMIT_S)
        fault_log = LogOnce()
        while True:
            try:
                stream = await self._connect()
            except Unreachable as fault:
                reason = str(fault)
            else:
                since = trio.current_time()
                try:
                    reason = f"the link ended: {await self._serve(stream)}"
                finally:
                    was_up = self.feed.disconnected()
                if was_up:
                    fault_log.clear()
                    if trio.current_time() - since >= _STEADY_S:
                        backoff.reset()
            self._host.link.down(reason)
            if fault_log.is_new(reason):
                _log.warning("agent: %s; retrying", reason)
            await trio.sleep(backoff.next_delay_s())

    async def _serve(self, stream: trio.abc.Stream) -> str:
        session = LinkSession(
            stream,
            decode_from_agent,
            sleep=sleep_on_time(self._host.guard),
            farewell=STOPPING,
            clock=self._clock.now,
        )
        async with trio.open_nursery() as nursery:
            welcome = trio.Event()

            async def handle(message: FromAgent) -> None:
                await self._handle(message, session, welcome, nursery)

            nursery.start_soon(self._send, session, welcome)
            host = self._host
            with host.owners.reading(lambda: session.reading), host.groups.of_agent.session():
                reason = await session.run(handle)
            nursery.cancel_scope.cancel()
        return reason

    async def _send(self, session: LinkSession[FromAgent], welcome: trio.Event) -> None:
        identity = self._identity
        hello = Hello(
            protocol=PROTOCOL,
            hostname=identity.hostname,
            host_uuid=identity.host_uuid,
            boot_id=identity.boot_id,
            version=hbtrio.__version__,
            dropped=self.feed.queue.dropped,
            commands=self._host.config.agent.commands,
            clock_s=self._clock.now(),
            looks=True,
            holds=True,
            call_offs=True,
            follows=True,
        )
        with suppress(SessionEnded):  # run() logs the reason
            await session.send(hello)
            await welcome.wait()
            await self.feed.run(session)

    async def _handle(
        self,
        message: FromAgent,
        session: LinkSession[FromAgent],
        welcome: trio.Event,
        nursery: trio.Nursery,
    ) -> None:
        match message:
            case Welcome(protocol=protocol, agent=agent):
                if protocol != PROTOCOL:
                    raise LinkError(f"protocol {protocol}, this host speaks {PROTOCOL}")
                self.feed.resume_after(
                    message.acknowledged, overloads=message.overloads, holds=message.holds
                )
                if message.places:
                    self._host.groups.of_agent.linked(session, self._host.guard)
                self._host.link.up(agent)
                _log.info("agent: the link to %s is up", agent)
                welcome.set()
            case HoldWord():
                self._host.holds.take(word_of(message, trio.current_time()))
            case Ack(number=number):
                self.feed.queue.acknowledge(number)
            case Reporting(uuid=uuid, enabled=enabled):
                self._host.set_reporting(uuid, enabled=enabled)
            case RoundCommand() | ActCommand() | Follow():
                nursery.start_soon(self._commands.carry_out, session, message)
            case PlaceAnswer():
                self._host.groups.of_agent.answered(message)
            case CallOff():
                self._commands.call_off(message)
            case Look():
                nursery.start_soon(self._looks.answer, session, message)
