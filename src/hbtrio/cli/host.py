"""Runs on a compute host: heartbeats every VM, runs votes and notices, and reports.

The other options override FILE. SIGTERM ends it, once the actions in progress are over or
stop_grace_s has passed; a second one ends it at once. The VMs only see that the connection closes.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import platform
import random
import signal
import time
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Any

import attrs
import trio

from hbtrio.api.auth import OperatorAdmission
from hbtrio.api.control import ControlAccess, ControlAdmission
from hbtrio.api.host import host_api, observe_api
from hbtrio.cli.api_endpoint import ApiEndpoint
from hbtrio.cli.notify import open_notifier
from hbtrio.config.endpoints import is_local
from hbtrio.config.host import (
    DEFAULT_HOST_CONFIG,
    AgentLinkSettings,
    HostConfig,
)
from hbtrio.config.toml import load_toml, structure
from hbtrio.errors import ExitStatus, UserError
from hbtrio.http.server import serve_http
from hbtrio.log import LogQueue, Subject, logging_to
from hbtrio.net.endpoints import Endpoint, Listener
from hbtrio.net.tls import expiry_of
from hbtrio.net.tls_files import TlsFiles, client_files
from hbtrio.net.unix_socket import open_unix_listener
from hbtrio.nursery.file_watch import FileWatch
from hbtrio.nursery.host.agent_link import HostLink, Identity
from hbtrio.nursery.host.daemon import Host, open_host
from hbtrio.nursery.host.directory_claim import ClaimedWatch
from hbtrio.nursery.host.directory_watch import InotifyWatch
from hbtrio.nursery.host.environment import HostEnvironment
from hbtrio.nursery.host.events_file import EventsFile
from hbtrio.nursery.host.events_watch import watch_events_file
from hbtrio.nursery.host.memory import HostMemory, open_memory
from hbtrio.nursery.host.memory_settings import MemorySettings
from hbtrio.nursery.host.reports import Reports
from hbtrio.nursery.host.subjects import HostSubjects
from hbtrio.nursery.port import UnixDialer
from hbtrio.store.host_records import Moment
from hbtrio.store.host_store import HostStore
from hbtrio.system.boot_clock import boot_clock, machine_boot_id
from hbtrio.system.garbage import collected_until_told
from hbtrio.system.open_files import allow_descriptors
from hbtrio.system.runner import SystemProcesses
from hbtrio.system.sd_notify import ServiceManager
from hbtrio.wire.channel_messages import MAX_ID

_log = logging.getLogger("hbtrio.host")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options; those that are keys of the configuration too outrank it."""
    parser.add_argument(
        "--config", metavar="FILE", help=f"configuration (default {DEFAULT_HOST_CONFIG})"
    )
    parser.add_argument("--channel-dir", metavar="DIR", help="directory of the channel sockets")
    parser.add_argument("--control-socket", metavar="PATH", help="unix socket for `hbtrio ctl`")
    parser.add_argument(
        "--events", metavar="FILE|-", help="file for events, as JSON lines; -: standard output"
    )
    parser.add_argument(
        "--state-dir", metavar="DIR", help="directory for what is remembered across restarts"
    )
    parser.add_argument("--log", choices=("stderr", "syslog"), help="destination of the log")
    parser.add_argument(
        "--log-format",
        choices=("text", "json"),
        help="what the log looks like (json: an object on each line, for programs)",
    )


def run(options: argparse.Namespace) -> int:
    """Runs the daemon until SIGTERM or SIGINT.

    Raises:
        UserError: the configuration, a socket or a directory can't be used.
    """
    config = _load(options)
    with contextlib.ExitStack() as resources:
        events = None
        if config.events:
            events = EventsFile(config.events)
            resources.callback(events.close)
        # Before the watch: a directory that is waited for is a line in the log.
        log = resources.enter_context(
            logging_to(
                config.log,
                ident="hbtrio-host",
                log_format=config.log_format,
                level=config.log_level,
                own=Subject(host=config.hostname),
            )
        )
        names = resources.enter_context(InotifyWatch(config.channel_dir))
        watch = resources.enter_context(ClaimedWatch(names, config.channel_dir))
        allow_descriptors()
        file = str(options.config or DEFAULT_HOST_CONFIG)
        trio.run(_serve, config, file, watch, events, log)
    return ExitStatus.DONE


def _load(options: argparse.Namespace) -> HostConfig:
    if options.config is None:
        config = load_toml(DEFAULT_HOST_CONFIG, HostConfig, missing_ok=True)
    else:
        config = load_toml(options.config, HostConfig)
    given: dict[str, Any] = {
        name: value
        for name in ("channel_dir", "control_socket", "events", "state_dir", "log", "log_format")
        if (value := getattr(options, name)) is not None
    }
    for name in ("channel_dir", "control_socket", "events", "state_dir"):
        if given.get(name) not in (None, "", "-"):
            given[name] = os.path.abspath(given[name])
    # systemd's: the first of several, which are separated by colons.
    systemd_dir = os.environ.get("STATE_DIRECTORY", "").partition(":")[0]
    if systemd_dir and not (given.get("state_dir") or config.state_dir):
        given["state_dir"] = systemd_dir
    # The same checks as for the file, with the option's name in the fault.
    structure(given, HostConfig, "options")
    try:
        return attrs.evolve(config, **{"hostname": config.hostname or platform.node(), **given})
    except ValueError as error:  # what the options and the file make together
        raise UserError(f"options: {error}") from error


