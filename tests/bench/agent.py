"""The agent between a VIM and a host with its guests: all real processes but for the VIM.

    VIM (votes.py, queries.py, storm.py) <--HTTP-- agent <--link-- host <--channels-- guests

The guests are a farm's, which answer at once; one more is a real ``hbtrio guest`` behind the lab's
bridge. It has no event script and so answers at once too.
"""

from __future__ import annotations

import argparse
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import attrs
import trio

from bench.agent_report import FARMED, FLOOR, REAL, Queries, Votes, votes_measures, votes_text
from bench.part import Part
from bench.process import module, open_measured
from bench.progress import progress
from bench.storm import Storm
from bench.vim_wire import PATIENCE_S, Target
from hbtrio.lab.agent import LabAgent
from hbtrio.lab.fake_vim import fake_vim, loopback_socket
from hbtrio.lab.launcher import Launcher
from hbtrio.lab.scene import Scene, event, open_scene
from hbtrio.lab.vim_server import Mood
from hbtrio.system.reaper_link import open_reaper_link
from support.agent_world import Answer, request_bytes
from support.guest_farm import GuestFarm, module_environment, open_guest_farm, uuid_of
from support.guest_farm_process import channel_name

_HOSTNAME: Final = "compute-0"
_HOST_UUID: Final = "11111111-2222-3333-4444-555555555555"

#: For how long they are asked about: beyond the VIM's first silences, which end after 10 s.
_QUERIES_S: Final = 15.0

#: Requests in progress at once when the agent is told of instances.
_TELLERS: Final = 16

_START_S: Final = 60.0

#: How long the VIM's process may take for all its votes and what is known before, in seconds.
_VOTES_S: Final = 300.0


class _Controller:
    """An agent, and a host that has dialled in."""

    def __init__(self, scene: Scene, farm: GuestFarm, agent: LabAgent) -> None:
        self.scene = scene
        self.farm = farm
        self.agent = agent

    async def know(self, uuids: Sequence[str]) -> None:
        """Tells of instances as the VIM does and waits until the agent knows that they beat."""
        about = {"uuid": _HOST_UUID, "hostname": _HOSTNAME}
        await self._request("POST", f"/v1/hosts/{_HOST_UUID}", about)
        await self._request("PUT", f"/v1/hosts/{_HOST_UUID}/enable", about)
        waiting = iter(uuids)

        async def tell() -> None:
            for uuid in waiting:
                path, about = f"/v1/instances/{uuid}", {"uuid": uuid, "hostname": _HOSTNAME}
                await self._request("POST", path, about | {"services": ["heartbeat"]})
                service = {"service": "heartbeat", "state": "enabled"}
                await self._request("PATCH", path, about | {"services": [service]})

        async with trio.open_nursery() as nursery:
            for _ in range(_TELLERS):
                nursery.start_soon(tell)
        with trio.fail_after(_START_S):
            while (await self.told())["heartbeating"] < len(uuids):  # noqa: ASYNC110
                await trio.sleep(0.1)

    async def told(self) -> dict[str, Any]:
        """What the agent tells of itself."""
        async with self.agent.client() as client:
            status = await client.status(dict[str, Any])
        about: dict[str, Any] = status["agent"]
        return about

    async def _request(self, method: str, path: str, body: object) -> None:
        with trio.fail_after(PATIENCE_S):
            stream = await trio.open_tcp_stream("127.0.0.1", self.agent.vim_port)
            async with stream:
                await stream.send_all(request_bytes(method, path, body))
                answer = Answer(b"".join([bytes(data) async for data in stream]))
        if answer.status != 200:
            raise SystemExit(f"{method} {path}: {answer.raw!r}")


@asynccontextmanager
async def _controller(vim_url: str) -> AsyncIterator[_Controller]:
    async with (
        open_scene() as scene,
        open_reaper_link() as reaper,
        trio.open_nursery() as nursery,
    ):
        launcher = Launcher(nursery, reaper)
        with LabAgent(scene.directory, launcher) as agent:
            try:
                await agent.start(vim_url)
                scene.settings |= {
                    "hostname": _HOSTNAME,
                    "agent": {"connect": agent.link, "host_uuid": _HOST_UUID},
                }
                await scene.start_host()
                async with open_guest_farm(scene.channel_dir) as farm:
                    yield _Controller(scene, farm, agent)
            finally:
                with trio.CancelScope(shield=True):
                    await agent.stop()


