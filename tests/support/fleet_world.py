"""An agent and one host in a world of their own, linked in memory, its operator API on sockets."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import trio
from trio.testing import MemoryReceiveStream, memory_stream_pair

from hbtrio.api.agent import agent_api
from hbtrio.config.agent import AgentConfig, VimSettings
from hbtrio.config.groups import GroupSettings
from hbtrio.config.host import AgentLinkSettings
from hbtrio.http.server import serve_http
from hbtrio.net.endpoints import Unreachable
from hbtrio.net.tls_files import TlsFiles
from hbtrio.net.unix_socket import open_unix_listener
from hbtrio.nursery.agent.daemon import Agent, open_agent
from hbtrio.nursery.host.agent_link import HostLink, Identity
from hbtrio.policy.begin_by import ProcessClock
from support.control_socket import socket_path
from support.host_world import HostWorld, host_world
from support.inline_store import InlineWorker, inline_store, wall_clock

TOKEN = "0123456789-operators-only"
HOST_UUID = "11111111-2222-3333-4444-555555555555"


class FleetApi:
    """An agent without a VIM, whose operator API is served.

    Args:
        agent: the agent.
        worker: its store's, to make it fail.
    """

    def __init__(self, agent: Agent, worker: InlineWorker) -> None:
        self.agent = agent
        self.worker = worker
        self.path = ""
        self.port = 0
        #: Programming errors that the API let out.
        self.crashes: list[BaseException] = []

    async def run(
        self,
        path: str,
        token: str,
        tls: TlsFiles | None,
        local: bool,
        *,
        task_status: trio.TaskStatus[None],
    ) -> None:
        self.path = path
        (tcp,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        self.port = tcp.socket.getsockname()[1]
        app = agent_api(
            self.agent, self.agent.actions, token=(lambda: token) if token else None, local=local
        )
        await serve_http(
            app,
            [tcp, await open_unix_listener(path)],
            tls=tls,
            classes=app.classes,
            on_crash=self.crashes.append,
            task_status=task_status,
        )

    @property
    def url(self) -> str:
        """Over TCP."""
        return f"http://127.0.0.1:{self.port}"

    def client(self, *, tcp: bool = False) -> httpx.AsyncClient:
        """A client without a timeout of its own."""
        return httpx.AsyncClient(
            transport=httpx.AsyncHTTPTransport(uds=None if tcp else self.path, verify=False),
            base_url=self.url if tcp else "http://agent",
            timeout=None,
            trust_env=False,
        )


@asynccontextmanager
async def fleet_api(
    folder: Path,
    *,
    token: str = TOKEN,
    tls: TlsFiles | None = None,
    local: bool = True,
    groups: Mapping[str, GroupSettings] | None = None,
) -> AsyncIterator[FleetApi]:
    """The API of an agent without hosts; a test takes the crashes it brings about from the list.

    Args:
        folder: where its store is.
        token: the operators'.
        tls: what connections over TCP are wrapped in.
        local: whether it takes itself for one that only this machine can reach.
        groups: its groups.
    """
    with inline_store(folder) as (store, worker), socket_path() as path:
        ids = itertools.count(1)
        running = open_agent(
            AgentConfig(name="controller", vim=VimSettings(url=""), groups=dict(groups or {})),
            store,
            None,
            new_command_id=lambda: f"command-{next(ids)}",
            wall_clock=wall_clock,
            clock=ProcessClock(trio.current_time, "agent-boot"),
        )
        async with running as agent, trio.open_nursery() as nursery:
            api = FleetApi(agent, worker)
            await nursery.start(api.run, path, token, tls, local)
            yield api
            nursery.cancel_scope.cancel()
        assert api.crashes == []


class FleetWorld:
    """An agent's API and a host that keeps a link to it.

    Args:
        api: the agent's.
        host: the host and its guests.
        nursery: runs the agent's ends of the link.
    """

    def __init__(self, api: FleetApi, host: HostWorld, nursery: trio.Nursery) -> None:
        self.api = api
        self.agent = api.agent
        self.host = host
        #: Whether the host can reach the agent.
        self.reachable = True
        self.link = HostLink(host.host, Identity("compute-0", HOST_UUID, "boot-1"), self._connect)
        self._nursery = nursery
        self._ends: list[MemoryReceiveStream] = []

    async def _connect(self) -> trio.abc.Stream:
        if not self.reachable:
            raise Unreachable("unix:/agent.link: connection refused")
        ours, theirs = memory_stream_pair()
        self._ends = [ours.receive_stream, theirs.receive_stream]
        self._nursery.start_soon(self.agent.links.serve, theirs)
        return ours

    async def cut(self) -> None:
        """The link breaks, and does not come back while ``reachable`` is False."""
        self.reachable = False
        for end in self._ends:
            end.put_eof()
        await self.host.settle()


@asynccontextmanager
async def fleet_world(
    folder: Path, *, agent_groups: Mapping[str, GroupSettings] | None = None, **config: Any
) -> AsyncIterator[FleetWorld]:
    """A linked host without guests, which runs any command; use it on an autojump clock.

    Args:
        folder: where the agent's store is.
        agent_groups: the agent's groups.
        config: the host's configuration.
    """
    config = {"agent": AgentLinkSettings(commands="any")} | config
    with trio.fail_after(10_000):  # streams have no end of their own
        async with (
            host_world(**config) as host,
            fleet_api(folder, groups=agent_groups) as api,
            trio.open_nursery() as nursery,
        ):
            world = FleetWorld(api, host, nursery)
            nursery.start_soon(world.link.run)
            await host.settle()
            yield world
            nursery.cancel_scope.cancel()
