"""Guests on real sockets in the host's own process: a thousand come and go within a second.

Each connection is a socket pair whose other end says ``init`` at once and answers challenges when
:meth:`SocketGuests.answer` is called. There is no file system in it and no second process.
"""

from __future__ import annotations

import contextlib
import random
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import trio

from hbtrio.config.host import HostConfig
from hbtrio.nursery.host.daemon import Host, open_host
from hbtrio.nursery.host.environment import HostEnvironment
from hbtrio.nursery.host.reports import Reports
from hbtrio.nursery.port import ChannelSocket, SocketReaders
from hbtrio.wire.channel_messages import MAX_ID
from support.fake_directory import FakeDirectory
from support.fake_processes import FakeProcesses
from support.guest_farm_process import ANSWER, CHALLENGES, INIT, channel_name

CHANNEL_DIR = "/run/vms"


class SocketGuests:
    """A host's guests, and the directory of their channels."""

    def __init__(self) -> None:
        self.directory = FakeDirectory()
        self.readers = SocketReaders()
        #: Their ends of the connections, by the path that was dialled.
        self.ends: dict[str, socket.socket] = {}

    def dial(self, path: str) -> ChannelSocket:
        """See :class:`hbtrio.nursery.port.Dialer`."""
        host, guest = socket.socketpair()
        for end in (host, guest):
            end.setblocking(False)
        guest.send(INIT % (1, len(self.ends), 1000))
        if path in self.ends:
            self.ends[path].close()
        self.ends[path] = guest
        return ChannelSocket(host, self.readers)

    def appear(self, first: int, count: int) -> None:
        """The sockets of these guests are made."""
        for index in range(first, first + count):
            self.directory.add(channel_name(index))

    def vanish(self, first: int, count: int) -> None:
        """The sockets go; the host notices by itself and ends the channels."""
        for index in range(first, first + count):
            self.directory.remove(channel_name(index))

    def close(self) -> None:
        """The guests' processes end."""
        for end in self.ends.values():
            end.close()
        self.ends.clear()

    def answer(self) -> None:
        """Answers what the guests were challenged with."""
        for end in self.ends.values():
            with contextlib.suppress(BlockingIOError):
                for number in CHALLENGES.findall(end.recv(4096)):
                    end.send(ANSWER % (2, number))

    async def all_heartbeating(self, host: Host, count: int) -> None:
        """Answers until so many instances are heartbeating."""
        with trio.fail_after(20):
            while host.heartbeating < count:
                self.answer()
                await trio.sleep(0.001)

    async def none_left(self, host: Host) -> None:
        """Waits until the last channel has ended."""
        with trio.fail_after(20):
            while host.channels:  # noqa: ASYNC110 - an Event would have to be the host's
                await trio.sleep(0.001)


@asynccontextmanager
async def open_socket_guests(**config: Any) -> AsyncIterator[tuple[Host, SocketGuests]]:
    """A host without guests yet, and its guests."""
    guests = SocketGuests()
    environment = HostEnvironment(
        watch=guests.directory,
        dialer=guests,
        processes=FakeProcesses({}),
        new_id=lambda: random.randint(0, MAX_ID),
        reports=Reports(lambda: datetime.now(UTC)),
    )
    try:
        async with open_host(HostConfig(channel_dir=CHANNEL_DIR, **config), environment) as host:
            yield host, guests
    finally:
        guests.close()
        guests.readers.close()
