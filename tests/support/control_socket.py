"""The operator API of a host on a real unix socket, and `hbtrio ctl` in the same process.

Within one process what is written to a unix socket can be read in the same instant, so that the
autojump clock never jumps over an answer.
"""

from __future__ import annotations

import io
import os
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import attrs
import httpx
import trio

from hbtrio.api.control import ControlAccess
from hbtrio.api.host import host_api
from hbtrio.cli import Parser
from hbtrio.cli.ctl import arguments as ctl
from hbtrio.cli.ctl.commands import Session
from hbtrio.cli.ctl.screen import Screen
from hbtrio.client.address import Address
from hbtrio.client.client import CtlClient
from hbtrio.http.server import HttpLimits, serve_http
from hbtrio.net.unix_socket import open_unix_listener
from hbtrio.nursery.host.daemon import Host


@contextmanager
def socket_path() -> Iterator[str]:
    """Where a socket may be made; pytest's own folders have too long names for one."""
    with tempfile.TemporaryDirectory(prefix="hbt-") as folder:
        yield os.path.join(folder, "host.sock")


class Served:
    """A host's API that is being served."""

    def __init__(self, path: str, access: ControlAccess) -> None:
        self.path = path
        self.access = access
        #: Ended, it ends the API as the end of the daemon does.
        self.scope = trio.CancelScope()
        #: Programming errors that the API let out.
        self.crashes: list[BaseException] = []

    def client(self) -> httpx.AsyncClient:
        """A client without a timeout of its own."""
        return httpx.AsyncClient(
            transport=httpx.AsyncHTTPTransport(uds=self.path, verify=False),
            base_url="http://host",
            timeout=None,
            trust_env=False,
        )

    async def run(
        self, host: Host, limits: HttpLimits, *, task_status: trio.TaskStatus[None]
    ) -> None:
        listener = await open_unix_listener(self.path)
        api = host_api(host, self.access)
        with self.scope:
            await serve_http(
                api,
                [listener],
                limits=limits,
                classes=api.classes,
                on_crash=self.crashes.append,
                task_status=task_status,
            )


@asynccontextmanager
async def served(
    host: Host,
    limits: HttpLimits = HttpLimits(),  # noqa: B008 - frozen
    access: ControlAccess = ControlAccess(),  # noqa: B008 - frozen
) -> AsyncIterator[Served]:
    """The host's API on a unix socket; crashes that a test brings about it takes from the list."""
    with socket_path() as path:
        api = Served(path, access)
        async with trio.open_nursery() as nursery:
            await nursery.start(api.run, host, limits)
            yield api
            nursery.cancel_scope.cancel()
        assert api.crashes == []


@attrs.define
class Ctl:
    """One call of `hbtrio ctl`: what it has written, and its exit status once it has ended."""

    out: io.StringIO = attrs.field(factory=io.StringIO)
    status: int | None = None

    @property
    def text(self) -> str:
        return self.out.getvalue()

    @property
    def lines(self) -> list[str]:
        return self.text.splitlines()

    async def run(self, path: str, *words: str, terminal: bool = False, columns: int = 80) -> None:
        """Runs it until it ends; a UserError is the caller's."""
        parser = Parser(prog="hbtrio ctl")
        ctl.add_arguments(parser)
        options = parser.parse_args(["--url", f"unix:{path}", *words])
        screen = Screen(self.out, terminal=terminal, colour=False, columns=lambda: columns)
        self.status = await Session(CtlClient(Address.parse(options.url)), screen, options).run()


async def call(path: str, *words: str, terminal: bool = False, columns: int = 80) -> Ctl:
    """Calls `hbtrio ctl`, for at most a day."""
    called = Ctl()
    with trio.fail_after(86_400):
        await called.run(path, *words, terminal=terminal, columns=columns)
    return called
