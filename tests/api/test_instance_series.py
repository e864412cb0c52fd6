"""Metrics with an instance's uuid and name: none unless asked for, and never more."""

from __future__ import annotations

import pytest
from prometheus_client.parser import text_string_to_metric_families
from trio.testing import MockClock

from hbtrio.api import instance_series
from hbtrio.api.host_metrics import host_metrics
from hbtrio.config.host import LibvirtSettings
from hbtrio.config.observe import ObserveSettings
from hbtrio.wire.vocabulary import Health
from support.host_world import HostWorld, host_world, uuid_of
from support.overload import be_late

LABELS = ("uuid", "name", "state")

pytestmark = pytest.mark.usefixtures("autojump_clock")


async def series(world: HostWorld) -> dict[str, dict[tuple[str, ...], float]]:
    """All samples with an instance's labels, by the name of the metric and the labels."""
    text = (await host_metrics(world.host)).decode()
    found: dict[str, dict[tuple[str, ...], float]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if "uuid" in sample.labels or sample.name == "hbtrio_host_instances_without_series":
                name = sample.name.removeprefix("hbtrio_host_")
                labels = tuple(sample.labels[key] for key in LABELS if key in sample.labels)
                found.setdefault(name, {})[labels] = sample.value
    return found


async def test_there_are_none_by_default() -> None:
    async with host_world() as world:
        await world.all_heartbeating(3)
        assert await series(world) == {}


async def test_so_many_instances_have_them_those_with_the_lowest_uuids() -> None:
    async with host_world(observe=ObserveSettings(instance_series=2)) as world:
        first, _, third = await world.all_heartbeating(3)
        third.answers_after_s = None
        await world.sleep(10)
        beats = [world.channel(guest).beats for guest in (first, third)]
        one, two = ((uuid_of(number), world.host.channels[uuid_of(number)]) for number in (1, 2))
        names = [channel.heartbeat.profile.name for _, channel in (one, two)]
        ones, twos = (one[0], names[0]), (two[0], names[1])
        assert await series(world) == {
            "instances_without_series": {(): 1},
            "instance_state": {(*ones, "heartbeating"): 1, (*twos, "heartbeating"): 1},
            "instance_unhealthy": {ones: 0, twos: 0},
            "instance_beats_total": {ones: beats[0], twos: two[1].beats},
            "instance_missed": {ones: 0, twos: 0},
            "instance_round_trip_seconds": {ones: 0, twos: 0},
        }
        # Whoever fails, the choice stays.
        assert world.channel(third).heartbeat.state.shown == "lost"


async def test_an_overloaded_host_has_no_time_for_them(autojump_clock: MockClock) -> None:
    async with host_world(observe=ObserveSettings(instance_series=2)) as world:
        await world.heartbeating()
        assert await series(world) != {}
        await be_late(world, autojump_clock, 8)
        assert world.host.overload.since is not None
        assert await series(world) == {}
        await world.sleep(20)
        assert await series(world) != {}


async def test_what_they_say() -> None:
    async with host_world(observe=ObserveSettings(instance_series=9)) as world:
        guest = world.guest()
        guest.answers_after_s = None
        guest.appear()
        await world.settle()
        found = await series(world)
        assert found["instances_without_series"] == {(): 0}
        assert [labels[0] for labels in found["instance_state"]] == [guest.uuid]
        assert "instance_round_trip_seconds" not in found
        guest.answers_after_s = 0
        guest.health = Health.UNHEALTHY
        await world.sleep(10)
        channel = world.channel(guest)
        labels = (guest.uuid, channel.heartbeat.profile.name)
        assert world.channel(guest).heartbeating
        guest.answers_after_s = None
        await world.sleep(1.5)
        found = await series(world)
        assert found["instance_unhealthy"] == {labels: 1}
        assert found["instance_missed"] == {labels: 1}
        assert found["instance_beats_total"] == {labels: channel.beats}


async def test_the_name_is_that_of_libvirt_and_may_be_hostile() -> None:
    name = 'a"}\u202e1#\\'
    observe, libvirt = ObserveSettings(instance_series=1), LibvirtSettings(enabled="on")
    async with host_world(observe=observe, libvirt=libvirt) as world:
        guest = world.guest()
        await world.libvirt.start(world.libvirt.define(guest.uuid, name, (guest.path,)))
        guest.appear()
        await world.sleep(5)
        shown = list((await series(world))["instance_unhealthy"])
        assert shown == [(guest.uuid, 'a"}\\u202e1#\\')]


async def test_many_are_encoded_piece_by_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(instance_series, "_AT_ONCE", 2)
    async with host_world(observe=ObserveSettings(instance_series=5)) as world:
        guests = await world.all_heartbeating(6)
        found = await series(world)
        assert found["instances_without_series"] == {(): 1}
        for name, samples in found.items():
            if name != "instances_without_series":
                assert {labels[0] for labels in samples} == {guest.uuid for guest in guests[:5]}
        text = (await host_metrics(world.host)).decode()
        assert text.count("# TYPE hbtrio_host_instance_beats_total ") == 1
