"""Guest, host and agent as their commands run them, in one run of trio without the machine.

Their worlds have connections in memory, a fake clock and stores in memory. Neither a socket nor a
thread, a process or a file can be had while they run.
"""

from __future__ import annotations

import gc
import logging
import os
import signal
import socket
import sqlite3
import subprocess
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import (
    AbstractAsyncContextManager,
    asynccontextmanager,
    contextmanager,
)
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import count
from typing import Any, Final, NoReturn, TypeVar

import attrs
import pytest
import trio
from trio.testing import MockClock

from hbtrio.api.control import ControlAccess
from hbtrio.config.agent import AgentConfig, VimSettings
from hbtrio.config.guest import GuestConfig
from hbtrio.config.host import AgentLinkSettings, HostConfig
from hbtrio.daemons.agent import AgentWorld, serve_agent
from hbtrio.daemons.guest import GuestWorld, serve_guest
from hbtrio.daemons.host import HostWorld, serve_host
from hbtrio.daemons.serving import ApiEndpoint
from hbtrio.errors import ConfigError, UserError
from hbtrio.lab.vim import LabVim
from hbtrio.lab.vim_request import VimReply, ask_over
from hbtrio.lab.vim_server import VimServer
from hbtrio.log.subject import Find, by_uuid
from hbtrio.nursery.agent.vim_client import VimClient
from hbtrio.nursery.file_watch import FileWatch
from hbtrio.nursery.host.events_file import EventsFault
from hbtrio.nursery.host.heap_freezer import HeapFreezer
from hbtrio.nursery.host.memory_settings import MemorySettings
from hbtrio.nursery.host.reports import Report, Reports
from hbtrio.nursery.notifier import Notifier
from hbtrio.nursery.time_guard import run_guard
from hbtrio.policy.begin_by import ProcessClock
from hbtrio.policy.time_guard import OnTimeGuard
from hbtrio.store.database import prepare_database
from hbtrio.store.host_records import Moment
from hbtrio.store.host_schema import HOST_SCHEMA
from hbtrio.store.host_store import HostStore
from hbtrio.store.migration import Schema
from hbtrio.store.schema import AGENT_SCHEMA
from hbtrio.store.store import Store
from hbtrio.system.runner import ProcessRunner
from hbtrio.system.sd_notify import ServiceManager
from support.fake_directory import FakeDirectory
from support.fake_processes import FakeProcesses, FakeRun
from support.inline_store import InlineWorker
from support.local_streams import LocalListener
from support.memory_channel import MemoryChannel

T = TypeVar("T")

UUID: Final = "00000001-1111-2222-abcd-0123456789ef"
HOST_UUID: Final = "000000aa-1111-2222-abcd-0123456789ef"
SCRIPT: Final = "/etc/vote"


class MachineReached(AssertionError):
    """Something asked the machine."""


@contextmanager
def no_machine() -> Iterator[None]:
    """Within the block no socket, thread, process or file can be opened."""

    def refuse(*args: object, **kwargs: object) -> NoReturn:
        raise MachineReached(f"{args} {kwargs}")

    with pytest.MonkeyPatch.context() as patch:
        for owner, name in (
            (socket.socket, "__init__"),
            (threading.Thread, "start"),
            (trio.to_thread, "run_sync"),
            (trio.lowlevel, "start_thread_soon"),
            (subprocess, "Popen"),
            (signal, "signal"),
            (os, "open"),
            (os, "scandir"),
            (gc, "freeze"),
        ):
            patch.setattr(owner, name, refuse)
        yield


class QuietLog:
    """See :class:`~hbtrio.daemons.serving.DaemonLog`."""

    find: Find = staticmethod(by_uuid)
    lines_dropped = 0

    def shed(self, shedding: bool) -> None:
        pass


class Signals:
    """Signals that the test sends to one daemon."""

    def __init__(self) -> None:
        self._send, self._receive = trio.open_memory_channel[int](10)

    def send(self, number: int) -> None:
        self._send.send_nowait(number)

    @contextmanager
    def receive(self) -> Iterator[AsyncIterator[int]]:
        yield self._receive


class MemoryEvents:
    """See :class:`~hbtrio.nursery.host.events_file.EventsSink`."""

    target = "/var/events"
    fault: EventsFault | None = None

    def __init__(self) -> None:
        self.reports: list[Report] = []
        self.reopened = 0

    async def run(self, reports: Reports, *, task_status: trio.TaskStatus[None]) -> None:
        reports.listen(self.reports.append)
        task_status.started()
        await trio.sleep_forever()

    async def reopen(self) -> None:
        self.reopened += 1

    async def look(self) -> str | None:
        return ""


