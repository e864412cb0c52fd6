"""The whole host daemon in the measured process: its APIs, metrics, events, memory and link.

It is composed by ``serve_host``, as ``hbtrio host`` is. What it talks to runs in processes of its
own: the agent's end of the link (:mod:`bench.link_sink`), and whoever reads its metrics
(:mod:`bench.scraper`).
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final
from unittest.mock import patch

import attrs
import trio

import hbtrio.daemons.host
from hbtrio.config.host import AgentLinkSettings, HostConfig, LibvirtSettings
from hbtrio.config.observe import ObserveSettings
from hbtrio.daemons.host import serve_host
from hbtrio.daemons.machine.host import open_host_world
from hbtrio.nursery.host.daemon import Host, open_host
from hbtrio.nursery.port import Dialer
from support.guest_farm import module_environment

_AGENT: Final = "agent.sock"
_OBSERVE: Final = "observe.sock"

#: How long the agent's end may take to listen, in seconds.
_PEER_START_S: Final = 20.0


class Scraper:
    """Reads the host's metrics from a process of its own."""

    def __init__(self, process: trio.Process) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._stdin = process.stdin
        self._stdout = process.stdout

    async def scrape(self) -> int:
        """Has them read once, and returns their size; 0 if the host gave none.

        Raises:
            RuntimeError: the scraper has ended.
        """
        await self._stdin.send_all(b"\n")
        answer = await self._stdout.receive_some()
        if not answer:
            raise RuntimeError("the scraper has ended")
        return int(answer)


@asynccontextmanager
async def open_peers(directory: Path) -> AsyncIterator[Scraper]:
    """The agent's end of the link and a reader of the metrics, for a host in this directory."""
    agent = directory / _AGENT
    async with _peer("bench.link_sink", agent), _peer("bench.scraper", directory / _OBSERVE) as one:
        with trio.fail_after(_PEER_START_S):
            while not agent.exists():  # noqa: ASYNC110 - another process sets no Event
                await trio.sleep(0.02)
        yield Scraper(one)


@asynccontextmanager
async def _peer(module: str, path: Path) -> AsyncIterator[trio.Process]:
    process = await trio.lowlevel.open_process(
        [sys.executable, "-m", module, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=module_environment(),
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield process
    finally:
        with trio.CancelScope(shield=True):
            await process.stdin.aclose()
            process.kill()
            await process.wait()
            await process.stdout.aclose()


@asynccontextmanager
async def open_full_host(directory: Path, channel_dir: str, dialer: Dialer) -> AsyncIterator[Host]:
    """A whole host with the peers of :func:`open_peers`; its log goes to standard error.

    Args:
        directory: for its files and sockets.
        channel_dir: where its channels are.
        dialer: connects to them.
    """
    (directory / "state").mkdir()
    config = HostConfig(
        hostname="bench",
        channel_dir=channel_dir,
        control_socket=str(directory / "control.sock"),
        state_dir=str(directory / "state"),
        events=str(directory / "events"),
        observe=ObserveSettings(listen=f"unix:{directory / _OBSERVE}"),
        agent=AgentLinkSettings(connect=f"unix:{directory / _AGENT}"),
        libvirt=LibvirtSettings(enabled="off"),
    )
    opened: list[Host] = []
    is_open = trio.Event()

    @asynccontextmanager
    async def noted(*arguments: Any) -> AsyncIterator[Host]:
        async with open_host(*arguments) as host:
            opened.append(host)
            is_open.set()
            yield host

    # serve_host lets nobody at its host, and a whole host is what it composes.
    with (
        open_host_world(config, "bench") as world,
        patch.object(hbtrio.daemons.host, "open_host", noted),
    ):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve_host, config, "bench", attrs.evolve(world, dialer=dialer))
            await is_open.wait()
            yield opened[0]
            nursery.cancel_scope.cancel()
