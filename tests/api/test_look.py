"""What the agent's operator API answers of an instance that its host is asked about."""

from __future__ import annotations

from pathlib import Path

import attrs
import pytest

from hbtrio.wire.operator import LookLine, parse
from support.agent_api_cases import ABSENT, heartbeating
from support.api_replies import refusal
from support.fleet_world import fleet_world

pytestmark = pytest.mark.usefixtures("autojump_clock")


async def test_a_look_is_what_the_host_sees_now(tmp_path: Path) -> None:
    async with fleet_world(tmp_path) as world, world.api.client() as http:
        guest = await heartbeating(world)
        await world.host.sleep(3)
        found = parse(
            (await http.get(f"/v1/instances/{guest.uuid.upper()}/look")).content, LookLine
        )
        beat = world.host.channel(guest).heartbeat
        assert found == LookLine(
            uuid=guest.uuid,
            hostname="compute-0",
            beats=beat.beats,
            round_trip_ms=world.host.channel(guest).round_trip_ms,
        )
        assert found.beats > 1


async def test_why_a_host_does_not_tell(tmp_path: Path) -> None:
    async with fleet_world(tmp_path) as world, world.api.client() as http:
        guest = await heartbeating(world)
        look = f"/v1/instances/{guest.uuid}/look"
        session = world.agent.fleet.sessions["compute-0"]
        session.looks = attrs.evolve(session, hello=attrs.evolve(session.hello, looks=False)).looks
        found = (await http.get(look)).json()
        assert found["why"] == "compute-0 runs an older version, which does not tell"
        assert (found["beats"], found["round_trip_ms"]) == (0, None)
        await world.cut()
        assert (await http.get(look)).json()["why"] == "its host has no link"


async def test_of_an_unknown_instance_no_host_is_asked(tmp_path: Path) -> None:
    async with fleet_world(tmp_path) as world, world.api.client() as http:
        assert refusal(await http.get(f"/v1/instances/{ABSENT}/look"))[0] == 404