@asynccontextmanager
async def _floor(directory: Path, vim_port: int) -> AsyncIterator[tuple[Target, GuestFarm]]:
    """The relays and a guest for them, out of reach of the host."""
    folder, link = directory / "floor", directory / "floor.link"
    folder.mkdir()
    with loopback_socket() as place:
        port: int = place.getsockname()[1]
        async with open_guest_farm(folder) as farm, trio.open_nursery() as nursery:
            await farm.listen(1)
            nursery.start_soon(_run, "agent", link, port, vim_port)
            while not link.exists():  # noqa: ASYNC110 - another process sets no Event
                await trio.sleep(0.02)
            channel = folder / channel_name(0)
            nursery.start_soon(_run, "host", link, channel)
            yield Target(FLOOR, port, uuid_of(0)), farm
            nursery.cancel_scope.cancel()


async def _run(*arguments: object) -> None:
    await trio.run_process(module("bench.relay", *map(str, arguments)), env=module_environment())


async def votes(options: argparse.Namespace) -> Part:
    """Votes through the floor, to a farm's guest and to a real one, in turns."""
    progress("votes")
    with loopback_socket() as place:
        vim_port: int = place.getsockname()[1]
        async with (
            _controller(f"http://127.0.0.1:{vim_port}") as controller,
            _floor(controller.scene.directory, vim_port) as (floor, floor_farm),
        ):
            await controller.farm.listen(options.known, spread_s=1.0)
            guest = await controller.scene.add_guest("db")
            guest.configure(HB_INTERVAL=1000, EVENT_NOTIFICATION_SCRIPT="", HEALTH_CHECK_INTERVAL=0)
            await guest.start()
            await controller.scene.events.wait_for(event("heartbeating", guest), within_s=_START_S)
            targets = [
                floor,
                Target(FARMED, controller.agent.vim_port, uuid_of(0)),
                Target(REAL, controller.agent.vim_port, guest.uuid),
            ]
            words = map(str, (vim_port, options.votes, *targets))
            async with open_measured("the VIM", module("bench.votes", *words), _VOTES_S) as vim:
                await controller.know([*map(uuid_of, range(options.known)), guest.uuid])
                await vim.go()
                taken = await vim.line()
            asked = {FLOOR: await floor_farm.asked(), FARMED: await controller.farm.asked()}
    seen = [Votes.of(name, taken[name], asked.get(name, [])) for name in taken]
    return Part(
        "votes",
        votes_text(seen),
        votes_measures(seen, options.known),
        {"known": options.known, "ways": [attrs.asdict(one) for one in seen]},
    )


async def queries(options: argparse.Namespace) -> Part:
    """Queries about many instances, with all that is to be told waiting for a VIM that stalls."""
    progress("queries")
    known = options.known
    async with fake_vim() as vim:
        vim.mood = Mood.STALL
        async with (
            _controller(vim.url) as controller,
            _floor(controller.scene.directory, vim.port) as (floor, _),
        ):
            await controller.farm.listen(known, spread_s=1.0)
            await controller.know([uuid_of(index) for index in range(known)])
            before = await controller.told()
            targets = [floor, Target(FARMED, controller.agent.vim_port, uuid_of(0))]
            words = map(str, (_QUERIES_S, known, *targets))
            command = module("bench.queries", *words)
            async with open_measured("the VIM", command, _QUERIES_S + PATIENCE_S) as asking:
                taken = await asking.line()
            after = await controller.told()
    seen = Queries(
        known=known,
        waiting=[before["delivery"]["waiting"], after["delivery"]["waiting"]],
        floor_ms=[seconds * 1e3 for seconds in taken[FLOOR]],
        agent_ms=[seconds * 1e3 for seconds in taken[FARMED]],
    )
    return Part("queries", seen.as_text(), seen.measures(), attrs.asdict(seen))


async def storm(options: argparse.Namespace) -> Part:
    """A vote on each of many instances, all at once."""
    progress("a storm of votes")
    with loopback_socket() as place:
        vim_port: int = place.getsockname()[1]
        async with _controller(f"http://127.0.0.1:{vim_port}") as controller:
            await controller.farm.listen(options.known, spread_s=1.0)
            command = module(
                "bench.storm", str(vim_port), str(controller.agent.vim_port), str(options.known)
            )
            async with open_measured("the VIM", command, _VOTES_S) as vim:
                await controller.know([uuid_of(index) for index in range(options.known)])
                await vim.go()
                seen = Storm(**await vim.line())
    return Part("storm", seen.as_text(), seen.measures(), attrs.asdict(seen))
