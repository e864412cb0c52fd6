"""The world of the agent on this machine."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from hbtrio.config.agent import AgentConfig, LinkSettings, VimSettings
from hbtrio.daemons.agent import AgentWorld
from hbtrio.daemons.machine.apis import api_endpoint, tls_of
from hbtrio.daemons.machine.notify import open_notifier
from hbtrio.daemons.machine.process import local_time, receive_signals
from hbtrio.daemons.serving import ApiEndpoint
from hbtrio.log import logging_to
from hbtrio.net.endpoints import Endpoint
from hbtrio.net.tls_files import client_files
from hbtrio.nursery.agent.vim_client import VimClient
from hbtrio.nursery.file_watch import FileWatch
from hbtrio.store.places import LastSession, open_store
from hbtrio.system.boot_clock import boot_clock, process_clock
from hbtrio.system.garbage import collected_until_told
from hbtrio.system.open_files import allow_descriptors
from hbtrio.system.runner import SystemProcesses
from hbtrio.system.sd_notify import ServiceManager


@contextmanager
def open_agent_world(config: AgentConfig, file: str) -> Iterator[AgentWorld]:
    """Opens what an agent needs before its run, and yields its world; closed with the block.

    Args:
        config: its configuration.
        file: where that was read, for faults.

    Raises:
        UserError: the log, an address, a certificate or a token can't be used.
    """
    allow_descriptors()
    with logging_to(
        config.log, ident="hbtrio-agent", log_format=config.log_format, level=config.log_level
    ) as log:
        files = FileWatch(local_time)
        link = _link(config.link, file, files)
        vim_api = api_endpoint(file, "vim", config.vim, files)
        operator = api_endpoint(file, "operator", config.operator, files, optional=True)
        yield AgentWorld(
            store=partial(
                open_store,
                config.store.url or config.store.file,
                local_time,
                agent=config.name,
                clock=boot_clock,
                last=LastSession(),
            ),
            vim=_vim_client(config.vim, file, files) if config.vim.url else None,
            signals=receive_signals,
            link=link,
            vim_api=vim_api,
            operator=operator,
            processes=SystemProcesses,
            notifier=partial(
                open_notifier,
                config.notify,
                file,
                hostname=config.name,
                files=files,
                wall_clock=local_time,
            ),
            files=files,
            log=log,
            manager=ServiceManager.of(os.environ, os.getpid()),
            collecting=collected_until_told,
            clock=process_clock(),
            wall_clock=local_time,
            new_id=lambda: str(uuid.uuid4()),
        )


def _link(settings: LinkSettings, file: str, files: FileWatch) -> ApiEndpoint:
    endpoint, tls = Endpoint.parse(settings.listen), None
    if settings.certificate:
        tls = tls_of(f"{file}: link", "link", settings)
        files.add_tls(f"{file}: link", tls)
    return ApiEndpoint(str(endpoint), endpoint.listen, tls=tls)


def _vim_client(settings: VimSettings, file: str, files: FileWatch) -> VimClient:
    tls = None
    if settings.url.startswith("https:"):
        where = f"{file}: vim.url_authority"
        tls = client_files(where, authority=settings.url_authority, keys="vim.url_")
        files.add_tls(where, tls)
    return VimClient(settings.url, tls=tls, on_certificate=partial(files.note_peer, "the VIM"))
