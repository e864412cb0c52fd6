"""An agent and what surrounds it: on the fake clock in memory, or on real sockets and a real disk.

In memory the store does its work inline and the VIM is a transport that takes all it is given. On
sockets everything is what a controller runs, but for the VIM and the hosts.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import attrs
import trio
from trio.testing import wait_all_tasks_blocked

from hbtrio.api.agent import agent_api
from hbtrio.api.vim import vim_api
from hbtrio.config.agent import AgentConfig, LinkSettings, VimSettings
from hbtrio.config.groups import GroupSettings
from hbtrio.http.server import serve_http
from hbtrio.lab.fake_vim import FakeVim, fake_vim
from hbtrio.net.unix_socket import open_unix_listener
from hbtrio.nursery.agent.audit import Audit
from hbtrio.nursery.agent.daemon import Agent, open_agent
from hbtrio.nursery.agent.open_rounds import OpenedRound
from hbtrio.nursery.agent.vim_client import VimClient
from hbtrio.policy.begin_by import ProcessClock
from hbtrio.store.records import HostRecord, InstanceRecord
from hbtrio.store.store import Store
from hbtrio.wire.link_messages import VIM
from hbtrio.wire.vim import VimRequest
from hbtrio.wire.vim_result import MissingAnswer, NotSent, SendResult, Unconfirmed
from hbtrio.wire.vocabulary import Event
from support.control_socket import socket_path
from support.fake_time import FakeTime
from support.inline_store import InlineWorker, inline_store, wall_clock
from support.leaks import nothing_left
from support.scripted_host import HOSTNAME, VM, ScriptedHost

CLOSED = Unconfirmed(MissingAnswer.CLOSED)


class ScriptedVim:
    """A transport to a VIM that takes everything and says nothing, as the deployed one."""

    def __init__(self) -> None:
        #: When each body was sent, and what it says.
        self.got: list[tuple[float, dict[str, Any]]] = []
        #: What becomes of the next requests instead, each used once.
        self.next: list[SendResult] = []
        self._news = trio.Event()

    async def send(
        self, request: VimRequest, on_sending: Callable[[], Awaitable[None]]
    ) -> SendResult:
        await trio.lowlevel.checkpoint()
        if self.next:
            result = self.next.pop(0)
            if not isinstance(result, NotSent):
                await on_sending()
            return result
        await on_sending()
        self.got.append((round(trio.current_time(), 6), json.loads(request.body)))
        self._news.set()
        self._news = trio.Event()
        return CLOSED

    async def until(self, true: Callable[[], bool]) -> None:
        """Waits until this is true, which is asked again after each request."""
        while not true():
            await self._news.wait()

    def received(self, kind: str) -> list[tuple[float, Any]]:
        """Events of a type with when they came: what each is about."""
        return [
            (time, body["event-data"] if kind == "action" else body["event-data"]["services"][0])
            for time, body in self.got
            if body["event-type"] == kind
        ]

    @property
    def verdicts(self) -> list[tuple[float, str, str, str]]:
        """When each verdict came, what it was about, the answer and its reason."""
        return [
            (time, data["action"], data["guest-response"], data["reason"])
            for time, data in self.received("action")
        ]


@attrs.define
class AgentWorld(FakeTime):
    """An agent in memory."""

    agent: Agent
    store: Store
    worker: InlineWorker
    vim: ScriptedVim
    nursery: trio.Nursery

    async def host(self, host: ScriptedHost | None = None) -> ScriptedHost:
        """A host that has told all it has to tell, and was told."""
        host = ScriptedHost() if host is None else host
        await host.dial(self.agent.links, self.nursery)
        await wait_all_tasks_blocked()
        return host

    async def bound_host(
        self, *, reporting: bool = True, host: ScriptedHost | None = None
    ) -> ScriptedHost:
        """The same, with all its instances known to the VIM."""
        host = ScriptedHost() if host is None else host
        hello = host.hello
        await self.agent.inventory.put_host(HostRecord(hello.host_uuid, hello.hostname, reporting))
        for uuid in host.instances:
            await self.agent.inventory.put_instance(InstanceRecord(uuid, hello.hostname, reporting))
        return await self.host(host)

    async def ask(self, event: Event, *, vote: bool, uuid: str = VM) -> OpenedRound:
        """Asks as the VIM's API does, whose reply is written at once."""
        asked = await self.agent.rounds.ask(uuid, event, vote=vote, who=VIM)
        if asked.seconds:
            await self.agent.rounds.ends.replied(asked.command_id, uuid)
        return asked


