"""Composes the agent: its store, its core, its APIs and the links of its hosts.

store, signals, listeners
  processes, notifier, keep-alive of the service manager
    agent         see hbtrio/nursery/agent/daemon.py
      VIM API, operator API
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AbstractContextManager, AsyncExitStack
from datetime import datetime
from functools import partial
from typing import Final

import attrs
import trio

from hbtrio.api.agent import agent_api, agent_api_away
from hbtrio.api.vim import vim_api, vim_api_away
from hbtrio.config.agent import AgentConfig
from hbtrio.config.endpoints import is_local
from hbtrio.daemons.serving import ApiEndpoint, DaemonLog, serve_api
from hbtrio.daemons.signals import Signals, until_term
from hbtrio.errors import ExitStatus, UserError
from hbtrio.nursery.agent.daemon import Agent, open_agent
from hbtrio.nursery.agent.subjects import FleetSubjects
from hbtrio.nursery.agent.vim_client import VimClient
from hbtrio.nursery.file_watch import FileWatch
from hbtrio.nursery.notifier import Notifier
from hbtrio.nursery.time_guard import GuardRunner, run_guard
from hbtrio.policy.backoff import Backoff
from hbtrio.policy.begin_by import ProcessClock
from hbtrio.store.faults import StoreLost
from hbtrio.store.store import Store
from hbtrio.system.runner import ProcessRunner
from hbtrio.system.sd_notify import ServiceManager

_log = logging.getLogger("hbtrio.agent")

#: Seconds between two attempts to open the database again, at first and at most; and how long it
#: has to stay for the next loss to begin with the first again.
_RETRY_S: Final = 0.2
_RETRY_MAX_S: Final = 5.0
_CALM_S: Final = 60.0

#: How an attempt fails that the next one may not: no server answers, one fails or is slow to
#: give a lease, or another session is just opening the database.
_PASSING: Final = (ExitStatus.UNREACHABLE, ExitStatus.FAILED, ExitStatus.IN_USE)


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

    If it loses its database, it ends all but its process, refuses votes and notices, and begins
    again with what it reads as soon as the database is back: as after a restart, since it can't
    know whether its last changes were committed.

    Args:
        config: its configuration.
        file: where that was read, for the log.
        world: what it reaches outside itself.

    Raises:
        UserError: the store can't be used, or an address can't be listened at; FAILED if it is
            unknown what is stored in a file, and FENCED if another agent has the database, which
            only a restart can get over.
    """
    async with AsyncExitStack() as stack:
        stop_collecting = stack.enter_context(world.collecting())
        session = await stack.enter_async_context(AsyncExitStack())
        store = await session.enter_async_context(world.store())
        # Before the sockets: whoever sees one may send TERM, and the end removes the sockets.
        signals = stack.enter_context(world.signals())
        processes = await stack.enter_async_context(world.processes())
        notifier = await stack.enter_async_context(world.notifier(processes))
        process = _Process(config, file, world, signals, notifier, stop_collecting)
        while True:
            began_at = trio.current_time()
            await process.serve(store)
            if not store.is_unsure:
                return
            if process.is_ended or not store.is_in_sessions:
                # Reports are kept by the hosts; a new start finds out what the disk has.
                status = ExitStatus.FENCED if store.is_fenced else ExitStatus.FAILED
                raise UserError(f"{config.store.place}: {store.fault}", status)
            if trio.current_time() - began_at >= _CALM_S:
                process.backoff.reset()
            _log.error(
                "store: %s; votes and notices are refused until the database is back", store.fault
            )
            await session.aclose()
            again = await process.open_again(session)
            if again is None:
                return
            store = again
            _log.info("store: the database is back")


@attrs.define(eq=False)
class _Process:
    """What remains of an agent when its database is lost.

    Args:
        config: its configuration.
        file: where that was read, for the log.
        world: what it reaches outside itself.
        signals: the signals as they arrive.
        notifier: tells whoever is on call.
        stop_collecting: ends garbage collection until the end of the process.
    """

    config: AgentConfig
    file: str
    world: AgentWorld
    signals: AsyncIterator[int]
    notifier: Notifier
    stop_collecting: Callable[[], None]
    #: Between two attempts to open the database again.
    backoff: Backoff = attrs.field(factory=lambda: Backoff(_RETRY_S, _RETRY_MAX_S))
    #: Whether a signal has ended it.
    is_ended: bool = False
    _agent: Agent | None = None

    async def serve(self, store: Store) -> None:
        """Serves with a store until a signal ends the process, or the store is unsure.

        Raises:
            StoreFault: the store can't be read at the start.
        """
        try:
            await self._serve(store)
        except (StoreLost, BaseExceptionGroup) as error:
            others = error.split(StoreLost)[1] if isinstance(error, BaseExceptionGroup) else None
            if others is not None or self._agent is None or not store.is_unsure:
                raise

    async def _serve(self, store: Store) -> None:
        config, world, manager = self.config, self.world, self.world.manager
        link_listeners = await world.link.listen()
        api_listeners = await world.operator.listen()
        vim_listeners = await world.vim_api.listen() if world.vim is not None else []
        running = open_agent(
            config,
            store,
            world.vim,
            auditor=world.vim,
            files=world.files,
            notifier=self.notifier,
            new_command_id=world.new_id,
            wall_clock=world.wall_clock,
            clock=world.clock,
            run_guard=world.run_guard,
        )
        # The APIs end first: what they have begun to answer needs all that is behind them.
        async with manager.keep_alive(), running as agent, trio.open_nursery() as apis:
            self._agent = agent
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
            await self._until_term()
            apis.cancel_scope.cancel()

    async def open_again(self, session: AsyncExitStack) -> Store | None:
        """Opens the store again, and answers meanwhile; None if a signal ends the process.

        Args:
            session: closes the store.

        Raises:
            UserError: FENCED if another agent has worked on the database; or whatever is refused
                for another reason than that it can't be reached.
        """
        world, agent = self.world, self._agent
        assert agent is not None
        store, refusal = None, None
        api_listeners = await world.operator.listen()
        vim_listeners = await world.vim_api.listen() if world.vim is not None else []
        async with world.manager.keep_alive(), trio.open_nursery() as apis:

            async def end_at_term() -> None:
                await self._until_term()
                apis.cancel_scope.cancel()

            apis.start_soon(end_at_term)
            serve = partial(serve_api, supervisor=agent.supervisor, log=_log)
            if world.vim is not None:
                vim_app = vim_api_away(token=world.vim_api.token)
                await apis.start(serve, "VIM", vim_app, vim_listeners, world.vim_api.tls)
            local = is_local(self.config.operator.listen)
            api = agent_api_away(agent, token=world.operator.token, local=local)
            await apis.start(serve, "operator", api, api_listeners, world.operator.tls)
            while store is None and refusal is None:
                await trio.sleep(self.backoff.next_delay_s())
                try:
                    store = await session.enter_async_context(world.store())
                except UserError as error:
                    if error.status not in _PASSING:
                        refusal = error
                    else:
                        _log.warning("store: %s", error)
            apis.cancel_scope.cancel()
        if refusal is not None:
            raise refusal
        return None if self.is_ended else store

    async def _until_term(self) -> None:
        async def hang_up() -> None:
            _log.warning("SIGHUP: %s is read at the start only, restart for it", self.file)

        await until_term(self.signals, hang_up)
        self.is_ended = True
        self.world.manager.stopping()
        _log.info("stopping")
        self.stop_collecting()
