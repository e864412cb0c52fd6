"""A real ``hbtrio agent`` process, alone: what is around it the test plays itself."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import trio

from hbtrio.lab.daemon import Daemon
from hbtrio.lab.fake_vim import FakeVim, fake_vim
from hbtrio.lab.launcher import until_it_serves, write_toml
from support.agent_world import Answer, request_bytes
from support.free_ports import free_port
from support.real_processes import SOON_S
from support.scripted_host import ScriptedHost

TOKEN = "0123456789-operators-only"


@attrs.frozen(eq=False)
class RealAgent:
    """An agent whose two APIs are served on ports of the loopback."""

    daemon: Daemon
    vim: FakeVim
    vim_port: int
    operator_port: int
    directory: Path
    nursery: trio.Nursery

    @property
    def log(self) -> str:
        """All that it has logged."""
        return self.daemon.log.read_text()

    async def exchange(self, port: int, raw: bytes) -> Answer:
        """Sends these bytes to one of its ports and reads until it closes."""
        with trio.fail_after(SOON_S):
            async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
                await stream.send_all(raw)
                return Answer(b"".join([bytes(data) async for data in stream]))

    async def ask(self, method: str, path: str, body: Any = b"", **how: Any) -> Answer:
        """One request of the VIM."""
        return await self.exchange(self.vim_port, request_bytes(method, path, body, **how))

    async def operate(self, method: str, path: str, body: Any = b"") -> Any:
        """One request of an operator; what was answered, decoded."""
        raw = request_bytes(method, path, body, headers=(f"Authorization: Bearer {TOKEN}",))
        answer = await self.exchange(self.operator_port, raw)
        assert answer.status == 200, answer.raw
        return answer.json

    async def host(self, host: ScriptedHost | None = None) -> ScriptedHost:
        """A host that has dialled in and told all that it has to tell."""
        host = ScriptedHost() if host is None else host
        with trio.fail_after(SOON_S):
            stream = await trio.open_unix_socket(str(self.directory / "link"))
            await host.begin(stream, self.nursery)
        return host


@asynccontextmanager
async def real_agent(
    directory: Path,
    *,
    name: str = "controller-0",
    url: str = "",
    log_level: str = "info",
    audit_s: int = 3600,
    grace_s: float = 30.0,
) -> AsyncIterator[RealAgent]:
    """A running agent, its store and its log in that directory; killed at the end if it runs.

    With a URL its store is there.
    """
    config, ports = directory / "agent.toml", (free_port(), free_port())
    token = directory / "token"
    token.touch(0o600)
    token.write_text(TOKEN)
    async with fake_vim() as vim, trio.open_nursery() as nursery:
        write_toml(
            config,
            {
                "name": name,
                "log_level": log_level,
                "vim": {
                    "listen": f"tcp:127.0.0.1:{ports[0]}",
                    "url": vim.url,
                    "audit_s": audit_s,
                },
                "link": {"listen": f"unix:{directory}/link", "grace_s": grace_s},
                "operator": {"listen": f"tcp:127.0.0.1:{ports[1]}", "token_file": str(token)},
                "store": {"url": url} if url else {"file": str(directory / "agent.db")},
            },
        )
        arguments = ["agent", "--config", str(config)]
        daemon = await Daemon.start("the agent", arguments, directory / "agent.log")
        try:
            for place in (directory / "link", *ports):
                await until_it_serves(daemon, place)
            yield RealAgent(daemon, vim, *ports, directory, nursery)
        finally:
            if daemon.status is None:
                with trio.CancelScope(shield=True):
                    await daemon.kill()
        nursery.cancel_scope.cancel()