@asynccontextmanager
async def agent_world(
    folder: Path,
    *,
    vim: bool = True,
    number: int = 0,
    groups: Mapping[str, GroupSettings] | None = None,
    vim_next: Sequence[SendResult] = (),
    **link: float,
) -> AsyncIterator[AgentWorld]:
    """A running agent on the fake clock; begun again in the same folder it is a restarted one.

    Args:
        folder: where its store is.
        vim: whether there is a VIM.
        number: makes the ids of its commands; another for each start.
        groups: those of the configuration.
        vim_next: what becomes of the first requests to the VIM.
        link: keys of the configuration's ``[link]``.
    """
    ids = itertools.count(1)
    with inline_store(folder) as (store, worker):
        fake = ScriptedVim()
        fake.next = list(vim_next)
        running = open_agent(
            AgentConfig(
                name="controller-0",
                link=LinkSettings(**link),  # type: ignore[arg-type]
                groups=groups or {},
            ),
            store,
            fake if vim else None,
            new_command_id=lambda: f"command-{number}-{next(ids)}",
            wall_clock=wall_clock,
            clock=ProcessClock(trio.current_time, "agent-boot"),
        )
        async with nothing_left(), running as agent, trio.open_nursery() as nursery:
            await wait_all_tasks_blocked()
            yield AgentWorld(agent, store, worker, fake, nursery)
            nursery.cancel_scope.cancel()
        assert agent.supervisor.crashes == 0


@asynccontextmanager
async def operators_api(on: AgentWorld) -> AsyncIterator[str]:
    """The path of the operator API of an agent."""
    crashes: list[BaseException] = []
    with socket_path() as path:
        listener = await open_unix_listener(path)

        async def serve(*, task_status: trio.TaskStatus[None]) -> None:
            app = agent_api(on.agent, on.agent.actions)
            await serve_http(
                app,
                [listener],
                classes=app.classes,
                on_crash=crashes.append,
                task_status=task_status,
            )

        await on.nursery.start(serve)
        yield path
    assert crashes == []


# -- on sockets ------------------------------------------------------------------------------------


