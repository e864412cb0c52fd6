"""A host that is late for long: the alarm and its end, what is shed, and what is not."""

from __future__ import annotations

import pytest
from trio.testing import MockClock

from hbtrio.nursery.host.overload_watch import STATUS_S
from support.control_socket import call, served
from support.host_world import HostWorld, host_world
from support.overload import be_late


def alarms(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [
        f"{record.levelname} {record.getMessage()}"
        for record in caplog.records
        if "overload" in record.getMessage()
    ]


async def test_the_alarm_and_its_end(
    autojump_clock: MockClock, world: HostWorld, caplog: pytest.LogCaptureFixture
) -> None:
    watch = world.host.overload
    assert (watch.since, watch.alarm, watch.alarms) == (None, False, 0)
    await be_late(world, autojump_clock, 8)
    assert watch.since is not None
    assert not watch.alarm
    await be_late(world, autojump_clock, 4)
    assert (watch.alarm, watch.alarms) == (True, 1)
    await be_late(world, autojump_clock, 120)
    assert watch.alarms == 1
    await world.sleep(8)
    assert watch.alarm
    await world.sleep(6)
    assert (watch.since, watch.alarm, watch.alarms) == (None, False, 1)
    assert [line[:30] for line in alarms(caplog)] == [
        "WARNING overload: this daemon ",
        "CRITICAL ALARM: overload: this",
        "WARNING overload: on time agai",
    ]


async def test_one_long_stall_is_no_overload(
    autojump_clock: MockClock, world: HostWorld, caplog: pytest.LogCaptureFixture
) -> None:
    await world.heartbeating()
    autojump_clock.jump(89)
    for _ in range(30):
        await world.sleep(0.5)
        assert world.host.overload.status_wait_s() == 0
    assert alarms(caplog) == []


async def test_lines_below_warning_are_shed_meanwhile(
    autojump_clock: MockClock, world: HostWorld
) -> None:
    await be_late(world, autojump_clock, 2.5)
    assert world.sheds == []
    await be_late(world, autojump_clock, 30)
    assert world.sheds == [True]
    await world.sleep(30)
    assert world.sheds == [True, False]


async def test_status_is_answered_seldom_meanwhile(autojump_clock: MockClock) -> None:
    async with host_world() as world, served(world.host) as api, api.client() as http:
        guest = await world.heartbeating()
        await be_late(world, autojump_clock, 15)
        full = await http.get("/v1/status")
        assert full.status_code == 200
        assert full.json()["host"]["overload"]["alarm"] is True
        assert len(full.json()["instances"]) == 1
        for _ in range(3):
            refused = await http.get("/v1/status")
            assert refused.status_code == 503
            assert refused.json()["reason"].startswith(
                "overloaded: heartbeats come first; try agai"
            )
            assert 1 <= int(refused.headers["retry-after"]) <= STATUS_S
        # One instance costs nothing.
        assert (await http.get(f"/v1/instances/{guest.uuid}")).status_code == 200
        await world.sleep(int(refused.headers["retry-after"]))
        assert (await http.get("/v1/status")).status_code == 200
        await world.sleep(20)
        for _ in range(3):
            answer = await http.get("/v1/status")
            assert (answer.status_code, answer.json()["host"]["overload"]) == (200, None)


async def test_ctl_shows_the_alarm(autojump_clock: MockClock) -> None:
    async with host_world() as world, served(world.host) as api:
        await be_late(world, autojump_clock, 15)
        called = await call(api.path, "status")
        assert any(line.startswith("ALARM: overloaded since") for line in called.lines)


async def test_beats_go_on_in_an_overload(autojump_clock: MockClock, world: HostWorld) -> None:
    guests = await world.all_heartbeating(20)
    await be_late(world, autojump_clock, 60)
    assert world.host.overload.alarm
    assert world.reports(since=2) == []
    for guest in guests:
        assert len(guest.challenged_at(since=30)) > 25