def opening(thing: T) -> Callable[[], AbstractAsyncContextManager[T]]:
    @asynccontextmanager
    async def opened() -> AsyncIterator[T]:
        yield thing

    return opened


@contextmanager
def not_collecting() -> Iterator[Callable[[], None]]:
    yield lambda: None


@asynccontextmanager
async def nobody_told(_: ProcessRunner) -> AsyncIterator[Notifier]:
    yield Notifier([], per_minute=1, hostname="h", wall_clock=utc, new_id=lambda: "id")


def utc() -> datetime:
    return datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=trio.current_time())


async def refused(*_: object) -> NoReturn:
    await trio.lowlevel.checkpoint()
    raise UserError("there are no sockets")


@attrs.define
class Cloud:
    """The three daemons, and what they have in place of the machine."""

    nursery: trio.Nursery
    channel: MemoryChannel = attrs.field(factory=MemoryChannel)
    directory: FakeDirectory = attrs.field(factory=FakeDirectory)
    link: LocalListener = attrs.field(factory=LocalListener)
    vim_api: LocalListener = attrs.field(factory=LocalListener)
    operator: LocalListener = attrs.field(factory=LocalListener)
    control: LocalListener = attrs.field(factory=LocalListener)
    vim_door: LocalListener = attrs.field(factory=LocalListener)
    events: MemoryEvents = attrs.field(factory=MemoryEvents)
    #: What the guest's script does.
    script: FakeRun = attrs.field(factory=FakeRun)
    #: The configuration that the guest reads at SIGHUP; None: it has a fault.
    reloaded: GuestConfig | None = None
    signals: dict[str, Signals] = attrs.field(factory=dict)
    ended: dict[str, float] = attrs.field(factory=dict)
    databases: list[sqlite3.Connection] = attrs.field(factory=list)
    guards: list[OnTimeGuard] = attrs.field(factory=list)
    said: list[str] = attrs.field(factory=list)

    def start(self, name: str, serve: Callable[[], Awaitable[None]]) -> None:
        async def run() -> None:
            await serve()
            self.ended[name] = trio.current_time()

        self.nursery.start_soon(run)

    def signals_of(self, name: str) -> Signals:
        return self.signals.setdefault(name, Signals())

    async def run_guard(self, guard: OnTimeGuard, resting: Callable[[], bool]) -> None:
        self.guards.append(guard)
        await run_guard(guard, resting)

    def worker(self, schema: Schema) -> InlineWorker:
        db = sqlite3.connect(":memory:", isolation_level=None)
        self.databases.append(db)
        prepare_database(db, "memory", schema)
        return InlineWorker(db)

    # -- the daemons -------------------------------------------------------------------------------

    def start_agent(self) -> None:
        ids = count(1)
        files = FileWatch(utc)
        world = AgentWorld(
            store=opening(Store(self.worker(AGENT_SCHEMA), utc)),
            vim=VimClient("http://vim:30002", connect=self.vim_door.connect),
            signals=self.signals_of("agent").receive,
            link=ApiEndpoint("link", self.link.listen),
            vim_api=ApiEndpoint("vim", self.vim_api.listen),
            operator=ApiEndpoint("operator", self.operator.listen),
            processes=opening(FakeProcesses({})),
            notifier=nobody_told,
            files=files,
            log=QuietLog(),
            manager=ServiceManager(""),
            collecting=not_collecting,
            clock=ProcessClock(trio.current_time, "agent-1"),
            wall_clock=utc,
            run_guard=self.run_guard,
            new_id=lambda: f"command-{next(ids)}",
        )
        config = AgentConfig(name="controller", vim=VimSettings(url="http://vim:30002"))
        self.start("agent", partial(serve_agent, config, "agent.toml", world))

    def start_host(self) -> None:
        ids = count(1)

        async def control() -> LocalListener:
            (listener,) = await self.control.listen()
            return listener

        world = HostWorld(
            watch=self.directory,
            dialer=self.channel,
            connect=self.link.connect,
            signals=self.signals_of("host").receive,
            control=control,
            access=ControlAccess(own_uid=0),
            observe=None,
            processes=opening(FakeProcesses({})),
            notifier=nobody_told,
            memory=MemorySettings(
                open_store=opening(HostStore(self.worker(HOST_SCHEMA), utc)),
                moment=lambda: Moment("boot", trio.current_time(), utc().timestamp()),
                socket_of=lambda path: path,
            ),
            events=self.events,
            files=FileWatch(utc),
            log=QuietLog(),
            manager=ServiceManager(""),
            collecting=not_collecting,
            clock=ProcessClock(trio.current_time, "host-1"),
            wall_clock=utc,
            run_guard=self.run_guard,
            heap=partial(HeapFreezer, lambda: 0.0, lambda: None),
            new_id=lambda: next(ids),
        )
        config = HostConfig(
            channel_dir="/vms",
            hostname="compute-0",
            agent=AgentLinkSettings(connect="unix:/agent.link", host_uuid=HOST_UUID),
        )
        self.start("host", partial(serve_host, config, "host.toml", world))

    def start_guest(self) -> None:
        ids = count(1)
        world = GuestWorld(
            device=self.channel,
            signals=self.signals_of("guest").receive,
            app_socket=refused,
            app_socket_required=False,
            app_status=refused,
            script_search=lambda path: lambda: [path],
            processes=opening(FakeProcesses(lambda _: self.script)),
            reload=self._reload,
            manager=ServiceManager(""),
            run_guard=self.run_guard,
            new_id=lambda: next(ids),
        )
        config = GuestConfig(event_notification_script=SCRIPT)
        self.start("guest", partial(serve_guest, "vm1", config, world))

    def _reload(self) -> GuestConfig:
        if self.reloaded is None:
            raise ConfigError(["guest.conf:1: a typo"])
        return self.reloaded

    # -- the VIM -----------------------------------------------------------------------------------

    async def start_vim(self) -> LabVim:
        await self.vim_door.listen()
        vim = LabVim(VimServer(lambda: self.vim_door), self._call, self.said.append, refused)
        vim.add_host(HOST_UUID, "compute-0")
        await self.nursery.start(vim.run)
        return vim

    async def _call(
        self,
        method: str,
        path: str,
        body: dict[str, Any] | None = None,
        *,
        on_reply: Callable[[VimReply], None] | None = None,
    ) -> VimReply:
        return await ask_over(
            self.vim_api.connect, "controller", method, path, body, on_reply=on_reply
        )


