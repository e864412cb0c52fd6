"""Runs on the controller: serves the VIM, commands the hosts and delivers what they report.

--log and --log-format override FILE. SIGTERM ends it; undelivered reports stay in the store.
"""

from __future__ import annotations

import argparse
import logging
import os
import platform
import signal
import uuid
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from functools import partial

import attrs
import trio

from hbtrio.api.agent import agent_api
from hbtrio.api.auth import OperatorAdmission, VimAdmission
from hbtrio.api.vim import vim_api
from hbtrio.cli.api_endpoint import ApiEndpoint, tls_of
from hbtrio.cli.notify import open_notifier
from hbtrio.config.agent import (
    DEFAULT_AGENT_CONFIG,
    AgentConfig,
    VimSettings,
)
from hbtrio.config.endpoints import is_local
from hbtrio.config.toml import load_toml
from hbtrio.errors import ExitStatus, UserError
from hbtrio.http.server import serve_http
from hbtrio.log import LogQueue, logging_to
from hbtrio.net.endpoints import Endpoint, Listener
from hbtrio.net.tls_files import TlsFiles, client_files
from hbtrio.nursery.agent.daemon import Agent, open_agent
from hbtrio.nursery.agent.subjects import FleetSubjects
from hbtrio.nursery.agent.vim_client import VimClient
from hbtrio.nursery.file_watch import FileWatch
from hbtrio.store.store import Store
from hbtrio.system.garbage import collected_until_told
from hbtrio.system.open_files import allow_descriptors
from hbtrio.system.runner import SystemProcesses
from hbtrio.system.sd_notify import ServiceManager

_log = logging.getLogger("hbtrio.agent")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options."""
    parser.add_argument(
        "--config", metavar="FILE", help=f"configuration (default {DEFAULT_AGENT_CONFIG})"
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
        UserError: the configuration, the store or an address can't be used.
    """
    if options.config is None:
        config = load_toml(DEFAULT_AGENT_CONFIG, AgentConfig, missing_ok=True)
    else:
        config = load_toml(options.config, AgentConfig)
    config = attrs.evolve(config, name=config.name or platform.node())
    allow_descriptors()
    with logging_to(
        options.log or config.log,
        ident="hbtrio-agent",
        log_format=options.log_format or config.log_format,
        level=config.log_level,
    ) as log:
        trio.run(_serve, config, str(options.config or DEFAULT_AGENT_CONFIG), log)
    return ExitStatus.DONE


def wall_clock() -> datetime:
    """The time with its zone."""
    return datetime.now(UTC).astimezone()


def _new_id() -> str:
    return str(uuid.uuid4())


async def _serve(config: AgentConfig, file: str, log: LogQueue) -> None:
    files = FileWatch(wall_clock)
    link = Endpoint.parse(config.link.listen)
    link_tls = None
    if config.link.certificate:
        link_tls = tls_of(f"{file}: link", "link", config.link)
        files.add_tls(f"{file}: link", link_tls)
    vim = ApiEndpoint.of(file, "vim", config.vim, files)
    operator = ApiEndpoint.of(file, "operator", config.operator, files, optional=True)
    client = _vim_client(config.vim, file, files) if config.vim.url else None
    manager = ServiceManager.of(os.environ, os.getpid())
    async with AsyncExitStack() as stack:
        stop_collecting = stack.enter_context(collected_until_told())
        store = await stack.enter_async_context(Store.open(config.store.file, wall_clock))
        if client is not None:
            await stack.enter_async_context(client)
        # Before the sockets: whoever sees one may send TERM, and the end removes the sockets.
        signals = stack.enter_context(
            trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
        )
        link_listeners = await link.listen()
        api_listeners = await operator.endpoint.listen(int(config.operator.mode, 8))
        vim_listeners = await vim.endpoint.listen() if client is not None else []
        processes = await stack.enter_async_context(SystemProcesses())
        notifier = await stack.enter_async_context(
            open_notifier(
                config.notify,
                file,
                hostname=config.name,
                files=files,
                processes=processes,
                wall_clock=wall_clock,
            )
        )
        running = open_agent(
            config,
            store,
            client,
            auditor=client,
            files=files,
            notifier=notifier,
            new_command_id=_new_id,
            wall_clock=wall_clock,
        )
        # The APIs end first: what they have begun to answer needs all that is behind them.
        async with manager.keep_alive(), running as agent, trio.open_nursery() as apis:
            log.find = FleetSubjects(agent.fleet).find

            async def end_when_unsure() -> None:
                await store.unsure()
                apis.cancel_scope.cancel()

            apis.start_soon(end_when_unsure)
            if client is not None:
                vim_app = vim_api(agent, token=vim.token)
                await apis.start(_serve_api, agent, "VIM", vim_app, vim_listeners, vim.tls)
            local = is_local(config.operator.listen)
            api = agent_api(agent, agent.actions, token=operator.token, local=local)
            await apis.start(_serve_api, agent, "operator", api, api_listeners, operator.tls)
            agent.links.listen(link_listeners, link_tls)
            manager.ready()
            _log.info(
                "agent %s: hosts at %s, %s, operators at %s",
                config.name,
                link,
                f"VIM at {vim.endpoint}" if client else "no VIM",
                operator.endpoint,
            )
            async for number in signals:
                if number != signal.SIGHUP:
                    break
                # Its default would end the agent in the middle of its deliveries.
                _log.warning("SIGHUP: %s is read at the start only, restart for it", file)
            manager.stopping()
            _log.info("stopping")
            stop_collecting()
            apis.cancel_scope.cancel()
        if store.is_unsure:
            # Reports are kept by the hosts; a new start finds out what the disk has.
            raise UserError(f"{config.store.file}: {store.fault}", ExitStatus.FAILED)


def _vim_client(settings: VimSettings, file: str, files: FileWatch) -> VimClient:
    tls = None
    if settings.url.startswith("https:"):
        where = f"{file}: vim.url_authority"
        tls = client_files(where, authority=settings.url_authority, keys="vim.url_")
        files.add_tls(where, tls)
    return VimClient(settings.url, tls=tls, on_certificate=partial(files.note_peer, "the VIM"))


async def _serve_api(
    agent: Agent,
    whose: str,
    api: OperatorAdmission | VimAdmission,
    listeners: list[Listener],
    tls: TlsFiles | None,
    *,
    task_status: trio.TaskStatus[None],
) -> None:
    def crashed(error: BaseException) -> None:
        agent.supervisor.count_crash()
        _log.error("%s API failed", whose, exc_info=error)

    await serve_http(
        api,
        listeners,
        tls=tls,
        classes=api.classes,
        on_crash=crashed,
        task_status=task_status,
    )