@attrs.frozen
class Answer:
    """What the agent answered: its bytes, and the parts of them."""

    raw: bytes

    @property
    def status_line(self) -> str:
        return self.raw.partition(b"\r\n")[0].decode()

    @property
    def status(self) -> int:
        return int(self.status_line.split(" ")[1])

    @property
    def body(self) -> bytes:
        return self.raw.partition(b"\r\n\r\n")[2]

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def request_bytes(
    method: str,
    path: str,
    body: bytes | Any = b"",
    *,
    agent: str | None = "vim/1.0",
    version: str = "1.1",
    headers: tuple[str, ...] = (),
) -> bytes:
    """A request as the VIM writes it; an ``agent`` of None leaves its header out."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = [f"{method} {path} HTTP/{version}", "Host: 127.0.0.1:2410", "Connection: close"]
    if agent is not None:
        lines.append(f"User-Agent: {agent}")
    if data:
        lines += ["Content-Type: application/json", f"Content-Length: {len(data)}"]
    lines += headers
    return "\r\n".join([*lines, "", ""]).encode() + data


@attrs.define
class SocketAgentWorld:
    """An agent as a controller runs it."""

    agent: Agent
    store: Store
    vim: FakeVim
    port: int
    nursery: trio.Nursery
    crashes: list[BaseException]

    async def exchange(self, raw: bytes) -> Answer:
        """Sends these bytes and reads until the agent closes."""
        with trio.fail_after(20):
            stream = await trio.open_tcp_stream("127.0.0.1", self.port)
            async with stream:
                await stream.send_all(raw)
                return Answer(b"".join([bytes(data) async for data in stream]))

    async def request(self, method: str, path: str, body: Any = b"", **how: Any) -> Answer:
        """One request of the VIM."""
        return await self.exchange(request_bytes(method, path, body, **how))

    async def host(self, host: ScriptedHost | None = None) -> ScriptedHost:
        """A host that has told all that it has to tell."""
        host = ScriptedHost() if host is None else host
        with trio.fail_after(20):
            await host.dial(self.agent.links, self.nursery)
        return host

    async def bound_host(
        self, *, reporting: str = "enabled", host: ScriptedHost | None = None
    ) -> ScriptedHost:
        """The same, with the host and its instances told of by the VIM."""
        host = await self.host(host)
        name, uuid = host.hello.hostname, host.hello.host_uuid
        about = {"uuid": uuid, "hostname": name}
        assert (await self.request("POST", f"/v1/hosts/{uuid}", about)).status == 200
        verb = reporting.removesuffix("d")
        assert (await self.request("PUT", f"/v1/hosts/{uuid}/{verb}", about)).status == 200
        for vm in host.instances:
            await self.tell_of(vm, name, reporting)
        return host

    async def tell_of(
        self, uuid: str = VM, hostname: str = HOSTNAME, state: str = "enabled"
    ) -> None:
        """The VIM tells of an instance, and whether it wants to hear of its losses."""
        path, about = f"/v1/instances/{uuid}", {"uuid": uuid, "hostname": hostname}
        new = about | {"services": ["heartbeat"]}
        assert (await self.request("POST", path, new)).status == 200
        change = about | {"services": [{"service": "heartbeat", "state": state}]}
        assert (await self.request("PATCH", path, change)).status == 200

    async def ask(self, verb: str, event: str, uuid: str = VM) -> Answer:
        """A vote or notice of the VIM."""
        body = {"uuid": uuid, "hostname": HOSTNAME, "action": event}
        return await self.request("POST", f"/v1/instances/{uuid}/{verb}", body)

    async def verdicts(self, count: int) -> list[tuple[str, str, str]]:
        """Waits for so many verdicts: what each was about, the answer and its reason."""
        with trio.fail_after(20):
            await self.vim.wait_until(lambda: len(self.vim.patches("action")) >= count)
        return [
            (data["action"], data["guest-response"], data["reason"])
            for data in (body["event-data"] for body in self.vim.patches("action"))
        ]

    async def received(self, kind: str, count: int) -> list[dict[str, Any]]:
        """Waits for so many events of this type at the VIM and returns their bodies."""
        with trio.fail_after(20):
            await self.vim.wait_until(lambda: len(self.vim.patches(kind)) >= count)
        return self.vim.patches(kind)


@asynccontextmanager
async def socket_agent_world(
    folder: Path,
    *,
    vim: FakeVim | None = None,
    audit_s: float | None = None,
    timeouts: dict[str, float] | None = None,
    token: str = "",
) -> AsyncIterator[SocketAgentWorld]:
    """A running agent on loopback sockets, with its store in a file, and a VIM.

    Args:
        folder: where its store is.
        vim: the VIM, if the test has one already.
        audit_s: how often the VIM is asked; without it, never.
        timeouts: of the client to the VIM.
        token: the VIM's.
    """
    async with AsyncExitStack() as stack:
        if vim is None:
            # A VIM of the test's own may come up meanwhile, and stay.
            await stack.enter_async_context(nothing_left())
            vim = await stack.enter_async_context(fake_vim())
        now = wall_time
        store = await stack.enter_async_context(Store.open(str(folder / "agent.db"), now))
        client = VimClient(vim.url, **(timeouts or {}))  # type: ignore[arg-type]
        ids = itertools.count(1)
        started = now().timestamp()
        running = open_agent(
            AgentConfig(name="controller-0", vim=VimSettings(url=vim.url)),
            store,
            client,
            new_command_id=lambda: f"command-{started}-{next(ids)}",
            wall_clock=now,
        )
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        crashes: list[BaseException] = []

        async with running as agent, trio.open_nursery() as nursery:

            async def serve(*, task_status: trio.TaskStatus[None]) -> None:
                app = vim_api(agent, token=(lambda: token) if token else None)
                await serve_http(
                    app,
                    listeners,
                    classes=app.classes,
                    on_crash=crashes.append,
                    task_status=task_status,
                )

            await nursery.start(serve)
            if audit_s is not None:
                audit = Audit(agent.fleet, agent.inventory, agent.states, client, audit_s)
                nursery.start_soon(audit.run)
            port = listeners[0].socket.getsockname()[1]
            yield SocketAgentWorld(agent, store, vim, port, nursery, crashes)
            nursery.cancel_scope.cancel()
        assert crashes == []
        assert agent.supervisor.crashes == 0


def wall_time() -> datetime:
    return datetime.now(UTC)
