"""The world of the host daemon on this machine."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial

import trio

from hbtrio.api.control import ControlAccess
from hbtrio.config.host import AgentLinkSettings, HostConfig
from hbtrio.daemons.host import HostWorld
from hbtrio.daemons.machine.apis import api_endpoint
from hbtrio.daemons.machine.notify import open_notifier
from hbtrio.daemons.machine.process import local_time, receive_signals
from hbtrio.log import Subject, logging_to
from hbtrio.net.endpoints import Endpoint
from hbtrio.net.tls import expiry_of
from hbtrio.net.tls_files import TlsFiles, client_files
from hbtrio.net.unix_socket import open_unix_listener
from hbtrio.nursery.file_watch import FileWatch
from hbtrio.nursery.host.directory_claim import ClaimedWatch
from hbtrio.nursery.host.directory_watch import InotifyWatch
from hbtrio.nursery.host.events_file import EventsFile
from hbtrio.nursery.host.memory_settings import MemorySettings
from hbtrio.nursery.port import UnixDialer
from hbtrio.store.host_records import Moment
from hbtrio.store.host_store import HostStore
from hbtrio.system.boot_clock import boot_clock, machine_boot_id, process_clock
from hbtrio.system.file_identity import creation_of
from hbtrio.system.garbage import collected_until_told
from hbtrio.system.open_files import allow_descriptors
from hbtrio.system.runner import SystemProcesses
from hbtrio.system.sd_notify import ServiceManager
from hbtrio.wire.channel_messages import MAX_ID


@contextmanager
def open_host_world(config: HostConfig, file: str) -> Iterator[HostWorld]:
    """Opens what a host needs before its run, and yields its world; closed with the block.

    Args:
        config: its configuration.
        file: where that was read, for faults.

    Raises:
        UserError: the events file, the log, the directory, a certificate, a token or a group can't
            be used.
    """
    with ExitStack() as resources:
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
        agent = Endpoint.parse(config.agent.connect) if config.agent.connect else Endpoint()
        files = FileWatch(local_time)
        tls = _tls_of(config.agent, file, files) if config.agent.certificate else None
        access = ControlAccess.of(config.control, file)
        observe = None
        if config.observe.listen:
            observe = api_endpoint(file, "observe", config.observe, files, optional=True)
        dialer = UnixDialer()
        resources.callback(dialer.close)
        yield HostWorld(
            watch=watch,
            dialer=dialer,
            connect=partial(_connect, agent, tls, files),
            signals=receive_signals,
            control=partial(open_unix_listener, config.control_socket, config.control_permissions),
            access=access,
            observe=observe,
            processes=SystemProcesses,
            notifier=partial(
                open_notifier,
                config.notify,
                file,
                hostname=config.hostname,
                files=files,
                wall_clock=local_time,
            ),
            memory=_memory_settings(config),
            events=events,
            files=files,
            log=log,
            manager=ServiceManager.of(os.environ, os.getpid()),
            collecting=collected_until_told,
            clock=process_clock(),
            wall_clock=local_time,
            new_id=partial(random.getrandbits, MAX_ID.bit_length()),
        )


def _memory_settings(config: HostConfig) -> MemorySettings:
    boot_id = machine_boot_id()

    def moment() -> Moment:
        return Moment(boot_id, boot_clock(), time.time())

    if not config.state_dir:
        return MemorySettings(open_store=None, moment=moment, socket_of=creation_of)
    path = os.path.join(config.state_dir, "host.db")
    return MemorySettings(
        open_store=partial(HostStore.open, path, local_time),
        moment=moment,
        socket_of=creation_of,
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
