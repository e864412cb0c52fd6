"""Measures an agent with many hosts: real processes, but for its VIM and the hosts at its links.

The hosts are scripted, in two processes. *Told* is from the first connection until the agent has
handled the last snapshot; *told again* the same after all links were cut at once. The VIM lists all
instances and is told their states, or knows none. One more link without instances asks for a pong
every 50 ms meanwhile.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final

import attrs
import trio

from bench.link_hosts import host_name, host_uuid, instance_uuid
from bench.measure import Measure
from bench.part import Part
from bench.progress import progress
from bench.sample import quantiles_ms
from hbtrio.lab.agent import LabAgent
from hbtrio.lab.fake_vim import FakeVim, fake_vim
from hbtrio.lab.launcher import Launcher
from hbtrio.lab.received import Received
from hbtrio.system.reaper_link import open_reaper_link
from hbtrio.wire.lines import LineReader
from hbtrio.wire.link_codec import MAX_LINK_LINE, decode_from_agent, encode_link
from hbtrio.wire.link_messages import Hello, Ping, Pong, SnapshotEnd
from support.guest_farm import module_environment

#: Processes of hosts, and how long one step may take, in seconds.
_PROCESSES: Final = 2
_STEP_S: Final = 180.0

#: Seconds between two audits: as configured by default.
_AUDIT_S: Final = 10

#: The idle part, and what comes before it: holds on alarms end 10 s after a cut.
_IDLE_S: Final = 30.0
_SETTLE_S: Final = 12.0

#: Changes of states that are timed.
_CHANGES: Final = 200

#: What the project aims for.
AIM_IDLE: Final = 3.0
AIM_TOLD_S: Final = 2.0
AIM_AGAIN_S: Final = 3.0

#: Seconds between two questions of the bystander, and between two of what the agent says of itself.
_ASK_S: Final = 0.05
_LOOK_S: Final = 0.25

_TICK_S: Final = 1 / os.sysconf("SC_CLK_TCK")


@attrs.frozen
class Load:
    """What the agent bears: ``unknown``: its VIM knows none of the instances."""

    hosts: int
    instances: int
    unknown: bool = False


class _HostProcess:
    """A process of :mod:`bench.link_hosts`."""

    def __init__(self, process: trio.Process) -> None:
        self._process = process
        self._lines = LineReader()

    async def do(self, *words: object) -> dict[str, Any]:
        """Has it obey a command; returns its answer."""
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        await process.stdin.send_all(" ".join(map(str, words)).encode() + b"\n")
        with trio.fail_after(_STEP_S):
            while data := await process.stdout.receive_some():
                for line in self._lines.feed(bytes(data)):
                    answer: dict[str, Any] = json.loads(line)
                    return answer
        raise SystemExit("a process of hosts has ended")


@asynccontextmanager
async def _host_processes(
    path: str, hosts: int, instances: int
) -> AsyncIterator[list[_HostProcess]]:
    async with trio.open_nursery() as nursery:
        started = []
        for first in range(0, hosts, -(-hosts // _PROCESSES)):
            count = min(-(-hosts // _PROCESSES), hosts - first)
            words = map(str, (path, first, count, instances))
            run = partial(
                trio.run_process,
                [sys.executable, "-m", "bench.link_hosts", *words],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env=module_environment(),
            )
            process: trio.Process = await nursery.start(run)
            started.append(_HostProcess(process))
        yield started
        nursery.cancel_scope.cancel()


class _Bystander:
    """A host without instances that asks for pongs; ``late_s`` are the times until they came."""

    def __init__(self, path: str) -> None:
        self.late_s: list[float] = []
        self._path = path

    async def run(self) -> None:
        """Asks until cancelled."""
        stream = await trio.open_unix_socket(self._path)
        hello = Hello(1, "bystander", "", "boot", "9.9.9", 0)
        await stream.send_all(encode_link(hello) + encode_link(SnapshotEnd(0)))
        lines, number = LineReader(MAX_LINK_LINE), 0
        while True:
            number += 1
            began = time.monotonic()
            await stream.send_all(encode_link(Ping(number)))
            await self._pong(stream, lines, number)
            self.late_s.append(time.monotonic() - began)
            await trio.sleep(_ASK_S)

    async def _pong(self, stream: trio.SocketStream, lines: LineReader, number: int) -> None:
        while data := await stream.receive_some():
            for line in lines.feed(bytes(data)):
                match decode_from_agent(line):
                    case Ping(number=asked):
                        await stream.send_all(encode_link(Pong(asked, time.monotonic())))
                    case Pong(number=answered) if answered == number:
                        return
        raise SystemExit("the agent has ended the bystander's link")


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * _TICK_S


def _resident_mib(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / (1 << 20)


class _Measured:
    """The agent with its hosts, and what is measured of it."""

    def __init__(
        self,
        agent: LabAgent,
        vim: FakeVim,
        hosts: list[_HostProcess],
        bystander: _Bystander,
        load: Load,
    ) -> None:
        self._agent = agent
        self._told = _Told(vim)
        self._hosts = hosts
        self._bystander = bystander
        self._load = load
        assert agent.daemon is not None
        self._pid = agent.daemon.pid

    async def measure(self) -> dict[str, Any]:
        """Takes all measurements, one after the other."""
        found: dict[str, Any] = {
            "hosts": self._load.hosts,
            "instances of each": self._load.instances,
            "known to the VIM": not self._load.unknown,
            "load": round(os.getloadavg()[0], 1),
            "RSS before, MiB": round(_resident_mib(self._pid)),
        }
        for name in ("told", "told again"):
            found |= await self._tell(name)
            await self._all("cut")
            await trio.sleep(1.0)
        found |= await self._tell("told once more")
        found |= await self._idle()
        if not self._load.unknown:
            found["a change until the VIM has it, ms"] = await self._changes()
        ends = await self._all("lost")
        found["links that the agent ended"] = sum(one["lost"] for one in ends)
        found["RSS, MiB"] = round(_resident_mib(self._pid))
        return found

    async def _all(self, *words: object) -> list[dict[str, Any]]:
        answers: list[dict[str, Any]] = []

        async def ask(process: _HostProcess) -> None:
            answers.append(await process.do(*words))

        async with trio.open_nursery() as nursery:
            for process in self._hosts:
                nursery.start_soon(ask, process)
        return answers

    async def _tell(self, name: str) -> dict[str, Any]:
        self._bystander.late_s.clear()
        before_s = _cpu_s(self._pid)
        answers = await self._all("dial")
        began = min(one["began"] for one in answers)
        used_s = _cpu_s(self._pid) - before_s
        told_s = max(one["told"] for one in answers) - began
        late_ms = [round(one) for one in quantiles_ms(self._bystander.late_s)]
        found = {
            f"{name} after, s": round(told_s, 2),
            f"{name}, CPU s": round(used_s, 2),
            f"{name}, us an instance": round(
                used_s / (self._load.hosts * max(1, self._load.instances)) * 1e6
            ),
            f"{name}, pong p50, p99, max, ms": late_ms,
        }
        if not self._load.unknown:
            await self._until_quiet()
            found[f"{name}: the VIM has all states after, s"] = round(time.monotonic() - began, 1)
            found[f"{name}: until then, CPU s"] = round(_cpu_s(self._pid) - before_s, 2)
            late_ms = [round(one) for one in quantiles_ms(self._bystander.late_s)]
            found[f"{name}: until then, pong p50, p99, max, ms"] = late_ms
        return found

    async def _until_quiet(self) -> None:
        """Waits until the VIM has been told of all instances once, and nothing waits."""
        wanted = self._load.hosts * self._load.instances
        with trio.fail_after(_STEP_S * 5):
            async with self._agent.client() as client:
                while True:
                    await trio.sleep(_LOOK_S)
                    if len(self._told) < wanted:
                        continue
                    status = await client.status(dict[str, Any])
                    if not status["agent"]["delivery"]["waiting"]:
                        return

    async def _idle(self) -> dict[str, Any]:
        await trio.sleep(_SETTLE_S)
        began, before_s = time.monotonic(), _cpu_s(self._pid)
        await trio.sleep(_IDLE_S)
        used = (_cpu_s(self._pid) - before_s) / (time.monotonic() - began)
        return {"idle, % of a core": round(100 * used, 1)}

    async def _changes(self) -> list[float]:
        late_s = []
        near = self._load.hosts // _PROCESSES
        for index in range(_CHANGES):
            self._told.clear()
            host, seconds = index % near, 200 + index // near
            sent = await self._hosts[0].do("change", host, seconds)
            with trio.fail_after(_STEP_S):
                await self._told.has(instance_uuid(host, 0))
            late_s.append(time.monotonic() - sent["at"])
            await trio.sleep(0.02)
        return [round(one, 1) for one in quantiles_ms(late_s)]


class _Told:
    """The instances whose states the VIM was told since the last :meth:`clear`."""

    def __init__(self, vim: FakeVim) -> None:
        self._vim = vim
        self._uuids: set[str] = set()
        vim.on_received = self._note

    def __len__(self) -> int:
        return len(self._uuids)

    def clear(self) -> None:
        """Forgets them."""
        self._uuids.clear()

    async def has(self, uuid: str) -> None:
        """Waits until one is among them."""
        await self._vim.wait_until(lambda: uuid in self._uuids)

    def _note(self, request: Received) -> None:
        if request.method == "PATCH":
            self._uuids.add(request.target.rpartition("/")[2])


def _know(vim: FakeVim, hosts: int, instances: int) -> None:
    for host in range(hosts):
        about = {"hostname": host_name(host)}
        vim.hosts[host_uuid(host)] = about | {"state": "enabled"}
        services = [{"service": "heartbeat", "state": "enabled", "restart-timeout": "120"}]
        vim.instances[host_uuid(host)] = [
            about | {"uuid": instance_uuid(host, one), "services": services}
            for one in range(instances)
        ]


async def measure(load: Load) -> dict[str, Any]:
    """Measures an agent under this load."""
    with tempfile.TemporaryDirectory(prefix="hbl.") as name:
        async with (
            fake_vim() as vim,
            open_reaper_link() as reaper,
            trio.open_nursery() as nursery,
        ):
            if not load.unknown:
                _know(vim, load.hosts, load.instances)
            with LabAgent(Path(name), Launcher(nursery, reaper), _AUDIT_S) as agent:
                try:
                    await agent.start(vim.url)
                    path = agent.link.removeprefix("unix:")
                    bystander = _Bystander(path)
                    async with _host_processes(path, load.hosts, load.instances) as hosts:
                        nursery.start_soon(bystander.run)
                        await trio.sleep(1.0)
                        return await _Measured(agent, vim, hosts, bystander, load).measure()
                finally:
                    nursery.cancel_scope.cancel()
                    with trio.CancelScope(shield=True):
                        await agent.stop()


def measures(found: Sequence[dict[str, Any]]) -> list[Measure]:
    """The lines of the summary: the first load has the goals, the others are to lose no link."""
    first, *others = found
    name = f"agent, {first['hosts']} links x {first['instances of each']} VMs"
    return [
        Measure.at_most(f"{name}: idle", first["idle, % of a core"], AIM_IDLE, "% of a core"),
        Measure.at_most(f"{name}: told, fresh", first["told after, s"], AIM_TOLD_S, "s"),
        Measure.at_most(f"{name}: after a cut", first["told again after, s"], AIM_AGAIN_S, "s"),
        *(
            Measure.at_most(
                f"agent, {one['hosts']} links: ended by it",
                one["links that the agent ended"],
                0,
                digits=0,
            )
            for one in (first, *others)
        ),
    ]


async def links(options: argparse.Namespace) -> Part:
    """An agent whose VIM knows all instances, and one with as many hosts as may be."""
    found = []
    for load in (
        Load(options.links, options.of_each),
        Load(options.most_links, options.of_each, unknown=True),
    ):
        progress(f"links: {load.hosts} x {load.instances}")
        found.append(await measure(load))
    text = "\n\n".join(
        "\n".join(f"{name}: {value}" for name, value in one.items()) for one in found
    )
    return Part("links", text, measures(found), found)
