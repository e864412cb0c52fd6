"""What a host takes of a guest's reports about its voters, and when it forgets them."""

from __future__ import annotations

import pytest

from hbtrio.api.host_detail import instance_detail
from hbtrio.fsm.heartbeat.table import HeartbeatState
from hbtrio.policy.reported_voters import LISTS
from hbtrio.wire.channel_messages import Nack
from hbtrio.wire.operator import VoterLine, VoterRequestLine
from support.host_world import HostWorld, ScriptedGuest, host_world
from support.voters import ORDERS, SCRIPT, voter_state

pytestmark = pytest.mark.usefixtures("autojump_clock")


def listed(world: HostWorld, guest: ScriptedGuest) -> tuple[VoterLine, ...] | None:
    detail = instance_detail(world.host, guest.uuid)
    assert detail is not None
    return detail.voters


async def test_they_are_listed_with_the_time_of_day(world: HostWorld) -> None:
    guest = await world.heartbeating()
    assert listed(world, guest) is None
    await world.at(100)
    changes: list[str] = []
    world.host.on_change(changes.append)
    guest.report_voters(ORDERS, SCRIPT)
    await world.settle()
    assert changes == [guest.uuid]
    assert listed(world, guest) == (
        VoterLine(
            name="orders",
            health="ill",
            since="2026-01-01T00:00:40+00:00",
            interval_ms=1000,
            corrective_action="log",
            reason="disk  [31mfull",
            last=VoterRequestLine(
                kind="vote",
                event="stop",
                answer="reject",
                reason="3 orders are open",
                time="2026-01-01T00:01:10+00:00",
            ),
        ),
        VoterLine(name="handler", health="none", corrective_action="none"),
    )
    detail = instance_detail(world.host, guest.uuid)
    assert detail is not None
    assert detail.voters_unlisted == 3
    # The same again is no news, for nobody.
    guest.report_voters(ORDERS, SCRIPT)
    await world.settle()
    assert changes == [guest.uuid]
    assert not any(isinstance(one, Nack) for one in guest.messages)


async def test_another_run_of_the_guest_has_other_voters(world: HostWorld) -> None:
    guest = await world.heartbeating()
    guest.report_voters(voter_state())
    await world.settle()
    assert listed(world, guest)
    guest.send_init()
    await world.settle()
    assert listed(world, guest) is None
    guest.report_voters(voter_state())
    await world.settle()
    assert listed(world, guest)
    guest.send_exit()
    await world.settle()
    assert listed(world, guest) is None


async def test_a_lost_guest_keeps_its_voters_for_whoever_looks_for_the_cause(
    world: HostWorld,
) -> None:
    guest = await world.heartbeating()
    guest.report_voters(voter_state(name="web"))
    guest.answers_after_s = None
    await world.at(10)
    assert world.channel(guest).heartbeat.state is HeartbeatState.LOST
    voters = listed(world, guest)
    assert voters is not None
    assert [one.name for one in voters] == ["web"]


async def test_a_restless_guest_costs_neither_beats_nor_messages_to_the_agent() -> None:
    async with host_world() as world:
        guest = await world.heartbeating()
        other = await world.heartbeating()
        changes: list[str] = []
        world.host.on_change(changes.append)
        for number in range(50):
            guest.report_voters(
                voter_state(name=f"v{number}"), voter_state(1, 16), voter_state(3, 5)
            )
            await world.sleep(0.2)
        assert changes == [guest.uuid] * LISTS
        for one in (guest, other):
            assert world.channel(one).heartbeat.missed == 0
            assert world.channel(one).heartbeating
