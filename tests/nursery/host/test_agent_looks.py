"""What a host answers when its agent looks at an instance."""

from __future__ import annotations

import pytest
import trio

from hbtrio.config.host import CorrectiveCommands
from hbtrio.config.instances import InstanceSettings
from hbtrio.nursery.host.agent_looks import MOST_WAITING, AgentLooks
from hbtrio.wire.link_looks import Look, Seen
from hbtrio.wire.link_messages import Hello
from support.host_world import host_world, uuid_of
from support.linked_host import linked

pytestmark = pytest.mark.usefixtures("autojump_clock")


async def test_the_host_says_that_it_answers_looks() -> None:
    async with linked() as on:
        assert [hello.looks for hello in on.agent.of(Hello)] == [True]


async def test_it_tells_what_it_sees_now() -> None:
    async with linked() as on:
        guest = await on.world.heartbeating()
        await on.world.sleep(5)
        await on.agent.send(Look(guest.uuid))
        await on.world.settle()
        beat = on.world.channel(guest).heartbeat
        (seen,) = on.agent.of(Seen)
        assert seen == Seen(
            guest.uuid, known=True, beats=beat.beats, round_trip_ms=seen.round_trip_ms
        )
        assert seen.beats > 1
        assert seen.round_trip_ms is not None
        guest.answers_after_s = None
        await on.world.sleep(2.5)
        await on.agent.send(Look(guest.uuid))
        await on.world.settle()
        assert on.agent.of(Seen)[-1].missed == beat.missed > 0


async def test_it_tells_why_no_corrective_command_runs() -> None:
    commands = CorrectiveCommands(reboot=("reset", "{uuid}"))
    instances = {uuid_of(1): InstanceSettings(corrective="off")}
    async with linked(corrective_commands=commands, instances=instances) as on:
        guest = await on.world.heartbeating()
        await on.report(guest)
        guest.answers_after_s = None
        await on.world.sleep(30)
        await on.agent.send(Look(guest.uuid))
        await on.world.settle()
        assert on.agent.of(Seen)[-1].not_acted.startswith("policy: corrective is ")


async def test_of_an_instance_without_a_channel_it_knows_nothing() -> None:
    async with linked() as on:
        await on.agent.send(Look("u-1"))
        await on.world.settle()
        assert on.agent.of(Seen) == [Seen("u-1", known=False)]


async def test_answers_that_nobody_reads_are_so_many_at_most() -> None:
    class Stuck:
        """A session whose peer reads nothing."""

        sent = 0

        async def send(self, _: Seen) -> None:
            self.sent += 1
            await trio.sleep_forever()

    async with host_world() as world, trio.open_nursery() as nursery:
        looks, session = AgentLooks(world.host), Stuck()
        for _ in range(MOST_WAITING + 5):
            nursery.start_soon(looks.answer, session, Look("u-1"))
        await world.settle()
        assert session.sent == MOST_WAITING
        nursery.cancel_scope.cancel()
