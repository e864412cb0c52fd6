"""The windows at an agent: its own votes and notices, and those that its hosts report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import attrs
import pytest

from hbtrio.api.fleet_windows import open_entry, restart_left_s
from hbtrio.wire.link_parts import LinkRound
from hbtrio.wire.operator import RoundEntry
from hbtrio.wire.vocabulary import Event
from support.fake_processes import FakeRun
from support.fleet_world import FleetWorld, fleet_world
from support.host_world import stay_silent
from support.scripted_host import INSTANCE

pytestmark = pytest.mark.usefixtures("autojump_clock")


async def line(world: FleetWorld, uuid: str) -> dict[str, Any]:
    async with world.api.client() as http:
        [one] = (await http.get("/v1/status")).json()["instances"]
        detail = (await http.get(f"/v1/instances/{uuid}")).json()
    assert one.items() <= detail.items()
    return dict(one)


async def test_a_vote_of_the_hosts_own_operators(tmp_path: Path) -> None:
    async with fleet_world(tmp_path) as world:
        guest = await world.host.heartbeating()
        guest.reply = stay_silent
        await world.host.settle()
        assert (await line(world, guest.uuid))["open"] is None
        opened = world.host.vote(guest, Event.PAUSE)
        await world.host.sleep(3)
        vote = {"kind": "vote", "event": "pause", "window": "VOTE"}
        vote |= {"remaining_s": 6.0, "extended": ""}
        assert (await line(world, guest.uuid))["open"] == vote
        await opened.done.wait()
        await world.host.settle()
        assert (await line(world, guest.uuid))["open"] is None


async def test_a_restart_window_to_its_end(tmp_path: Path) -> None:
    async with fleet_world(tmp_path, runs={"virsh": FakeRun()}) as world:
        guest = await world.host.heartbeating()
        world.host.notice(guest, Event.REBOOT)
        await world.host.sleep(0.1)
        guest.answers_after_s = None
        await world.host.sleep(30)
        one = await line(world, guest.uuid)
        assert one["state"] == "restarting"
        assert 80 < one["restart_remaining_s"] < 95
        guest.answers_after_s = 0.0
        guest.send_init()
        await world.host.settle()
        one = await line(world, guest.uuid)
        assert one["state"] == "heartbeating"
        assert one["restart_remaining_s"] is None


async def test_what_was_open_when_the_link_was_cut_ends_by_itself(tmp_path: Path) -> None:
    async with fleet_world(tmp_path) as world:
        guest = await world.host.heartbeating()
        guest.reply = stay_silent
        await world.host.settle()
        world.host.vote(guest)
        await world.host.settle()
        await world.cut()
        await world.host.sleep(8)
        assert (await line(world, guest.uuid))["open"]["remaining_s"] == 1.0
        await world.host.sleep(2)
        assert (await line(world, guest.uuid))["open"] is None


@pytest.mark.parametrize(
    ("passed_s", "linked", "left_s"),
    [(0.0, True, 5.0), (4.0, False, 1.0), (5.0, False, None), (5.0, True, 0.0), (90.0, True, 0.0)],
)
def test_a_linked_host_reports_the_end_itself(
    passed_s: float, linked: bool, left_s: float | None
) -> None:
    live = attrs.evolve(INSTANCE, open=LinkRound(False, Event.STOP, 5.0), restart_remaining_s=5.0)
    assert restart_left_s(live, passed_s, linked=linked) == left_s
    entry = open_entry(live, passed_s, None, 0.0, linked=linked)
    assert entry == (
        None
        if left_s is None
        else RoundEntry(kind="notice", event="stop", window="SHUTDOWN_NOTICE", remaining_s=left_s)
    )


def test_an_event_of_a_newer_host_has_no_window() -> None:
    live = attrs.evolve(INSTANCE, open=LinkRound(True, Event.UNKNOWN, 5.0))
    entry = open_entry(live, 0.0, None, 0.0, linked=True)
    assert entry == RoundEntry(kind="vote", event="unknown", window="", remaining_s=5.0)
