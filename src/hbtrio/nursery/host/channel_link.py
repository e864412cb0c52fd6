"""Keeps one instance's channel connected: dials, carries one connection at a time, redials."""

from __future__ import annotations

import logging
from typing import Protocol

import trio

from hbtrio.nursery.host.channel_setup import ChannelSetup
from hbtrio.nursery.host.connection import BadMessages, ChannelConnection
from hbtrio.nursery.host.dialling import Dialling
from hbtrio.nursery.port import ChannelFault, ChannelPort
from hbtrio.wire.channel_messages import Message

_log = logging.getLogger("hbtrio.channel")


class LinkUser(Protocol):
    """Whose link it is: the channel."""

    @property
    def gone(self) -> bool:
        """Whether the channel has ended for good."""

    @property
    def why(self) -> str:
        """Why the instance is in its state."""

    @property
    def beats(self) -> int:
        """How many challenges were answered so far."""

    def changed(self) -> None:
        """Handles a change of :attr:`why`."""

    def connected(self) -> None:
        """Handles a new connection, on which messages can be sent."""

    def received(self, message: Message, now: float) -> None:
        """Handles a message that was read at ``now``."""

    def disconnected(self, reason: str) -> None:
        """Handles the end of the connection."""


class ChannelLink:
    """The connections of one channel.

    It does not keep its user, so that the two are no reference cycle.

    Args:
        uuid: the instance, for the log.
        path: the path of its socket.
        setup: what the host shares with all channels.
    """

    __slots__ = ("_bad_messages", "_connection", "_crash", "_hub", "_limits", "_uuid", "dialling")

    def __init__(self, uuid: str, path: str, setup: ChannelSetup) -> None:
        self.dialling = Dialling(uuid, path, setup.dialer)
        self._uuid = uuid
        self._limits = setup.limits
        self._hub = setup.hub
        self._bad_messages = BadMessages()
        self._connection: ChannelConnection | None = None
        self._crash: Exception | None = None

    def is_held_back(self, now: float) -> bool:
        """Whether the instance has sent too much within the last minute."""
        return self._bad_messages.flood.is_held_back(now)

    @property
    def faulty(self) -> int:
        """How many messages were unusable or dropped in a flood."""
        return self._bad_messages.count

    @property
    def held_bytes(self) -> int:
        """Buffered bytes of an incomplete message."""
        return 0 if self._connection is None else self._connection.held_bytes

    @property
    def is_ending(self) -> bool:
        """Whether the connection was ended, and :meth:`run` has not handled that yet."""
        return self._connection is not None and self._connection.ended

    async def run(self, user: LinkUser) -> None:
        """Stays connected until the user has ended for good."""
        shown = ""
        while not user.gone:
            port = self.dialling.dial()
            redial_now = port is not None and await self._converse(port, user)
            if user.why != shown:  # the reason can change without the state
                shown = user.why
                user.changed()
            if not redial_now:
                await self.dialling.wait()

    async def _converse(self, port: ChannelPort, user: LinkUser) -> bool:
        """Serves one connection to its end; returns whether to dial again at once."""
        beats = user.beats
        connection = ChannelConnection(
            self._uuid,
            port,
            self._limits,
            self._bad_messages,
            self._hub,
            user.received,
            self.fail,
        )
        self._connection = connection
        try:
            await connection.carry(user.connected)
        finally:
            reconnects, crash, self._crash = connection.reconnect, self._crash, None
            connection.close(last_words=not (reconnects or crash is not None or user.gone))
            self._connection = None
            reason = connection.end_reason or "the host closed it"
            user.disconnected(reason)
        if crash is not None:
            raise crash
        if connection.has_received:
            self.dialling.received_data()
        if user.beats > beats:
            self.dialling.succeeded()
        elif not (reconnects or user.gone or self.dialling.absent):
            self.dialling.log_useless(reason)
        return reconnects

    def send(self, message: Message) -> None:
        """Sends a message; without a connection it is dropped."""
        connection = self._connection
        if connection is not None:
            connection.send(message)

    def read_now(self, now: float, reads: int = 1) -> None:
        """Handles what has arrived, ahead of the hub.

        Args:
            now: the time.
            reads: how many times to read at most.

        Raises:
            ChannelFault: the connection is broken.
        """
        if self._connection is not None:
            self._connection.read_now(now, reads)

    def take_in(self) -> bool:
        """Reads what has arrived, as a :data:`Source` of windows; never has more to come.

        Also what others have sent: whether they have failed, too, can matter to the decision.
        """
        self._hub.read_ready()
        try:
            self.read_now(trio.current_time())
        except ChannelFault as fault:
            self.end(str(fault))
        return False

    def end(self, reason: str) -> None:
        """Ends the connection, if there is one; :meth:`run` decides what follows."""
        if self._connection is not None:
            self._connection.end(reason)

    def fail(self, crash: Exception) -> None:
        """Ends the connection by an error, which :meth:`run` raises in the channel's own task."""
        self._crash = crash
        self.end("")

    def redial(self, reason: str) -> None:
        """Ends the connection and opens a new one at once.

        Args:
            reason: why, for the log.
        """
        _log.info("%s: reconnecting: %s", self._uuid, reason)
        if self._connection is None or not self._connection.has_received:
            self.dialling.log_silence()
        if self._connection is not None:
            self._connection.reconnect = True
        self.end(reason)
