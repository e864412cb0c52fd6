"""Audits of many hosts at once: how many, and what happens if two answers are about one VM."""

from __future__ import annotations

import pytest
import trio

from hbtrio.store.records import InstanceRecord
from hbtrio.wire.vim import VimRequest
from hbtrio.wire.vim_result import SendResult
from support.agent_world import AgentWorld
from support.audit_world import Cloud, ask, instances
from support.scripted_host import VM, ScriptedHost

pytestmark = pytest.mark.usefixtures("autojump_clock")

HOSTS = {f"22222222-2222-4222-8222-{n:012}": f"compute-{n}" for n in range(21)}


class SlowCloud(Cloud):
    """A VIM that takes a second for each answer, and how many it makes at once."""

    def __init__(self) -> None:
        super().__init__(HOSTS, {}, repeats=True)
        self.at_once = [0]
        self._in_progress = 0

    async def send(self, request: VimRequest) -> SendResult:
        self._in_progress += 1
        self.at_once.append(self._in_progress)
        answer = await super().send(request)
        await trio.sleep(1)
        self._in_progress -= 1
        return answer


async def all_hosts(world: AgentWorld) -> None:
    for uuid, name in HOSTS.items():
        await world.host(ScriptedHost(name, uuid, f"boot of {name}", ()))


async def test_one_goes_first_and_the_others_eight_at_once(world: AgentWorld) -> None:
    vim = SlowCloud()
    await all_hosts(world)
    ask(world, vim, every_s=60)
    await world.at(1.5)
    assert max(vim.at_once) == 1
    # The first two seconds, then two for each eight of the other twenty.
    await world.at(6.5)
    assert sum(one.reporting for one in world.agent.fleet.hosts.values()) == 1 + 8 + 8
    await world.at(8.5)
    assert sum(one.reporting for one in world.agent.fleet.hosts.values()) == 21
    assert (max(vim.at_once), len(vim.at_once)) == (8, 1 + 2 * 21)


class MovingCloud(Cloud):
    """An instance moves from the first host to the second after both were asked about.

    Args:
        slow: whose answer takes longer, of which nobody knows how old it is.
    """

    def __init__(self, slow: str) -> None:
        super().__init__(HOSTS, {VM: "compute-2"}, repeats=True)
        self._slow = slow
        self._asked: set[str] = set()

    async def send(self, request: VimRequest) -> SendResult:
        name = HOSTS[request.target[-36:]]
        if "host_uuid=" not in request.target or name in self._asked:
            return await super().send(request)
        self._asked.add(name)
        here = [VM] if name in ("compute-1", "compute-2") else []
        await trio.sleep(1.0 if name == self._slow else 0.1)
        return instances(*here, hostname=name)


@pytest.mark.parametrize("slow", ["compute-1", "compute-2"])
async def test_an_instance_that_two_answers_name_is_asked_about_again(
    slow: str, world: AgentWorld
) -> None:
    await all_hosts(world)
    ask(world, MovingCloud(slow), every_s=60)
    await world.at(10)
    assert world.agent.fleet.instances == {VM: InstanceRecord(VM, "compute-2", True)}
