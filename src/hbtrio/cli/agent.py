"""Runs on the controller: serves the VIM, commands the hosts and delivers what they report.

SIGTERM ends it; what is not delivered yet is kept.
"""

from __future__ import annotations

import argparse
import logging
import platform
import signal
import ssl
import uuid
from contextlib import AsyncExitStack
from datetime import UTC, datetime

import attrs
import trio

from hbtrio.config.agent import DEFAULT_AGENT_CONFIG, AgentConfig, load_agent_config
from hbtrio.errors import ExitStatus, UserError, os_reason
from hbtrio.log import logging_to
from hbtrio.nursery.agent import Agent
from hbtrio.nursery.agent_audit import Audit
from hbtrio.nursery.endpoints import CONNECT_S, Endpoint, Listener
from hbtrio.nursery.http_edge import serve_http
from hbtrio.nursery.store import Store
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
    with logging_to(options.log or config.log, ident="hbtrio-agent", level=config.log_level):
        trio.run(_serve, config)
    return ExitStatus.DONE


def wall_clock() -> datetime:
    """The time with its zone."""
    return datetime.now(UTC).astimezone()


async def _serve(config: AgentConfig) -> None:
    link = Endpoint.parse(config.link.listen)
    vim = Endpoint.parse(config.vim.listen)
    if not vim.is_local:
        raise UserError("agent.toml: vim.listen: other than loopback needs TLS and a token")
    tls = _tls(config)
    if tls is None and not link.is_local:
        raise UserError("agent.toml: link.listen: other than loopback needs mutual TLS")
    async with AsyncExitStack() as stack:
        store = await stack.enter_async_context(Store.open(config.store.file, wall_clock))
        client = None
        sender = None
        if config.vim.url:
            client = await stack.enter_async_context(VimClient(config.vim.url))
            sender = VimSender(store, client, wall_clock, config.vim.parallel)
        agent = Agent(
            config,
            store,
            sender,
            new_command_id=lambda: str(uuid.uuid4()),
            wall_clock=wall_clock,
        )
        link_listeners = await link.listen()
        vim_listeners = await vim.listen() if client is not None else []
        signals = stack.enter_context(trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT))
        async with trio.open_nursery() as nursery:
            await nursery.start(agent.run)
            if client is not None:
                nursery.start_soon(Audit(agent, client, config.vim.audit_s).run)
                await nursery.start(_serve_vim, agent, vim_listeners)
            nursery.start_soon(_serve_links, agent, link_listeners, tls)
            _log.info(
                "agent %s: hosts at %s, VIM at %s", config.name, link, vim if client else "none"
            )
            await anext(aiter(signals))
            _log.info("stopping")
            nursery.cancel_scope.cancel()


async def _serve_vim(
    agent: Agent, listeners: list[Listener], *, task_status: trio.TaskStatus[None]
) -> None:
    def crashed(error: BaseException) -> None:
        _log.error("VIM API failed", exc_info=error)

    await serve_http(vim_api(agent), listeners, on_crash=crashed, task_status=task_status)


async def _serve_links(agent: Agent, listeners: list[Listener], tls: ssl.SSLContext | None) -> None:
    async def serve(stream: trio.SocketStream) -> None:
        try:
            await agent.links.serve(stream if tls is None else await _shake_hands(stream, tls))
        except _NoHandshake as fault:
            _log.warning("link: TLS handshake failed: %s", fault)
        except Exception:  # noqa: BLE001 - one host's programming error is not the agent's end
            _log.exception("link failed")

    await trio.serve_listeners(serve, listeners)


class _NoHandshake(Exception):
    """Whoever dialled is no host of ours."""


async def _shake_hands(stream: trio.SocketStream, tls: ssl.SSLContext) -> trio.abc.Stream:
    wrapped = trio.SSLStream(stream, tls, server_side=True)
    try:
        with trio.fail_after(CONNECT_S):
            await wrapped.do_handshake()
    except (trio.BrokenResourceError, trio.TooSlowError) as error:
        await trio.aclose_forcefully(stream)
        raise _NoHandshake(str(error.__cause__ or "no answer in time")) from error
    return wrapped


def _tls(config: AgentConfig) -> ssl.SSLContext | None:
    link = config.link
    if not link.certificate:
        return None
    try:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=link.authority)
        context.load_cert_chain(link.certificate, link.key)
    except OSError as error:
        raise UserError(f"agent.toml: link: TLS: {os_reason(error)}") from error
    context.verify_mode = ssl.CERT_REQUIRED
    return context
