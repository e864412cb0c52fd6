"""What a host tells its agent of instances that it does not watch."""

from __future__ import annotations

import pytest

from hbtrio.config.instances import InstanceSettings
from hbtrio.wire.link_messages import Gone, Instance
from support.host_world import uuid_of
from support.linked_host import linked

pytestmark = pytest.mark.usefixtures("autojump_clock")


async def test_of_an_instance_that_is_not_watched_the_agent_is_told_why() -> None:
    instances = {uuid_of(1): InstanceSettings(watch=False)}
    why = "not watched on compute-0: watch = false in instances."
    async with linked(instances=instances) as on:
        guest = on.world.guest().appear()
        assert guest.uuid == uuid_of(1)
        await on.world.sleep(2)
        told = on.agent.of(Gone)[-1]
        assert (told.uuid, told.reason[: len(why)]) == (guest.uuid, why)
        guest.vanish()
        await on.world.sleep(2)
        assert on.agent.of(Gone)[-1] == Gone(guest.uuid, "its channel was removed")
        assert on.agent.of(Instance) == []


async def test_a_new_session_has_those_that_are_not_watched_after_the_others() -> None:
    instances = {uuid_of(1): InstanceSettings(watch=False)}
    async with linked(instances=instances) as on:
        guest = on.world.guest().appear()
        await on.world.sleep(2)
        on.agent.received = []
        await on.agent.cut()
        await on.world.sleep(30)
        assert [one.uuid for one in on.agent.of(Gone)] == [guest.uuid]
