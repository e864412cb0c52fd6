"""An audit on the fake clock, of a VIM that answers what a test says."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any

import attrs
import pytest
import trio

from hbtrio.nursery.agent.audit import Audit
from hbtrio.wire.vim import VimRequest
from hbtrio.wire.vim_result import Delivered, MissingAnswer, SendResult, Unconfirmed
from support.agent_world import AgentWorld
from support.scripted_host import HOST_UUID, HOSTNAME

#: How the deployed VIM says no.
CLOSED = Unconfirmed(MissingAnswer.CLOSED)


def state(state: str = "enabled", uuid: str = HOST_UUID) -> Delivered:
    """The VIM's answer about a host."""
    members = {"uuid": uuid, "hostname": HOSTNAME, "state": state}
    return Delivered(200, json.dumps(members).encode())


def instances(
    *uuids: str | tuple[str, str], hostname: str = HOSTNAME, state: str = "enabled"
) -> Delivered:
    """The VIM's answer about a host's instances; a pair says its host itself."""
    services = [{"service": "heartbeat", "state": state}]
    pairs = [(one, hostname) if isinstance(one, str) else one for one in uuids]
    found = [{"uuid": uuid, "hostname": name, "services": services} for uuid, name in pairs]
    return Delivered(200, json.dumps({"instances": found}).encode())


class AuditedVim:
    """A VIM that answers what the test says, and when each question came."""

    def __init__(self) -> None:
        self.state: SendResult = state()
        self.instances: SendResult = instances()
        self.asked: list[tuple[float, str]] = []
        #: Awaited before each answer.
        self.meanwhile: Callable[[], Awaitable[None]] | None = None

    async def send(self, request: VimRequest) -> SendResult:
        await trio.lowlevel.checkpoint()
        host = "host_uuid=" not in request.target
        answer = self.state if host else self.instances
        if host and isinstance(answer, Delivered):
            about = json.loads(request.body)
            # As the deployed VIM: it looks the name up, and repeats what it was asked with.
            body = answer.body
            for ours, asked in ((HOSTNAME, about["hostname"]), (HOST_UUID, about["uuid"])):
                body = body.replace(b'"%s"' % ours.encode(), b'"%s"' % asked.encode())
            answer = attrs.evolve(answer, body=body)
        uuid = request.target[-len(HOST_UUID) :]
        what = uuid if host else f"instances of {uuid}"
        self.asked.append((round(trio.current_time(), 6), what))
        if self.meanwhile is not None and not host:
            await self.meanwhile()
        return answer

    @property
    def times(self) -> list[float]:
        """When a host's state was asked for."""
        return [time for time, what in self.asked if not what.startswith("instances")]


class Cloud:
    """A VIM that knows which host has which uuid, and what is on it.

    Args:
        repeats: as the deployed one it looks a host's state up by its name, and repeats the uuid
            and the name that it is asked with; else it says the name of the uuid's host.
        hosts: the hosts' names by their uuids.
        instances: the hosts' names by the uuids of the instances on them.
    """

    def __init__(self, hosts: dict[str, str], instances: dict[str, str], *, repeats: bool) -> None:
        self.hosts = hosts
        self.instances = instances
        self.repeats = repeats
        #: Whose losses it does not want to hear of.
        self.disabled: set[str] = set()
        #: What it answers instead about the instances of any host.
        self.listed: SendResult | None = None

    async def send(self, request: VimRequest) -> SendResult:
        """Answers an audit."""
        await trio.lowlevel.checkpoint()
        name = self.hosts.get(request.target[-len(HOST_UUID) :])
        if "host_uuid=" in request.target:
            if self.listed is not None:
                return self.listed
            here = [uuid for uuid, host in self.instances.items() if host == name]
            return CLOSED if name is None else instances(*here, hostname=name)
        about = json.loads(request.body)
        if self.repeats and about["hostname"] in self.hosts.values():
            name = about["hostname"]
        if name is None:
            return CLOSED
        found = "disabled" if name in self.disabled else "enabled"
        return Delivered(200, json.dumps(about | {"hostname": name, "state": found}).encode())


def begin(world: AgentWorld, every_s: float = 10) -> AuditedVim:
    """An audit of that agent."""
    vim = AuditedVim()
    ask(world, vim, every_s)
    return vim


def ask(world: AgentWorld, vim: Any, every_s: float = 10) -> None:
    """An audit of that agent asks that VIM."""
    agent = world.agent
    audit = Audit(agent.fleet, agent.inventory, agent.states, vim, every_s)
    world.nursery.start_soon(audit.run)


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What the audit has said."""
    found = [one.getMessage() for one in caplog.records if one.name == "hbtrio.audit"]
    # In words: nothing of how Python writes an object.
    assert not any("(" in line or "<" in line for line in found)
    return found
