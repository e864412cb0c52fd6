"""What holds for one instance: by host.toml, and by its domain's metadata, as that changes."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any

import attrs
import pytest

from hbtrio.api.host_status import instance_status, left_out_status
from hbtrio.config.host import (
    BrakeSettings,
    CorrectiveCommands,
    HeartbeatSettings,
    LibvirtSettings,
)
from hbtrio.config.instances import InstanceSettings
from hbtrio.nursery.host.refusals import UnknownInstance
from hbtrio.nursery.host.watched import HOLD_S
from hbtrio.wire.vocabulary import Event, Health, WindowKind
from support.control_socket import call, served
from support.fake_libvirt import FakeDomain
from support.fake_processes import FakeRun
from support.host_world import HostWorld, ScriptedGuest, host_world, now, uuid_of

pytestmark = pytest.mark.usefixtures("autojump_clock")


def policy_world(
    tables: Mapping[str, InstanceSettings] | None = None,
    *,
    metadata: bool = True,
    libvirt: str = "on",
    **more: Any,
) -> AbstractAsyncContextManager[HostWorld]:
    def runs(_: Sequence[str]) -> FakeRun:
        return FakeRun()

    return host_world(
        corrective_commands=CorrectiveCommands(reboot=("reset", "{uuid}"), log=("log", "{uuid}")),
        brake=BrakeSettings(share=1.0),
        libvirt=LibvirtSettings(enabled=libvirt, metadata=metadata and libvirt != "off"),
        instances=tables or {},
        runs=runs,
        **more,
    )


def only(glob: str, **settings: Any) -> dict[str, InstanceSettings]:
    return {glob: InstanceSettings(**settings)}


@attrs.frozen
class Machine:
    """A guest, and its domain."""

    guest: ScriptedGuest
    domain: FakeDomain


async def started(
    world: HostWorld, name: str = "web-1", metadata: str = "", **init: Any
) -> Machine:
    """A VM that has started; libvirt finds its socket as the directory does."""
    guest = world.guest(**init)
    domain = world.libvirt.define(guest.uuid, name, (guest.path,))
    if metadata:
        world.libvirt.set_metadata(domain, metadata)
    guest.appear()
    await world.libvirt.start(domain)
    await world.sleep(HOLD_S)
    return Machine(guest, domain)


def falls_silent(machine: Machine) -> None:
    machine.guest.answers_after_s, machine.guest.sends_init = None, False


def run(world: HostWorld) -> list[str]:
    return [moment.argv[0] for moment in world.processes.started]


def causes(world: HostWorld) -> list[str]:
    return [report.cause for report in world.host.reports.recent if report.cause]


# -- watch ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("by", ["name", "uuid", "metadata"])
async def test_one_that_is_not_watched_is_not_even_connected(by: str) -> None:
    tables = {
        "name": only("web-*", watch=False),
        "uuid": only(uuid_of(1), watch=False),
        "metadata": {},
    }[by]
    places = {
        "name": 'instances."web-*"',
        "uuid": f'instances."{uuid_of(1)}"',
        "metadata": "metadata",
    }
    async with policy_world(tables) as world:
        machine = await started(world, metadata='watch="false"' if by == "metadata" else "")
        other = await started(world, name="db-1")
        await world.sleep(200)
        assert machine.guest.connections == 0
        assert world.channel(other.guest).heartbeating
        assert world.reports(machine.guest) == []
        shown = left_out_status(world.host, machine.guest.uuid, now())
        why = f"not watched: watch = false in {places[by]}"
        assert (shown.state, shown.why) == ("not watched", why)
        assert shown.domain is not None
        assert shown.domain.name == "web-1"
        with pytest.raises(UnknownInstance, match=r"is not watched: watch = false in "):
            world.vote(machine.guest, Event.STOP)


async def test_ctl_shows_who_is_not_watched_and_what_is_set_for_some() -> None:
    tables = {"db-*": InstanceSettings(corrective="log", grace_s=600.0)}
    async with policy_world(tables) as world, served(world.host) as api:
        shown = await call(api.path, "status")
        assert "POLICY" not in shown.text
        web = await started(world, metadata='watch="false"')
        db = await started(world, name="db-1")
        ill = await started(world, name="app-1", metadata='wach="true"')
        shown = await call(api.path, "status")
        assert shown.lines[0].startswith("compute-0: 2 of 2 heartbeating, 1 not watched, hbtrio ")
        rows = {line.split()[1]: line for line in shown.lines[-3:]}
        assert "not watched" in rows["web-1"]
        assert "  watch false  " in rows["web-1"]
        assert "  corrective log, grace_s 600  " in rows["db-1"]
        assert "  metadata: wach: unknown key, did you mean watch?  " in rows["app-1"]
        async with api.client() as http:
            for machine, places in (
                (web, {"watch": "metadata"}),
                (db, {"corrective": 'instances."db-*"', "grace_s": 'instances."db-*"'}),
                (ill, {}),
            ):
                got = (await http.get(f"/v1/instances/{machine.guest.uuid.upper()}")).json()
                assert got["policy"]["places"] == places
            absent = await http.get(f"/v1/instances/{uuid_of(77)}")
            assert absent.status_code == 404


async def test_a_change_of_the_metadata_holds_at_once() -> None:
    async with policy_world() as world:
        machine = await started(world)
        guest = machine.guest
        world.libvirt.set_metadata(machine.domain, 'watch="false"')
        await world.sleep(1)
        assert guest.uuid not in world.host.channels
        assert guest.peer.host_closed
        assert world.reports(guest)[-1][1:] == (
            "stopped",
            "not watched: watch = false in metadata",
        )
        connections = guest.connections
        await world.sleep(500)
        assert guest.connections == connections
        world.libvirt.set_metadata(machine.domain, "")
        await world.sleep(2)
        assert world.channel(guest).heartbeating


async def test_one_that_is_silent_or_restarting_is_let_go_as_well() -> None:
    async with policy_world() as world:
        silent, restarting = await started(world), await started(world, name="web-2")
        falls_silent(silent)
        await world.sleep(2)
        world.notice(restarting.guest, Event.REBOOT)
        await world.sleep(2)
        restarting.guest.vanish()
        await world.sleep(1)
        for machine in (silent, restarting):
            world.libvirt.set_metadata(machine.domain, 'watch="false"')
        await world.sleep(1)
        assert world.host.channels == {}
        before = run(world)
        await world.sleep(500)
        assert run(world) == before
        kinds = [report.kind for report in world.host.reports.recent]
        assert "restart-expired" not in kinds


async def test_a_change_while_events_are_lost_is_found_when_they_are_back() -> None:
    async with policy_world() as world:
        machine = await started(world)
        world.libvirt.stop()
        await world.sleep(2)
        world.libvirt.set_metadata(machine.domain, 'watch="false"')
        world.libvirt.restart()
        await world.sleep(10)
        assert world.host.channels == {}


async def test_a_socket_waits_for_libvirt_s_word_for_3_s_at_most() -> None:
    async with policy_world(only("web-*", watch=False)) as world:
        world.libvirt.hang()
        guest = world.guest().appear()
        await world.sleep(HOLD_S - 0.01)
        assert guest.connections == 0
        await world.sleep(0.02)
        assert guest.connections == 1
        gone = world.guest().appear()
        await world.sleep(1)
        gone.vanish()
        await world.sleep(HOLD_S)
        assert gone.connections == 0


@pytest.mark.parametrize("tables", [{}, only("*", grace_s=1.0), only(uuid_of(9), watch=False)])
async def test_without_need_of_libvirt_nobody_waits_for_it(
    tables: Mapping[str, InstanceSettings],
) -> None:
    async with policy_world(tables, metadata=False) as world:
        world.libvirt.hang()
        guest = world.guest().appear()
        await world.settle()
        assert guest.connections == 1


# -- corrective ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tables", "metadata", "expected"),
    [
        (None, "", ["reset"]),
        (only("web-*", corrective="off"), "", []),
        (only("web-*", corrective="log"), "", []),
        (only("db-*", corrective="off"), "", ["reset"]),
        (None, 'corrective="off"', []),
        (only("*", corrective="off"), 'corrective="on"', ["reset"]),
        (only("web-1", corrective="off"), 'corrective="on"', []),
    ],
)
async def test_who_is_acted_upon(
    tables: Mapping[str, InstanceSettings] | None, metadata: str, expected: list[str]
) -> None:
    async with policy_world(tables) as world:
        machine = await started(world, metadata=metadata)
        falls_silent(machine)
        await world.sleep(30)
        assert run(world) == expected
        # It is reported in any case.
        assert [one[1] for one in world.reports(machine.guest)].count("loss") == 1
        assert causes(world) == ([] if expected else ["policy"])
        status = instance_status(world.host, world.channel(machine.guest), now())
        assert status.not_acted.startswith("policy: corrective is ") is not bool(expected)


async def test_a_log_command_runs_where_only_logs_are_allowed() -> None:
    async with policy_world(only("web-*", corrective="log")) as world:
        machine = await started(world, corrective_action="log")
        falls_silent(machine)
        await world.sleep(30)
        assert run(world) == ["log"]


async def test_it_is_decided_anew_once_the_metadata_allows_it() -> None:
    async with policy_world() as world:
        machine = await started(world, metadata='corrective="off"')
        falls_silent(machine)
        await world.sleep(100)
        assert run(world) == []
        world.libvirt.set_metadata(machine.domain, 'corrective="on"')
        await world.sleep(5)
        assert run(world) == []  # it has to stay silent under fresh challenges
        await world.sleep(10)
        assert run(world) == ["reset"]
        assert causes(world) == ["policy"]


async def test_until_libvirt_has_told_nothing_is_done() -> None:
    """Its name may be one that nothing is to be done to."""
    async with policy_world(only("db-*", corrective="off"), metadata=False, libvirt="auto") as w:
        assert w.host.config.instance_rules().needs_libvirt
    async with policy_world() as world:
        guest = world.guest()
        domain = world.libvirt.define(guest.uuid, "web-1", (guest.path,))
        domain.hung = True  # its XML is not to be had
        guest.appear()
        await world.libvirt.start(domain)
        await world.sleep(5)
        assert world.channel(guest).heartbeating
        status = instance_status(world.host, world.channel(guest), now())
        assert status.policy is not None
        assert status.policy.corrective == "unknown"
        falls_silent(Machine(guest, domain))
        await world.sleep(30)
        assert run(world) == []
        assert causes(world) == ["policy"]
        domain.hung = False
        await world.sleep(120)
        assert run(world) == ["reset"]


async def test_what_was_read_holds_after_the_end_of_the_domain() -> None:
    """A QEMU that was killed is a loss, and its domain has no live XML any more."""
    async with policy_world() as world:
        machine = await started(world, metadata='corrective="off"')
        machine.guest.vanish()
        await world.libvirt.kill(machine.domain)
        await world.sleep(30)
        assert run(world) == []
        assert causes(world) == ["policy"]


async def test_faulty_metadata_is_one_line_and_leaves_what_was_read_before(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "hbtrio.libvirt")
    async with policy_world() as world:
        machine = await started(world, metadata='corrective="off"')
        uuid = machine.guest.uuid

        def lines() -> list[str]:
            return [line for line in caplog.messages if "metadata" in line]

        for faulty in ('corrective="of"', 'corrective="of"', 'corrective="off" x="\x85"'):
            world.libvirt.set_metadata(machine.domain, faulty)
            await world.sleep(5)
            assert world.host.domains.policies.of(uuid).corrective == "off"
        wrong = 'corrective: must be one of on, log, off, got "of"'
        stays = "what was read before stays in use"
        assert lines() == [
            f"{uuid}: metadata of its domain: {wrong}; {stays}",
            f"{uuid}: metadata of its domain: x: unknown key; {stays}",
        ]
        assert world.host.domains.policies.fault(uuid) == "x: unknown key"
        world.libvirt.set_metadata(machine.domain, "")
        await world.sleep(5)
        assert lines()[2:] == [f"{uuid}: metadata of its domain: no fault any more"]
        assert world.host.domains.policies.fault(uuid) == ""
        assert world.host.domains.policies.of(uuid).corrective == "on"


async def test_metadata_does_not_count_unless_it_is_switched_on() -> None:
    async with policy_world(metadata=False) as world:
        machine = await started(world, metadata='watch="false"')
        assert world.channel(machine.guest).heartbeating


# -- numbers -------------------------------------------------------------------------------------


async def test_its_own_limit_of_commands() -> None:
    tables = only("web-*", per_hour=1)
    async with policy_world(tables) as world:
        machine = await started(world)
        for _ in range(2):
            falls_silent(machine)
            await world.sleep(30)
            machine.guest.answers_after_s, machine.guest.sends_init = 0.0, True
            machine.guest.send_init()
            await world.sleep(30)
        assert run(world) == ["reset"]
        reasons = [report.reason for report in world.host.reports.recent if report.cause]
        assert reasons == ["reboot not run: limit reached: 1 per hour"]


async def test_its_own_time_in_which_its_io_is_observed() -> None:
    async with policy_world(only("web-*", no_io_for_s=10.0)) as world:
        machine, other = await started(world), await started(world, name="db-1")
        for one in (machine, other):
            one.domain.requests = 1
            falls_silent(one)
        await world.sleep(9)
        machine.domain.requests = other.domain.requests = 5
        await world.sleep(20)
        assert run(world) == ["reset"]
        assert [one.uuid for one in world.host.reports.recent if one.cause == "busy"] == [
            machine.guest.uuid
        ]


async def test_its_own_grace_time() -> None:
    heartbeat = HeartbeatSettings(grace_s=1.0)
    async with policy_world(only("web-*", grace_s=100.0), heartbeat=heartbeat) as world:
        machine, other = await started(world), await started(world, name="db-1")
        for one in (machine, other):
            one.guest.health, one.guest.log_msg = Health.UNHEALTHY, "disk full"
        await world.sleep(60)
        ill = {report.uuid for report in world.host.reports.recent if report.kind == "unhealthy"}
        assert ill == {other.guest.uuid}
        await world.sleep(60)
        ill = {report.uuid for report in world.host.reports.recent if report.kind == "unhealthy"}
        assert machine.guest.uuid in ill


async def test_its_own_windows_from_its_next_init_on() -> None:
    async with policy_world() as world:
        machine = await started(world, vote_secs=99, suspend_notice_secs=99, restart_secs=99)
        kinds = (WindowKind.VOTE, WindowKind.SUSPEND_NOTICE, WindowKind.RESTART)

        def windows() -> list[int]:
            profile = world.channel(machine.guest).heartbeat.profile
            return [profile.window_s(kind) for kind in kinds]

        assert windows() == [99, 99, 99]
        attributes = 'vote_max_s="7" notice_max_s="8" restart_max_s="9"'
        world.libvirt.set_metadata(machine.domain, attributes)
        await world.sleep(1)
        assert windows() == [99, 99, 99]
        machine.guest.send_init()
        await world.sleep(1)
        assert windows() == [7, 8, 9]
