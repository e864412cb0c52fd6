"""Every body of the operator APIs as clients parse it: members, their order, which are left out.

The files in ``recorded_bodies`` are what the daemons answered before one schema made all bodies;
prose is left out of them. To record a wanted change, delete a file and run its test twice.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import attrs
import httpx
import pytest

from hbtrio.config.host import ActionCommands
from hbtrio.wire.channel_messages import ActionNotify
from hbtrio.wire.vocabulary import Event, Health, VoteResult
from support.agent_world import agent_world, operators_api
from support.control_socket import served
from support.fake_processes import FakeRun
from support.fleet_world import fleet_world
from support.host_world import Reply, agree, uuid_of
from support.scripted_host import INSTANCE, ScriptedHost

pytestmark = pytest.mark.usefixtures("autojump_clock")

RECORDED = Path(__file__).with_name("recorded_bodies")

#: Texts after keys whose values are not words of the API.
PROSE = re.compile(
    r'(?<!"step": )(?<!"event": )(?<!"kind": )(?<!"result": )(?<!"outcome": )(?<!"window": )'
    r'(?<!"link":)(?<!"health":)(?<!"status":)(?<=[:\[,] |.[:\[,])"(?:[^"\\\n]|\\.)*"(?!:)'
)


class Recorder:
    """Makes requests and writes down what they are answered."""

    def __init__(self) -> None:
        self.text = ""

    async def ask(self, http: httpx.AsyncClient, method: str, path: str, **more: Any) -> None:
        response = await http.request(method, path, **more)
        kind = response.headers.get("content-type", "")
        self.text += f"== {method} {path} {more or ''}\n{response.status_code} {kind}\n"
        self.text += PROSE.sub('"..."', response.text) + "\n"


def busy(asked: ActionNotify) -> Reply | None:
    """Rejects a stop, is silent about a pause, agrees to the rest."""
    if asked.event_type is Event.STOP:
        return Reply(VoteResult.REJECT, 'caf\u00e9 "busy" \u2028')
    return None if asked.event_type is Event.PAUSE else agree(asked)


async def linked(record: Recorder, folder: Path) -> None:
    """A host and its agent: states, votes, notices, actions, refusals, a link that is cut."""
    runs = {
        "virsh": FakeRun(stdout=b"done\n", delay_s=2),
        "false": FakeRun(exit_code=1, stderr=b"no\n"),
    }
    config: dict[str, Any] = {"runs": runs, "actions": ActionCommands(stop=("virsh", "{uuid}"))}
    async with (
        fleet_world(folder, **config) as world,
        served(world.host.host) as api,
        api.client() as host,
        world.api.client() as agent,
    ):
        first = await world.host.heartbeating(name="web-1")
        second = await world.host.heartbeating(name="")
        world.host.guest(name="absent").appear().vanish()
        await world.host.settle()
        for http in (host, agent):
            await record.ask(http, "GET", "/v1/status")
        first.reply = busy
        one, two = f"/v1/instances/{first.uuid}", f"/v1/instances/{second.uuid}"
        for http in (host, agent):
            await record.ask(http, "POST", f"{one}/vote", json={"event": "stop"})
            await record.ask(http, "POST", f"{one}/vote", json={"event": "pause"})
            await record.ask(http, "POST", f"{one}/vote", json={"event": "unpause"})
            await record.ask(http, "POST", f"{one}/notify", json={"event": "resume"})
            await record.ask(http, "POST", f"{two}/vote", json={"event": "stop"})
            for body in (
                {"action": "stop", "force": False},
                {"action": "resume", "command": ["virsh", "-c", "caf\u00e9", "{uuid}"]},
                {"action": "resume", "command": ["false"], "force": True},
                {"action": "reboot", "command": ["virsh"]},
                {"action": "pause"},
            ):
                await record.ask(http, "POST", f"{one if len(body) > 1 else two}/act", json=body)
            surrogate = b'{"action": "resume", "command": ["missing", "\\ud800"]}'
            await record.ask(http, "POST", f"{one}/act", content=surrogate)
            await record.ask(
                http,
                "POST",
                f"{one}/notify",
                json={"event": "resize_end"},
                headers={"accept": "text/event-stream"},
            )
            await record.ask(http, "GET", one)
            await record.ask(http, "GET", f"/v1/instances/{uuid_of(77)}")
            await record.ask(http, "GET", "/v1/nowhere")
            await record.ask(http, "POST", "/v1/status")
            await record.ask(http, "POST", f"{one}/vote", content=b"{")
            await record.ask(http, "POST", f"{one}/vote", json={"x": 1})
            await record.ask(http, "POST", f"{one}/act", json={"action": "fly"})
            await record.ask(http, "GET", "/v1/events?recent=x&follow=no")
        first.health, first.log_msg = Health.UNHEALTHY, "disk is full"
        second.answers_after_s = None
        await world.host.sleep(5)
        for http in (host, agent):
            await record.ask(http, "GET", "/v1/status")
            await record.ask(http, "GET", "/v1/events?recent=1000&follow=no")
        await record.ask(agent, "GET", f"{two}/look")
        await record.ask(agent, "GET", "/v1/history")
        await record.ask(agent, "GET", f"/v1/history?limit=2&uuid={first.uuid}")
        await record.ask(agent, "POST", "/v1/hosts/compute-0/forget")
        await record.ask(agent, "POST", "/v1/hosts/compute-0/alarms", json={"alarms": "send"})
        await world.cut()
        await record.ask(agent, "POST", f"{one}/vote", json={"event": "stop"})
        await record.ask(agent, "POST", f"{one}/act", json={"action": "stop"})
        await world.host.sleep(40)
        await record.ask(agent, "GET", "/v1/status")
        await record.ask(agent, "GET", one)
        await record.ask(agent, "GET", f"{one}/look")
        await record.ask(agent, "POST", "/v1/hosts/compute-0/forget")
        await record.ask(agent, "GET", "/v1/history?limit=1")


async def alarmed(record: Recorder, folder: Path) -> None:
    """An agent with a VIM, and a host whose alarms are held back and then released."""
    vms = [f"{n:08x}-1111-4111-8111-111111111111" for n in range(3)]
    async with agent_world(folder) as on:
        host = ScriptedHost(instances=tuple(attrs.evolve(INSTANCE, uuid=uuid) for uuid in vms))
        await on.bound_host(host=host)
        for uuid in vms:
            await host.report_lost(uuid)
        await on.at(2)
        async with (
            operators_api(on) as path,
            httpx.AsyncClient(
                transport=httpx.AsyncHTTPTransport(uds=path, verify=False),
                base_url="http://agent",
                timeout=None,
                trust_env=False,
            ) as http,
        ):
            release = "/v1/hosts/compute-0/alarms"
            await record.ask(http, "GET", "/v1/status")
            await record.ask(http, "GET", "/v1/events?recent=9&follow=no")
            await record.ask(http, "POST", release, json={"alarms": "perhaps"})
            await record.ask(http, "POST", release, json={"alarms": "withdraw"})
            await record.ask(http, "GET", "/v1/history?limit=1")


@pytest.mark.parametrize("world", [linked, alarmed])
async def test_bodies_are_as_recorded(
    tmp_path: Path,
    world: Callable[[Recorder, Path], Awaitable[None]],
) -> None:
    record = Recorder()
    await world(record, tmp_path)
    file = RECORDED / f"{world.__name__}.txt"
    if not file.exists():
        file.parent.mkdir(exist_ok=True)
        file.write_text(record.text)
        raise AssertionError(f"{file.name} is new: compare it with the one before")
    assert record.text.splitlines() == file.read_text().splitlines()
