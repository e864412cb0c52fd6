"""An agent that asks what became of an action while the host still tells it."""

from __future__ import annotations

import json

import pytest

from hbtrio.wire.link_call_off import CallOff
from hbtrio.wire.link_follow import Follow
from hbtrio.wire.link_messages import ActCommand, ActionProgress, Reply
from support.fake_processes import FakeRun
from support.host_world import stay_silent
from support.linked_host import Linked, linked

pytestmark = pytest.mark.usefixtures("autojump_clock")

COMMAND = ("virsh", "reboot", "{uuid}")


async def asked_twice(on: Linked) -> None:
    """Has an action begun and followed under one id, and its guest never answer the vote."""
    guest = await on.world.heartbeating()
    guest.reply = stay_silent
    await on.agent.send(ActCommand("c-1", guest.uuid, "reboot", COMMAND, False, 1.0, who="plan"))
    await on.agent.send(Follow("c-1", guest.uuid, "reboot", "plan", 5.0))
    await on.world.settle()


async def test_each_line_is_told_once() -> None:
    async with linked(runs={"virsh": FakeRun(delay_s=5)}) as on:
        await asked_twice(on)
        await on.world.sleep(200)
        lines = on.agent.of(ActionProgress)
        assert [one.last for one in lines].count(True) == 1
        steps = [json.loads(one.line) for one in lines[:-1]]
        assert [one["step"] for one in steps].count("end") == 1
        assert on.world.host.supervisor.crashes == 0
        assert on.link.connected


async def test_the_later_question_can_call_it_off() -> None:
    async with linked(runs={"virsh": FakeRun(delay_s=5)}) as on:
        await asked_twice(on)
        await on.agent.send(CallOff("c-1", "no longer wanted"))
        await on.world.sleep(200)
        end = json.loads(on.agent.of(ActionProgress)[-2].line)
        assert "no longer wanted" in str(end)
        assert all(reply.ok for reply in on.agent.of(Reply))
