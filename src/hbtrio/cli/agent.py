"""Runs on the controller: serves the VIM, commands the hosts and delivers what they report.

SIGTERM ends it; what is not delivered yet is kept.
"""

from __future__ import annotations

import argparse
import logging
import platform
import resource
import signal
import ssl
import uuid
from contextlib import AsyncExitStack
from datetime import UTC, datetime

import attrs
import trio
from starlette.types import ASGIApp

from hbtrio.config.agent import DEFAULT_AGENT_CONFIG, AgentConfig, load_agent_config
from hbtrio.errors import ExitStatus
from hbtrio.log import logging_to
from hbtrio.nursery.agent import Agent
from hbtrio.nursery.agent_actions import AgentActions
from hbtrio.nursery.agent_api import agent_api
from hbtrio.nursery.agent_audit import Audit
from hbtrio.nursery.endpoints import Endpoint, Listener
from hbtrio.nursery.http_edge import serve_http
from hbtrio.nursery.link_tls import server_tls
from hbtrio.nursery.store import Store
from hbtrio.nursery.token_file import read_token
from hbtrio.nursery.vim_api import vim_api
from hbtrio.nursery.vim_client import VimClient
from hbtrio.nursery.vim_sender import VimSender

_log = logging.getLogger("hbtrio.agent")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options."""
    parser.add_argument(
        "--config", metavar="FILE", help=f"configuration (default {DEFAULT_AGENT_CONFIG})"
    )
    parser.add_argument("--log", choices=("stderr", "syslog"))


def run(options: argparse.Namespace) -> int:
    """Runs the daemon until SIGTERM or SIGINT.

    Raises:
        UserError: the configuration, the store or an address can't be used.
    """
    if options.config is None:
        config = load_agent_config(missing_ok=True)
    else:
        config = load_agent_config(options.config)
    config = attrs.evolve(config, name=config.name or platform.node())
    # Each host has a link; as many as the system lets us.
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with logging_to(options.log or config.log, ident="hbtrio-agent", level=config.log_level):
        trio.run(_serve, config)
    return ExitStatus.DONE


def wall_clock() -> datetime:
    """The time with its zone."""
    return datetime.now(UTC).astimezone()


def _new_id() -> str:
    return str(uuid.uuid4())


async def _serve(config: AgentConfig) -> None:
    link = Endpoint.parse(config.link.listen)
    vim = Endpoint.parse(config.vim.listen)
    files = config.link
    tls = server_tls("agent.toml: link", files.certificate, files.key, files.authority)
    operator = Endpoint.parse(config.operator.listen)
    token = read_token(config.operator.token_file) if config.operator.token_file else ""
    async with AsyncExitStack() as stack:
        store = await stack.enter_async_context(Store.open(config.store.file, wall_clock))
        client = None
        sender = None
        if config.vim.url:
            client = await stack.enter_async_context(VimClient(config.vim.url))
            sender = VimSender(store, client, wall_clock)
        agent = Agent(
            config,
            store,
            sender,
            new_command_id=_new_id,
            wall_clock=wall_clock,
        )
        actions = AgentActions(agent, new_command_id=_new_id, wall_clock=wall_clock)
        link_listeners = await link.listen()
        api_listeners = await operator.listen(int(config.operator.mode, 8))
        vim_listeners = await vim.listen() if client is not None else []
        signals = stack.enter_context(
            trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
        )
        async with trio.open_nursery() as nursery:
            await nursery.start(agent.run)
            if client is not None:
                audit = Audit(agent, client, config.vim.audit_s)
                nursery.start_soon(agent.supervisor.keep, "audit", audit.run)
                await nursery.start(_serve_api, agent, "VIM", vim_api(agent), vim_listeners)
            await nursery.start(actions.run)
            api = agent_api(agent, actions, token=token)
            await nursery.start(_serve_api, agent, "operator", api, api_listeners)
            nursery.start_soon(_serve_links, agent, link_listeners, tls)
            _log.info(
                "agent %s: hosts at %s, VIM at %s, operators at %s",
                config.name,
                link,
                vim if client else "none",
                operator,
            )
            async for number in signals:
                if number != signal.SIGHUP:
                    break
                # Its default would end the agent in the middle of its deliveries.
                _log.warning("SIGHUP: agent.toml is read at the start only, restart for it")
            _log.info("stopping")
            nursery.cancel_scope.cancel()


async def _serve_api(
    agent: Agent,
    whose: str,
    api: ASGIApp,
    listeners: list[Listener],
    *,
    task_status: trio.TaskStatus[None],
) -> None:
    def crashed(error: BaseException) -> None:
        agent.supervisor.crashes += 1
        _log.error("%s API failed", whose, exc_info=error)

    await serve_http(api, listeners, on_crash=crashed, task_status=task_status)


async def _serve_links(agent: Agent, listeners: list[Listener], tls: ssl.SSLContext | None) -> None:
    async def serve(stream: trio.SocketStream) -> None:
        try:
            # The handshake is made with the first read, within the time that a host has to say who
            # it is.
            wrapped = stream if tls is None else trio.SSLStream(stream, tls, server_side=True)
            await agent.links.serve(wrapped)
        except Exception:  # noqa: BLE001 - one host's programming error is not the agent's end
            agent.supervisor.crashes += 1
            _log.exception("link failed")

    await trio.serve_listeners(serve, listeners)
