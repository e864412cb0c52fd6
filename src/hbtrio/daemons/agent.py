"""Composes the agent: its store, its core, its APIs and the links of its hosts.

store, signals, listeners
  processes, notifier, keep-alive of the service manager
    agent         see hbtrio/nursery/agent/daemon.py
      VIM API, operator API
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, AbstractContextManager, AsyncExitStack
from datetime import datetime
from functools import partial

import attrs
import trio

from hbtrio.api.agent import agent_api
from hbtrio.api.vim import vim_api
from hbtrio.config.agent import AgentConfig
from hbtrio.config.endpoints import is_local
from hbtrio.daemons.serving import ApiEndpoint, DaemonLog, serve_api
from hbtrio.daemons.signals import Signals, until_term
from hbtrio.errors import ExitStatus, UserError
from hbtrio.nursery.agent.daemon import open_agent
from hbtrio.nursery.agent.subjects import FleetSubjects
from hbtrio.nursery.agent.vim_client import VimClient
from hbtrio.nursery.file_watch import FileWatch
from hbtrio.nursery.notifier import Notifier
from hbtrio.nursery.time_guard import GuardRunner, run_guard
from hbtrio.policy.begin_by import ProcessClock
from hbtrio.store.store import Store
from hbtrio.system.runner import ProcessRunner
from hbtrio.system.sd_notify import ServiceManager

_log = logging.getLogger("hbtrio.agent")


@attrs.frozen(kw_only=True)
class AgentWorld:
    """What an agent reaches outside itself.

    Args:
        store: opens the store; raises UserError.
        vim: sends requests to the VIM; None: there is no VIM.
        signals: receives the signals.
        link: where the hosts connect.
        vim_api: where the VIM connects; only with a VIM.
        operator: where operators connect.
        processes: opens what runs commands.
        notifier: opens what tells whoever is on call, with what runs commands.
        files: the certificates and tokens in use.
        log: where the log goes.
        manager: the service manager.
        collecting: yields a function that ends garbage collection until the end of the block.
        clock: by which requests and commands expire.
        wall_clock: the current time with its zone.
        run_guard: ticks the on-time guard.
        new_id: makes ids that are never reused.
    """

    store: Callable[[], AbstractAsyncContextManager[Store]]
    vim: VimClient | None
    signals: Signals
    link: ApiEndpoint
    vim_api: ApiEndpoint
    operator: ApiEndpoint
    processes: Callable[[], AbstractAsyncContextManager[ProcessRunner]]
    notifier: Callable[[ProcessRunner], AbstractAsyncContextManager[Notifier]]
    files: FileWatch
    log: DaemonLog
    manager: ServiceManager
    collecting: Callable[[], AbstractContextManager[Callable[[], None]]]
    clock: ProcessClock
    wall_clock: Callable[[], datetime]
    run_guard: GuardRunner = run_guard
    new_id: Callable[[], str]


async def serve_agent(config: AgentConfig, file: str, world: AgentWorld) -> None:
    """Runs an agent until a signal ends it.

    Args:
        config: its configuration.
        file: where that was read, for the log.
        world: what it reaches outside itself.

    Raises:
        UserError: the store can't be used, or an address can't be listened at; FAILED if it is
            unknown what is stored, and FENCED if another agent may use the store, which only a
            restart can get over.
    """
    manager = world.manager
    async with AsyncExitStack() as stack:
        stop_collecting = stack.enter_context(world.collecting())
        store = await stack.enter_async_context(world.store())
        # Before the sockets: whoever sees one may send TERM, and the end removes the sockets.
        signals = stack.enter_context(world.signals())
        link_listeners = await world.link.listen()
        api_listeners = await world.operator.listen()
        vim_listeners = await world.vim_api.listen() if world.vim is not None else []
        processes = await stack.enter_async_context(world.processes())
        notifier = await stack.enter_async_context(world.notifier(processes))
        running = open_agent(
            config,
            store,
            world.vim,
            auditor=world.vim,
            files=world.files,
            notifier=notifier,
            new_command_id=world.new_id,
            wall_clock=world.wall_clock,
            clock=world.clock,
            run_guard=world.run_guard,
        )
        # The APIs end first: what they have begun to answer needs all that is behind them.
        async with manager.keep_alive(), running as agent, trio.open_nursery() as apis:
            world.log.find = FleetSubjects(agent.fleet).find

            async def end_when_unsure() -> None:
                await store.unsure()
                apis.cancel_scope.cancel()

            apis.start_soon(end_when_unsure)
            serve = partial(serve_api, supervisor=agent.supervisor, log=_log)
            if world.vim is not None:
                vim_app = vim_api(agent, token=world.vim_api.token)
                tls = world.vim_api.tls
                await apis.start(serve, "VIM", vim_app, vim_listeners, tls)
            local = is_local(config.operator.listen)
            api = agent_api(agent, agent.actions, token=world.operator.token, local=local)
            tls = world.operator.tls
            await apis.start(serve, "operator", api, api_listeners, tls)
            agent.links.listen(link_listeners, world.link.tls)
            manager.ready()
            _log.info(
                "agent %s: hosts at %s, %s, operators at %s",
                config.name,
                world.link.address,
                f"VIM at {world.vim_api.address}" if world.vim is not None else "no VIM",
                world.operator.address,
            )

            async def hang_up() -> None:
                _log.warning("SIGHUP: %s is read at the start only, restart for it", file)

            await until_term(signals, hang_up)
            manager.stopping()
            _log.info("stopping")
            stop_collecting()
            apis.cancel_scope.cancel()
        if store.is_unsure:
            # Reports are kept by the hosts; a new start finds out what the disk has.
            status = ExitStatus.FENCED if store.is_fenced else ExitStatus.FAILED
            raise UserError(f"{config.store.place}: {store.fault}", status)