async def _serve(
    config: HostConfig,
    file: str,
    watch: ClaimedWatch,
    events: EventsFile | None,
    log: LogQueue,
) -> None:
    agent = Endpoint.parse(config.agent.connect) if config.agent.connect else Endpoint()
    files = FileWatch(_local_time)
    tls = _tls_of(config.agent, file, files) if config.agent.certificate else None
    access = ControlAccess.of(config.control, file)
    observed = None
    if config.observe.listen:
        observed = ApiEndpoint.of(file, "observe", config.observe, files, optional=True)
    manager = ServiceManager.of(os.environ, os.getpid())
    with (
        collected_until_told() as stop_collecting,
        trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals,
    ):
        # After the signals: whoever sees the socket may send TERM, and its end removes the socket.
        listener = await open_unix_listener(config.control_socket, config.control_permissions)
        watched = [] if observed is None else await observed.endpoint.listen()
        async with (
            SystemProcesses() as processes,
            manager.keep_alive(),
            open_notifier(
                config.notify,
                file,
                hostname=config.hostname,
                files=files,
                processes=processes,
                wall_clock=_local_time,
            ) as notifier,
        ):
            environment = HostEnvironment(
                watch=watch,
                dialer=UnixDialer(),
                processes=processes,
                libvirt=processes,
                new_id=partial(random.getrandbits, MAX_ID.bit_length()),
                reports=Reports(_local_time),
                shed_log=log.shed,
                log_lines_dropped=lambda: log.lines_dropped,
                files=files,
                memory=HostMemory(_memory_settings(config)),
                notifier=notifier,
            )
            async with (
                open_memory(environment.memory),
                _writing(events, environment.reports),
                trio.open_nursery() as nursery,
                open_host(config, environment, events) as host,
            ):
                log.find = HostSubjects(config.hostname, host.channels, host.domains).find
                api = host_api(host, access)
                await nursery.start(_serve_api, host, "operator", api, [listener], None)
                if observed is not None:
                    local = is_local(config.observe.listen)
                    shown = observe_api(host, token=observed.token, local=local)
                    await nursery.start(_serve_api, host, "observe", shown, watched, observed.tls)
                if config.agent.connect:
                    connect = partial(_connect, agent, tls, files)
                    link = HostLink(host, _identity(config, host), connect)
                    nursery.start_soon(host.supervisor.keep, "link", link.run)
                manager.ready()
                _log.info(
                    "host %s serves %s, control socket %s",
                    config.hostname,
                    config.channel_dir,
                    config.control_socket,
                )
                until_term = partial(_until_term, signals, events, file, nursery)
                await until_term()
                manager.stopping()
                await host.drain.run(config.stop_grace_s, until_term)
                _log.info("stopping")
                stop_collecting()
                nursery.cancel_scope.cancel()


async def _until_term(
    signals: AsyncIterator[int], events: EventsFile | None, file: str, nursery: trio.Nursery
) -> None:
    """Handles signals until one is to end the host."""
    async for number in signals:
        if number != signal.SIGHUP:
            return
        # Its default would end the host; VMs would notice for nothing.
        if events is None or events.target == "-":
            _log.warning("SIGHUP: %s is read at the start only, restart for it", file)
            continue
        # Each night, of logrotate: no warning.
        _log.info("SIGHUP: events are opened anew; %s is read at the start only", file)
        nursery.start_soon(events.reopen)


def _memory_settings(config: HostConfig) -> MemorySettings:
    boot_id = machine_boot_id()

    def moment() -> Moment:
        return Moment(boot_id, boot_clock(), time.time())

    if not config.state_dir:
        return MemorySettings(open_store=None, moment=moment)
    path = os.path.join(config.state_dir, "host.db")
    return MemorySettings(
        open_store=partial(HostStore.open, path, _local_time),
        moment=moment,
        path=path,
        history_days=config.history_days,
    )


def _tls_of(settings: AgentLinkSettings, file: str, files: FileWatch) -> TlsFiles:
    names = (settings.certificate, settings.key, settings.authority)
    tls = client_files(f"{file}: agent", *names, keys="agent.")
    files.add_tls(f"{file}: agent", tls)
    return tls


async def _connect(agent: Endpoint, tls: TlsFiles | None, files: FileWatch) -> trio.abc.Stream:
    stream = await agent.connect(None if tls is None else tls.value.context)
    if isinstance(stream, trio.SSLStream):
        files.note_peer("the agent", expiry_of(stream.getpeercert()))
    return stream


def _identity(config: HostConfig, host: Host) -> Identity:
    return Identity(config.hostname, config.agent.host_uuid.lower(), host.clock.boot_id)


@contextlib.asynccontextmanager
async def _writing(events: EventsFile | None, reports: Reports) -> AsyncIterator[None]:
    """Reports are written until the block has ended: those of the host's end too."""
    async with trio.open_nursery() as nursery:
        if events is not None:
            await nursery.start(events.run, reports)
            nursery.start_soon(watch_events_file, events)
        yield
        nursery.cancel_scope.cancel()


def _local_time() -> datetime:
    return datetime.now(UTC).astimezone()


async def _serve_api(
    host: Host,
    whose: str,
    api: ControlAdmission | OperatorAdmission,
    listeners: Sequence[Listener],
    tls: TlsFiles | None,
    *,
    task_status: trio.TaskStatus[None],
) -> None:
    def crashed(error: BaseException) -> None:
        host.supervisor.count_crash()
        _log.error("%s API failed", whose, exc_info=error)

    await serve_http(
        api,
        listeners,
        tls=tls,
        classes=api.classes,
        on_crash=crashed,
        task_status=task_status,
    )
