"""Composes the host daemon: its core, its memory, its events file, its APIs and its link.

signals, control socket, observe listeners
  processes, keep-alive of the service manager, notifier
    memory
    events file
    host            see hbtrio/nursery/host/daemon.py
    operator API, observe API, link to the agent
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import datetime
from functools import partial

import attrs
import trio

from hbtrio.api.control import ControlAccess
from hbtrio.api.host import host_api, observe_api
from hbtrio.config.endpoints import is_local
from hbtrio.config.host import HostConfig
from hbtrio.daemons.serving import ApiEndpoint, DaemonLog, serve_api
from hbtrio.daemons.signals import Signals, until_term
from hbtrio.net.connections import Listener
from hbtrio.nursery.file_watch import FileWatch
from hbtrio.nursery.host.agent_link import HostLink, Identity
from hbtrio.nursery.host.daemon import Host, open_host
from hbtrio.nursery.host.directory_watch import DirectoryWatch
from hbtrio.nursery.host.environment import HostEnvironment
from hbtrio.nursery.host.events_file import EventsSink
from hbtrio.nursery.host.events_watch import watch_events_file
from hbtrio.nursery.host.heap_freezer import HeapFreezer
from hbtrio.nursery.host.memory import HostMemory, open_memory
from hbtrio.nursery.host.memory_settings import MemorySettings
from hbtrio.nursery.host.reports import Reports
from hbtrio.nursery.host.subjects import HostSubjects
from hbtrio.nursery.notifier import Notifier
from hbtrio.nursery.port import Dialer
from hbtrio.nursery.time_guard import GuardRunner, run_guard
from hbtrio.policy.begin_by import ProcessClock
from hbtrio.system.runner import ProcessRunner
from hbtrio.system.sd_notify import ServiceManager

_log = logging.getLogger("hbtrio.host")


@attrs.frozen(kw_only=True)
class HostWorld:
    """What a host reaches outside itself.

    Args:
        watch: sees the channels' sockets in their directory.
        dialer: connects to them.
        connect: opens a connection to the agent, or raises ``Unreachable``.
        signals: receives the signals.
        control: opens the control socket; raises UserError.
        access: who may do what at it.
        observe: the endpoint for observers; None: there is none.
        processes: opens what runs commands.
        notifier: opens what tells whoever is on call, with what runs commands.
        memory: the store of what is remembered across restarts, and its clock.
        events: writes the reports to the events file; None: there is none.
        files: the certificates and tokens in use.
        log: where the log goes.
        manager: the service manager.
        collecting: yields a function that ends garbage collection until the end of the block.
        clock: by which requests and commands expire.
        wall_clock: the current time with its zone.
        run_guard: ticks the on-time guard.
        heap: keeps garbage collections short.
        new_id: makes ids in 0..2^31-1.
    """

    watch: DirectoryWatch
    dialer: Dialer
    connect: Callable[[], Awaitable[trio.abc.Stream]]
    signals: Signals
    control: Callable[[], Awaitable[Listener]]
    access: ControlAccess
    observe: ApiEndpoint | None
    processes: Callable[[], contextlib.AbstractAsyncContextManager[ProcessRunner]]
    notifier: Callable[[ProcessRunner], contextlib.AbstractAsyncContextManager[Notifier]]
    memory: MemorySettings
    events: EventsSink | None
    files: FileWatch
    log: DaemonLog
    manager: ServiceManager
    collecting: Callable[[], contextlib.AbstractContextManager[Callable[[], None]]]
    clock: ProcessClock
    wall_clock: Callable[[], datetime]
    run_guard: GuardRunner = run_guard
    heap: Callable[[], HeapFreezer] = HeapFreezer
    new_id: Callable[[], int]


async def serve_host(config: HostConfig, file: str, world: HostWorld) -> None:
    """Runs a host until a signal ends it, and the actions in progress.

    Args:
        config: its configuration.
        file: where that was read, for the log.
        world: what it reaches outside itself.

    Raises:
        UserError: the control socket, or an address for observers, can't be listened at.
    """
    manager, observed = world.manager, world.observe
    with world.collecting() as stop_collecting, world.signals() as signals:
        # After the signals: whoever sees the socket may send TERM, and its end removes the socket.
        listener = await world.control()
        watched = [] if observed is None else await observed.listen()
        async with (
            world.processes() as processes,
            manager.keep_alive(),
            world.notifier(processes) as notifier,
        ):
            environment = HostEnvironment(
                watch=world.watch,
                dialer=world.dialer,
                processes=processes,
                libvirt=processes,
                new_id=world.new_id,
                reports=Reports(world.wall_clock),
                clock=world.clock,
                run_guard=world.run_guard,
                heap=world.heap(),
                shed_log=world.log.shed,
                log_lines_dropped=lambda: world.log.lines_dropped,
                files=world.files,
                memory=HostMemory(world.memory),
                notifier=notifier,
            )
            async with (
                open_memory(environment.memory),
                _writing(world.events, environment.reports),
                trio.open_nursery() as nursery,
                open_host(config, environment, world.events) as host,
            ):
                world.log.find = HostSubjects(config.hostname, host.channels, host.domains).find
                serve = partial(serve_api, supervisor=host.supervisor, log=_log)
                api = host_api(host, world.access)
                await nursery.start(serve, "operator", api, [listener], None)
                if observed is not None:
                    local = is_local(config.observe.listen)
                    shown = observe_api(host, token=observed.token, local=local)
                    await nursery.start(serve, "observe", shown, watched, observed.tls)
                if config.agent.connect:
                    link = HostLink(host, _identity(config, host), world.connect)
                    nursery.start_soon(host.supervisor.keep, "link", link.run)
                manager.ready()
                _log.info(
                    "host %s serves %s, control socket %s",
                    config.hostname,
                    config.channel_dir,
                    config.control_socket,
                )
                hang_up = partial(_hang_up, world.events, file, nursery)
                await until_term(signals, hang_up)
                manager.stopping()
                await host.stopping.run(config.stop_grace_s, partial(until_term, signals, hang_up))
                _log.info("stopping")
                stop_collecting()
                nursery.cancel_scope.cancel()


async def _hang_up(events: EventsSink | None, file: str, nursery: trio.Nursery) -> None:
    if events is None or events.target == "-":
        _log.warning("SIGHUP: %s is read at the start only, restart for it", file)
        return
    # Each night, of logrotate: no warning.
    _log.info("SIGHUP: events are opened anew; %s is read at the start only", file)
    nursery.start_soon(events.reopen)


def _identity(config: HostConfig, host: Host) -> Identity:
    return Identity(config.hostname, config.agent.host_uuid.lower(), host.clock.boot_id)


@contextlib.asynccontextmanager
async def _writing(events: EventsSink | None, reports: Reports) -> AsyncIterator[None]:
    """Reports are written until the block has ended: those of the host's end too."""
    async with trio.open_nursery() as nursery:
        if events is not None:
            await nursery.start(events.run, reports)
            nursery.start_soon(watch_events_file, events)
        yield
        nursery.cancel_scope.cancel()