@pytest.fixture
async def cloud(autojump_clock: MockClock) -> AsyncIterator[Cloud]:
    async with trio.open_nursery() as nursery:
        cloud = Cloud(nursery)
        yield cloud
        nursery.cancel_scope.cancel()
    for db in cloud.databases:
        db.close()


async def heartbeating(cloud: Cloud) -> LabVim:
    """Starts all, and waits until the VIM knows that the instance is heartbeating."""
    vim = await cloud.start_vim()
    cloud.start_agent()
    await trio.sleep(1)
    cloud.start_host()
    cloud.directory.add(f"cgcs.heartbeat.{UUID}.sock")
    cloud.start_guest()
    await trio.sleep(1)
    await vim.add_instance(UUID, "vm1", "compute-0")
    await trio.sleep(10)
    assert "receives vm1 on compute-0: heartbeating, restart-timeout 121 s" in cloud.said
    return vim


def test_the_machine_can_not_be_reached() -> None:
    with no_machine():
        for reach in (socket.socket, threading.Thread().start, partial(os.open, "/", os.O_RDONLY)):
            with pytest.raises(MachineReached):
                reach()


async def test_a_vote_of_the_vim_reaches_the_script_and_its_verdict_the_vim(cloud: Cloud) -> None:
    with no_machine():
        vim = await heartbeating(cloud)
        assert str(await vim.vote(UUID, "stop")) == "allow"
        cloud.script = FakeRun(exit_code=1, stdout=b"a backup runs\n")
        assert str(await vim.vote(UUID, "stop")) == "reject: a backup runs"
        reported = [(one.kind, one.result or "", one.reason) for one in cloud.events.reports]
        assert reported == [
            ("heartbeating", "", "init answered"),
            ("vote", "accept", ""),
            ("vote", "reject", "a backup runs"),
        ]
        assert len(cloud.guards) == 3


async def test_signals_reload_the_guest_and_end_each_daemon(
    cloud: Cloud, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    with no_machine():
        vim = await heartbeating(cloud)
        cloud.signals["guest"].send(signal.SIGHUP)
        await trio.sleep(1)
        cloud.reloaded = GuestConfig()
        cloud.signals["guest"].send(signal.SIGHUP)
        cloud.signals["host"].send(signal.SIGHUP)
        cloud.signals["agent"].send(signal.SIGHUP)
        await trio.sleep(5)
        assert str(await vim.vote(UUID, "stop")) == "allow"
        assert cloud.events.reports[-1].result == "complete"  # nobody was asked any more
        assert cloud.events.reopened == 1
        for line in (
            "not reloaded: guest.conf:1: a typo",
            "configuration read again",
            "SIGHUP: events are opened anew; host.toml is read at the start only",
            "SIGHUP: agent.toml is read at the start only, restart for it",
        ):
            assert line in caplog.messages
        for name in ("guest", "host", "agent"):
            assert name not in cloud.ended
            cloud.signals[name].send(signal.SIGTERM)
            await trio.sleep(10)
            assert name in cloud.ended
